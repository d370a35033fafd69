"""Commands of the page: JSON objects whose field `type` names the command, parsed field by field."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from jet.story.errors import StoryError
from jet.story.format import read_lore
from jet.story.guidance import MAX_ORDER, AuthorsNote, Guidance, LoreEntry, NoteUnit
from jet.story.json_fields import Fields
from jet.story.pieces import clean
from jet.ui.deltas import apply_patch
from jet.ui.keywords import format_keywords, one_line, parse_keywords
from jet.ui.stop_strings import MAX_STOP_CHARACTERS, MAX_STOPS, parse_stop

Highlight = Literal["plain", "latest", "authorship", "confidence"]
MAX_LORE = 500
NO_GUIDANCE = Guidance()
MAX_GUIDANCE = 200_000  # characters of memory, of the note, and of each entry


@dataclass(frozen=True)
class Command:
    """A command of the page.

    Attributes:
        type: name of the command.
        fields: all other fields.
        highlight: how words are highlighted.
        tab: the open tab.
        number: repeated in the reply, so that the page can match it.
        story_known: whether the page expects its story to be in the server's memory.
    """

    type: str
    fields: Fields
    highlight: Highlight = "plain"
    tab: str = ""
    number: int = 0
    story_known: bool = False


def parse_command(command_text: object) -> Command:
    """Parse an untrusted command. Raises StoryError."""
    try:
        parsed = json.loads(command_text) if isinstance(command_text, str) else None
    except (ValueError, RecursionError):  # the latter for what is nested without end
        parsed = None
    fields = Fields(parsed, "the command")
    type = fields.take("type", str)
    highlight = fields.take("highlight", str) if fields.has("highlight") else "plain"
    tab = fields.take("tab", str) if fields.has("tab") else ""
    story_known = fields.take("known", bool) if fields.has("known") else False
    number = fields.take("n", int) if fields.has("n") else 0
    if highlight not in get_args(Highlight):
        raise StoryError("There is no such highlight.")
    return Command(type, fields, cast(Highlight, highlight), tab, number, story_known)


def parse_story(fields: Fields, current: str) -> str:
    """Return the editor's text: the command's text, or `current` with the command's edit applied.

    Returns `current` if the command has neither. Raises StoryError.
    """
    if fields.has("edit"):
        return apply_patch(current, fields.take_object("edit"))
    return fields.take("story", str) if fields.has("story") else current


def parse_stops(fields: Fields) -> tuple[str, ...]:
    """Parse the stop strings of a command; empty if the command has none. Raises StoryError."""
    if not fields.has("stops"):
        return ()
    lines = (text for text, _ in fields.take_items("stops") if isinstance(text, str) and text)
    stops = tuple(clean(parse_stop(line)) for line in lines)
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise StoryError(
            f"At most {MAX_STOPS} texts to stop at, please, of at most {MAX_STOP_CHARACTERS} characters."
        )
    return stops


def parse_guidance(fields: Fields, current: Guidance = NO_GUIDANCE) -> Guidance:
    """Parse the guidance tab's fields. Raises StoryError.

    Guidance that the tab does not show is taken from `current`.
    """
    memory, note = _take_limited(fields, "memory"), _take_limited(fields, "note")
    depth, unit = fields.take("depth", int), cast(NoteUnit, fields.take("unit", str))
    entries = list(fields.take_items("lore"))
    if len(entries) > MAX_LORE:
        raise StoryError(f"A lorebook can have {MAX_LORE} entries here.")
    lore: list[LoreEntry] = []
    for plain, where in entries:
        next_order = max((entry.order for entry in lore), default=-1) + 1
        lore.append(_parse_lore(Fields(plain, where), min(next_order, MAX_ORDER)))
    about = _take_limited(fields, "about").strip() if fields.has("about") else ""
    if about == one_line(current.about).strip():
        about = current.about
    return Guidance(memory, AuthorsNote(note, depth, unit), tuple(lore), about)


def parse_about(fields: Fields) -> str:
    """Parse the subject of a new story, for a chat model. Raises StoryError."""
    about = _take_limited(fields, "about").strip()
    if not about:
        raise StoryError("Say what the story is to be about.")
    return about


def parse_unfinished(fields: Fields) -> str:
    """Parse the incomplete sentence that an earlier generation cut off. Raises StoryError."""
    return clean(_take_limited(fields, "unfinished"))


def _parse_lore(entry: Fields, order: int) -> LoreEntry:
    """Parse a lore entry of the form.

    Fields that the form lacks come from the original entry, which the page sends along as `kept`. `order` is
    the order of a new entry.
    """
    base = LoreEntry(order=order)
    if entry.has("kept") and (kept := entry.take("kept", dict)):
        base = read_lore(Fields(kept, f"{entry.where}.kept"))
    given = _take_limited(entry, "keywords")
    same = given.strip() == one_line(format_keywords(base.keywords)).strip()
    return replace(
        base,
        title=_take_limited(entry, "title") if entry.has("title") else base.title,
        keywords=base.keywords if same else parse_keywords(given),
        content=_take_limited(entry, "content"),
        enabled=entry.take("enabled", bool),
        constant=entry.take("constant", bool),
    )


def _take_limited(fields: Fields, name: str) -> str:
    text = fields.take_text(name)
    if len(text) > MAX_GUIDANCE:
        raise StoryError(f"{name} can have {MAX_GUIDANCE:,} characters, and this has {len(text):,}.")
    return text
