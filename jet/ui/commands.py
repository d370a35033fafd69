"""What page.js asks for: a JSON object whose field `do` says what, read field by field."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from jet.story.errors import StoryError
from jet.story.format import read_lore
from jet.story.guidance import MAX_ORDER, AuthorsNote, Guidance, LoreEntry, NoteUnit
from jet.story.json_fields import Fields
from jet.story.pieces import clean
from jet.ui.deltas import patched
from jet.ui.keywords import one_line, read_keywords, shown_keywords
from jet.ui.stop_strings import MAX_STOP_CHARACTERS, MAX_STOPS, typed

Tint = Literal["plain", "whose", "doubt"]
MAX_LORE = 500
NO_GUIDANCE = Guidance()
MAX_GUIDANCE = 200_000  # characters of memory, of the note, and of each entry


@dataclass(frozen=True)
class Order:
    """One order.

    Attributes:
        do: what is to be done.
        fields: what else belongs to it.
        tint: how the sheet is to be painted.
        drawer: which drawer is open below the sheet.
        number: what the answer names, so that the page knows what it answers.
        known: whether the page has reason to think that its story is in memory here.
    """

    do: str
    fields: Fields
    tint: Tint = "plain"
    drawer: str = ""
    number: int = 0
    known: bool = False


def read_order(text: object) -> Order:
    """An order from untrusted text. Raises StoryError."""
    try:
        plain = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):  # the latter for what is nested without end
        plain = None
    fields = Fields(plain, "the order")
    do = fields.take("do", str)
    tint = fields.take("tint", str) if fields.has("tint") else "plain"
    drawer = fields.take("drawer", str) if fields.has("drawer") else ""
    known = fields.take("known", bool) if fields.has("known") else False
    number = fields.take("n", int) if fields.has("n") else 0
    if tint not in get_args(Tint):
        raise StoryError("The sheet cannot be painted like that.")
    return Order(do, fields, cast(Tint, tint), drawer, number, known)


def read_story(fields: Fields, here: str) -> str:
    """The text on the page: the order's own, or `here` with the changes it names. Raises StoryError."""
    if fields.has("edit"):
        return patched(here, fields.take_object("edit"))
    return fields.take("story", str) if fields.has("story") else here


def read_stops(fields: Fields) -> tuple[str, ...]:
    """The stop strings of an order, none if it has none. Raises StoryError."""
    if not fields.has("stops"):
        return ()
    lines = (text for text, _ in fields.take_items("stops") if isinstance(text, str) and text)
    stops = tuple(clean(typed(line)) for line in lines)
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise StoryError(
            f"At most {MAX_STOPS} texts to stop at, please, of at most {MAX_STOP_CHARACTERS} characters."
        )
    return stops


def read_guidance(fields: Fields, now: Guidance = NO_GUIDANCE) -> Guidance:
    """What the guidance drawer holds; what it cannot show stays as it is `now`. Raises StoryError."""
    memory, note = _short(fields, "memory"), _short(fields, "note")
    depth, unit = fields.take("depth", int), cast(NoteUnit, fields.take("unit", str))
    entries = list(fields.take_items("lore"))
    if len(entries) > MAX_LORE:
        raise StoryError(f"A lorebook can have {MAX_LORE} entries here.")
    lore: list[LoreEntry] = []
    for plain, where in entries:
        behind = max((entry.order for entry in lore), default=-1) + 1
        lore.append(_lore(Fields(plain, where), min(behind, MAX_ORDER)))
    about = _short(fields, "about").strip() if fields.has("about") else ""
    if about == one_line(now.about).strip():
        about = now.about
    return Guidance(memory, AuthorsNote(note, depth, unit), tuple(lore), about)


def read_about(fields: Fields) -> str:
    """What a chat model is asked to write about. Raises StoryError."""
    about = _short(fields, "about").strip()
    if not about:
        raise StoryError("Say what the story is to be about.")
    return about


def _lore(entry: Fields, order: int) -> LoreEntry:
    """One entry of the form. It may carry along the whole entry that it was made from."""
    base = LoreEntry(order=order)
    if entry.has("kept") and (kept := entry.take("kept", dict)):
        base = read_lore(Fields(kept, f"{entry.where}.kept"))
    given = _short(entry, "keywords")
    same = given.strip() == one_line(shown_keywords(base.keywords)).strip()
    return replace(
        base,
        title=_short(entry, "title") if entry.has("title") else base.title,
        keywords=base.keywords if same else read_keywords(given),
        content=_short(entry, "content"),
        enabled=entry.take("enabled", bool),
        constant=entry.take("constant", bool),
    )


def _short(fields: Fields, name: str) -> str:
    text = fields.take_text(name)
    if len(text) > MAX_GUIDANCE:
        raise StoryError(f"{name} can have {MAX_GUIDANCE:,} characters, and this has {len(text):,}.")
    return text
