"""Evaluate the stories of a model: consistency with the opening, repetition, use of guidance, and endings.

    python -m jet.evaluate stories --model assets/story-model --held-out stories.txt --output evaluation.json

The model continues the page's twelve openings and twelve further frozen ones, with several seeds and the
page's default settings. The texts are judged by the rules of `jet.evaluate.measures`. A table is printed, and
figures and texts are written as JSON.

The file of `--held-out` has stories that the model has not been trained on, with a line `<|endoftext|>`
between them. Without it, bits per byte are not measured, and there are no figures of real stories to compare
with.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from jet.api import SamplingParams
from jet.engine.loading import LocalConfig, resolve_path
from jet.evaluate.compression import EvaluationError, evaluate, load, quickest_dtype, read_documents
from jet.evaluate.heeding import measure_heeding, to_rows
from jet.evaluate.judging import judge, non_words
from jet.evaluate.measures import Opening
from jet.evaluate.options import engine_of, make_parser, to_config, write_json
from jet.evaluate.probes import Probes, load_probes
from jet.evaluate.rows import Row, format_table, to_row
from jet.evaluate.spread import estimate
from jet.evaluate.writing import Task, Writer
from jet.hardware import DTYPES
from jet.story.guidance import AuthorsNote, Guidance
from jet.ui.presets import PRESETS


@dataclass(frozen=True)
class Plan:
    """The number and lengths of the generated stories.

    Attributes:
        seeds: the number of continuations of each opening.
        told_seeds: the number of continuations with each fact, note and lore entry.
        ending_seeds: the number of continuations of each opening with a note that asks for an ending, and the
            same number without a note.
        preset_seeds: the number of continuations of each opening with each of the other presets, to count
            non-words.
        words: the number of words of a continuation.
        ending_words: the number of words within which a story must end.
        openings: the number of openings for endings and for other presets.
    """

    seeds: int = 10
    told_seeds: int = 5
    ending_seeds: int = 2
    preset_seeds: int = 1
    words: int = 250
    ending_words: int = 600
    openings: int = 24


QUICK = Plan(seeds=1, told_seeds=1, ending_seeds=1, words=120, openings=6)

Texts = dict[str, list[dict[str, Any]]]


def evaluate_storyteller(
    writer: Writer, plan: Plan, probes: Probes, held_out: Sequence[str] = ()
) -> tuple[list[Row], Texts]:
    """Generate and judge all stories; return the rows, and the texts by part of the evaluation."""
    written = write_openings(writer, probes.openings, plan, SamplingParams())
    rows = judge(written, probes, held_out)
    some = spread_over(probes.openings, plan.openings)
    texts: Texts = {"openings": _to_texts(written)}
    for name, preset in PRESETS.items():
        if name != "balanced":  # the page's default, above
            other = write_openings(writer, some, replace(plan, seeds=plan.preset_seeds), preset)
            rows.append(non_words(f"… at the preset {name}", other))
            texts[f"preset {name}"] = _to_texts(other)
    told = [probe for probe in probes.told if probe.field != "about"]
    heeding = measure_heeding(writer, told, plan.told_seeds, plan.words)
    texts["told"] = [
        {"told": probe.id, "seed": seed, "text": text, "taken up": shown}
        for probe, stories in heeding.texts.items()
        for seed, (text, shown) in enumerate(zip(stories, heeding.told[probe], strict=True))
    ]
    ending, texts["endings"] = measure_endings(writer, some, plan, probes.endings)
    return [*rows, *to_rows(heeding), ending], texts


def spread_over(openings: Sequence[Opening], number: int) -> list[Opening]:
    """Return `number` of the openings at even distances, or all if there are fewer."""
    number = min(number, len(openings))
    return [openings[index * len(openings) // number] for index in range(number)]


def write_openings(
    writer: Writer, openings: Iterable[Opening], plan: Plan, sampling: SamplingParams
) -> dict[Opening, list[str]]:
    """Generate continuations of openings with seeds 0 to `plan.seeds` - 1; return opening → texts."""
    tasks = {
        opening: [Task(opening.text, seed, plan.words, sampling=sampling) for seed in range(plan.seeds)]
        for opening in openings
    }
    found = writer.write([task for some in tasks.values() for task in some], "openings")
    return {opening: [found[task].text for task in some] for opening, some in tasks.items()}


def measure_endings(
    writer: Writer, openings: Sequence[Opening], plan: Plan, notes: Sequence[str]
) -> tuple[Row, list[dict[str, Any]]]:
    """Measure how often a story ends with an author's note that asks for an ending, and without a note.

    The notes are used in turn. A story counts as ended if the model generates its end-of-text token within
    `plan.ending_words` words. Returns the row of figures, and all texts.
    """
    asked: dict[str, list[Task]] = {}
    for number, opening in enumerate(openings):
        guidance = Guidance(note=AuthorsNote(notes[number % len(notes)]))
        asked[opening.id] = [
            Task(opening.text, seed, plan.ending_words, guidance) for seed in range(plan.ending_seeds)
        ]
    untold = {name: [replace(task, guidance=Guidance()) for task in some] for name, some in asked.items()}
    tasks = [task for group in (asked, untold) for some in group.values() for task in some]
    written = writer.write(tasks, "endings")
    found, control = (
        estimate({name: [float(written[task].ended) for task in some] for name, some in group.items()})
        for group in (asked, untold)
    )
    texts = [
        {"note": task.guidance.note.text, "seed": task.seed, "opening": task.opening, **asdict(written[task])}
        for task in tasks
    ]
    return to_row(f"ends within {plan.ending_words} words when asked to", found, control), texts


def _to_texts(written: Mapping[Opening, Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {"opening": opening.id, "seed": seed, "text": text}
        for opening, texts in written.items()
        for seed, text in enumerate(texts)
    ]


def _bits_per_byte(config: LocalConfig, documents: list[str]) -> Row:
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = quickest_dtype(device) if config.dtype == "auto" else DTYPES[config.dtype]
    source = resolve_path(str(config.model))
    score = evaluate(*load(source, device, dtype, config.quantize), documents)
    return Row("bits per byte", score.bits_per_byte, stories=score.documents, unit="", digits=4)


def parse_arguments(arguments: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=Plan.seeds, help="stories per opening (default: 10)")
    parser.add_argument("--held-out", type=Path, help="stories that the model was not trained on")
    parser.add_argument("--output", type=Path, default=Path("evaluation.json"), help="of figures and texts")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and write the JSON. Returns the exit code, 2 if nothing can be measured."""
    options = parse_arguments(arguments)
    started = time.monotonic()
    plan = QUICK if options.quick else replace(Plan(), seeds=options.seeds)
    config = to_config(options)
    try:
        documents = [] if options.held_out is None else read_documents(options.held_out)
        with engine_of(config) as engine:
            rows, texts = evaluate_storyteller(Writer(engine), plan, load_probes(), documents)
            info = engine.info()
        result = {
            "model": options.model,
            "quantization": info.quantization,
            "device": info.device,
            "dtype": info.dtype,
            "plan": asdict(plan),
            "seconds": round(time.monotonic() - started),
            "rows": [asdict(row) for row in rows],
            "texts": texts,
        }
        write_json(options.output, result)
        if documents:  # takes minutes on a CPU, and what was written is safe by then
            rows.append(_bits_per_byte(config, documents))
            write_json(options.output, result | {"rows": [asdict(row) for row in rows]})
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_table(rows))
    print(f"{options.model}, {result['seconds']} s; figures and texts are in {options.output}")
    return 0
