"""Load the frozen openings, facts, notes and lore for evaluations from `probes.json`.

These texts were written before any model was trained or judged with them. They must not be changed, so that
figures of different models can be compared. They must not be used for training.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jet.engine.heeds import FIELDS
from jet.evaluate.measures import Opening, count_matches
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry

PROBES = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Probe:
    """A fact that is given to the model beside a story, and the test whether the story uses it.

    Attributes:
        field: the guidance field of the fact: "memory", "note", "lore" or "about".
        kind: the kind of fact, such as a name in memory or the weather in a note.
        opening: the opening of the story; its text is empty for "about".
        text: the fact.
        found: patterns of words that show the fact.
        least: the least number of such words in a story that uses the fact.
        keywords: the keywords of a lore entry, one of which is in the opening.
    """

    field: str
    kind: str
    opening: Opening
    text: str
    found: tuple[str, ...]
    least: int = 1
    keywords: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Return the probe's name in tables."""
        return f"{self.field}: {self.text}"

    def guidance(self) -> Guidance:
        """Return the guidance with the fact, as the page's fields would give it."""
        if self.field == "memory":
            return Guidance(memory=self.text)
        if self.field == "note":
            return Guidance(note=AuthorsNote(self.text))
        if self.field == "lore":
            return Guidance(lore=(LoreEntry(keywords=self.keywords, content=self.text),))
        return Guidance(about=self.text)

    def shows_in(self, continuation: str) -> bool:
        """Return whether a continuation shows the fact. The opening's words are not searched."""
        return count_matches(self.found, continuation) >= self.least


@dataclass(frozen=True)
class Probes:
    """The openings and facts for all evaluations.

    Attributes:
        openings: the page's twelve, then twelve further ones.
        told: facts in memory, notes, lore entries, and subjects for chat models.
        endings: notes that ask for an ending.
        stock_phrases: patterns of phrases that language models write in every story.
    """

    openings: tuple[Opening, ...]
    told: tuple[Probe, ...]
    endings: tuple[str, ...]
    stock_phrases: tuple[str, ...] = field(repr=False)

    def of_field(self, name: str) -> list[Probe]:
        """Return the probes of one field."""
        return [probe for probe in self.told if probe.field == name]


@cache
def load_probes() -> Probes:
    """Load the frozen probes."""
    plain = json.loads(PROBES.read_text(encoding="utf-8"))
    openings = tuple(_to_opening(one) for one in plain["page_openings"] + plain["further_openings"])
    by_id = {"": Opening("", "")} | {opening.id: opening for opening in openings}
    names = {"memory": "facts", "note": "notes", "lore": "lore", "about": "about"}
    told = [_to_probe(name, one, by_id) for name in FIELDS for one in plain[names[name]]]
    return Probes(openings, tuple(told), tuple(plain["endings"]), tuple(plain["stock_phrases"]))


def _to_opening(plain: dict[str, Any]) -> Opening:
    return Opening(**{**plain, "names": tuple(plain.get("names", ()))})


def _to_probe(name: str, plain: dict[str, Any], openings: dict[str, Opening]) -> Probe:
    sequences: dict[str, Sequence[str]] = {key: plain.get(key, ()) for key in ("found", "keywords")}
    return Probe(
        name,
        plain["kind"],
        openings[plain["opening"]],
        plain["text"],
        tuple(sequences["found"]),
        plain["least"],
        tuple(sequences["keywords"]),
    )
