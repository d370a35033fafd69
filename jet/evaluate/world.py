"""Measure whether a model uses memory, author's note and lore, by stories with and without each fact.

    python -m jet.evaluate world --model assets/story-model

Stories are written from the frozen openings with each frozen fact, note and lore entry, and without it, with
the same seeds and the page's default settings. A model with a chat template also writes stories about given
subjects.

The table is printed, and a small record is kept in the cache folder, where the page finds it for as long as
the checkpoint's contents are the same. With `--beside`, the record is kept in the checkpoint's own folder.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from jet.engine import heeds
from jet.engine.heeds import FIELDS, Heed, Heeds, Rate
from jet.engine.loading import resolve_path
from jet.evaluate.compression import EvaluationError
from jet.evaluate.heeding import Heeding, difference, estimates, measure_heeding, to_rows
from jet.evaluate.options import engine_of, make_parser, to_config
from jet.evaluate.probes import load_probes
from jet.evaluate.rows import format_table
from jet.evaluate.writing import Writer
from jet.ui.heeds import describe

SEEDS, WORDS = 5, 250
QUICK_SEEDS, QUICK_WORDS = 1, 120


def to_heeds(checkpoint: str, heeding: Heeding) -> Heeds:
    """Return the record of the measured rates; `checkpoint` identifies the checkpoint's contents."""
    fields: dict[str, Heed] = {}
    for name in FIELDS:
        found, gain = estimates(heeding, name), difference(heeding, name)
        if found is None or gain is None:
            continue
        kinds = list(dict.fromkeys(probe.kind for probe in heeding.told if probe.field == name))
        rates = {kind: _rate(heeding, name, kind) for kind in kinds} if len(kinds) > 1 else {}
        fields[name] = Heed(_rate(heeding, name), gain.low, gain.high, gain.stories, rates)
    return Heeds(checkpoint, fields)


def _rate(heeding: Heeding, name: str, kind: str | None = None) -> Rate:
    found = estimates(heeding, name, kind)
    assert found is not None  # the kind is one of a probe of this field
    return Rate(round(found[0].mean, 4), round(found[1].mean, 4))


def parse_arguments(arguments: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="stories of each told thing (default: 5)")
    parser.add_argument("--beside", action="store_true", help="keep the record in the checkpoint's folder")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and keep the record. Returns the exit code, 2 if nothing can be measured.

    With `--quick`, no record is kept.
    """
    options = parse_arguments(arguments)
    folder = Path(resolve_path(options.model))
    seeds, words = (QUICK_SEEDS, QUICK_WORDS) if options.quick else (options.seeds, WORDS)
    try:
        if options.beside and not folder.is_dir():
            raise EvaluationError(f"{options.model} is no folder, so nothing can be kept beside it.")
        with engine_of(to_config(options)) as engine:
            info = engine.info()
            told = [one for one in load_probes().told if one.field != "about" or info.chat_tokens is not None]
            heeding = measure_heeding(Writer(engine), told, seeds, words)
        if info.checkpoint is None:
            raise EvaluationError(f"The files of {options.model} cannot be read again.")
        record = to_heeds(info.checkpoint, heeding)
        path = folder / heeds.BESIDE if options.beside else heeds.cached_path(info.checkpoint)
        if not options.quick:
            heeds.write(record, path, model=options.model, seeds=seeds, words=words)
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the record cannot be kept: {error}", file=sys.stderr)
        return 2
    print(format_table(to_rows(heeding)))
    for name, heed in record.fields.items():
        if name != "about":
            print(f"The page says at {name}: {describe(name, heed)}")
    print("A quick look: no record is kept." if options.quick else f"The record is kept in {path}")
    return 0
