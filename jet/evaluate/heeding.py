"""Measure whether stories use facts from memory, note, lore or subject, against stories without the fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from jet.engine.heeds import FIELDS
from jet.evaluate.probes import Probe
from jet.evaluate.rows import Row, to_row
from jet.evaluate.spread import Estimate, estimate
from jet.evaluate.writing import Continuation, Task, Writer


@dataclass(frozen=True)
class Heeding:
    """Results by probe: whether stories with the probe's fact, and stories without it, show the fact.

    Attributes:
        told: for each probe, whether the story of each seed shows the given fact.
        control: for each probe, whether stories without the fact show it. For a subject, these are the
            stories about the other subjects.
        texts: for each probe, the stories with the fact.
    """

    told: dict[Probe, list[bool]]
    control: dict[Probe, list[bool]]
    texts: dict[Probe, list[str]]


def measure_heeding(writer: Writer, told: Sequence[Probe], seeds: int, words: int) -> Heeding:
    """Generate stories with and without the fact of each probe, with the same seeds, and judge both.

    Args:
        writer: generates the stories.
        told: the probes.
        seeds: the number of stories with each fact.
        words: the number of words of a story.
    """
    with_it = {
        probe: [Task(probe.opening.text, seed, words, probe.guidance()) for seed in range(seeds)]
        for probe in told
    }
    without = {
        probe: [Task(probe.opening.text, seed, words) for seed in range(seeds)]
        for probe in told
        if probe.field != "about"
    }
    tasks = [task for group in (with_it, without) for some in group.values() for task in some]
    written = writer.write(tasks, "told and not told")
    texts = {probe: [written[task].text for task in some] for probe, some in with_it.items()}
    control = {
        probe: [probe.shows_in(text) for text in _untold(probe, without, written, texts)] for probe in told
    }
    return Heeding({probe: [probe.shows_in(t) for t in texts[probe]] for probe in told}, control, texts)


def _untold(
    probe: Probe,
    without: Mapping[Probe, Sequence[Task]],
    written: Mapping[Task, Continuation],
    texts: Mapping[Probe, Sequence[str]],
) -> list[str]:
    if probe in without:
        return [written[task].text for task in without[probe]]
    others = (some for other, some in texts.items() if other.field == probe.field and other != probe)
    return [text for some in others for text in some]


def estimates(heeding: Heeding, name: str, kind: str | None = None) -> tuple[Estimate, Estimate] | None:
    """Estimate how often stories show the facts of a field: with the fact given, and without.

    `kind`: count probes of this kind only. Returns None if there is no such probe.
    """
    chosen = [probe for probe in heeding.told if probe.field == name and kind in (None, probe.kind)]
    told, control = (
        estimate({probe.id: [float(shown) for shown in group[probe]] for probe in chosen})
        for group in (heeding.told, heeding.control)
    )
    return None if told is None or control is None else (told, control)


def difference(heeding: Heeding, name: str) -> Estimate | None:
    """Estimate by how much stories with a fact of the field show it more often than stories without the fact.

    Returns None if there is no probe of the field.
    """
    chosen = [probe for probe in heeding.told if probe.field == name]
    return estimate(
        {
            probe.id: [told - fmean(heeding.control[probe]) for told in heeding.told[probe]]
            for probe in chosen
            if heeding.control[probe]
        }
    )


LABELS = {"memory": "memory", "note": "author's note", "lore": "lore entry", "about": "subject"}


def to_rows(heeding: Heeding) -> list[Row]:
    """Return a row for each field and, if a field has several kinds of facts, for each kind."""
    rows = []
    for name in FIELDS:
        kinds = list(dict.fromkeys(probe.kind for probe in heeding.told if probe.field == name))
        for kind in [None, *(kinds if len(kinds) > 1 else [])]:
            if (found := estimates(heeding, name, kind)) is not None:
                label = f"{LABELS[name]} taken up" if kind is None else f"… {kind}"
                rows.append(to_row(label, *found))
    return rows
