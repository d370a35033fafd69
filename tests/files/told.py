"""Summarize an imported file, short enough for an expectation."""

from __future__ import annotations

from typing import Any

from jet.files.reading import Imported
from jet.story.guidance import LoreEntry

DEFAULT = LoreEntry()


def told(imported: Imported) -> dict[str, Any]:
    """Return what was read of a file, with beginning and length of each text, without empty fields."""
    document = imported.document
    note = document.guidance.note
    found = {
        "kind": imported.kind,
        "title": document.title,
        "author": document.author,
        "text": short(document.text),
        "branches": [short(branch.text) for branch in document.tree.branches.values()][1:],
        "memory": short(document.guidance.memory),
        "note": [short(note.text), note.depth, note.unit] if note.text else [],
        "lore": [entry(one) for one in document.guidance.lore],
        "stops": list(document.stops),
        "lost": list(imported.losses),
        "encoding": imported.encoding.name if imported.encoding else "",
    }
    return {name: value for name, value in found.items() if value}


def entry(lore: LoreEntry) -> dict[str, Any]:
    """Return a lore entry as a dict, without the fields that have their default values."""
    plain = {name: getattr(lore, name) for name in DEFAULT.__dataclass_fields__}
    different = {name: value for name, value in plain.items() if value != getattr(DEFAULT, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in different.items()} | {
        "content": short(lore.content)
    }


def short(text: str) -> str:
    """Return a text; if it has more than 40 characters, return its beginning and its length."""
    return f"{text[:30]} ({len(text)})" if len(text) > 40 else text
