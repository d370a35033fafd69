"""Stories out to files and in again: plain text, markdown, our JSON, and what KoboldAI saves.

Plain text and markdown carry the branch on the page; JSON carries everything (see `encoding.py`). What is
read is UTF-8; line breaks of any system become "\\n", which is what a text box makes of them anyway.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from jet.story.document import Document
from jet.story.encoding import from_plain, load
from jet.story.fields import TOP, Fields, StoryFileError, items
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from jet.story.shrink import Copy, shrink
from jet.story.spans import StoryError

MAX_BYTES = 20_000_000
BROWSER_BYTES = 2_000_000  # browsers keep about five million UTF-16 units, which all stories share
UNTITLED = "Untitled story"

_HEADING = re.compile(r"# ([^\n]*)\n(?:\n|\Z)")


def to_txt(document: Document) -> str:
    """The text on the page, as it is."""
    return document.text


def to_markdown(document: Document) -> str:
    """The title as a heading, an empty line, and the text on the page, as it is."""
    return f"# {document.title or UNTITLED}\n\n{document.text}"


def to_json(document: Document) -> str:
    """The whole document.

    Should it be larger than a file may be (`MAX_BYTES`), the model's alternatives go first, the oldest ahead,
    and then its tokens; text and branches never do. Raises StoryFileError if that is not enough.
    """
    copy = shrink(document, MAX_BYTES, keep_branches=True)
    if not copy.fits:
        raise StoryFileError(f"This story is larger than {_megabytes(MAX_BYTES)}: prune branches first.")
    return copy.text


def to_browser(document: Document, limit: int = BROWSER_BYTES) -> Copy:
    """The JSON that the browser keeps, with what had to be left out of it to stay below `limit` bytes.

    `from_json` reads it. The text on the page is whole in any case.
    """
    return shrink(document, limit)


def read_file(name: str, data: bytes) -> Document:
    """The document in a file: .txt, .md, .markdown or .json, by the ending of its name.

    Raises:
        StoryFileError: it cannot be read; the message says why. Nothing else is raised.
    """
    path = PurePath(name)
    ending = path.suffix.lower()
    if ending not in (".txt", ".md", ".markdown", ".json"):
        raise StoryFileError(f"Stories are read from .txt, .md and .json files, not from {path.name[:80]!r}.")
    text = _decoded(data)
    try:
        if ending == ".json":
            return from_json(text)
        text = _with_our_breaks(text)
        return from_markdown(text, path.stem) if ending != ".txt" else Document.from_text(text, path.stem)
    except StoryFileError:
        raise
    except StoryError as error:  # too long a text
        raise StoryFileError(str(error)) from None


def from_markdown(text: str, title: str = "") -> Document:
    """A document from markdown. A heading of the first level on the first line is the title."""
    heading = _HEADING.match(text)
    if heading is None:
        return Document.from_text(text, title)
    found = heading.group(1)
    return Document.from_text(text[heading.end() :], "" if found == UNTITLED else found)


def from_json(text: str) -> Document:
    """A document from our JSON, or from KoboldAI's. Raises StoryFileError."""
    plain = load(text)
    if isinstance(plain, dict) and "format" not in plain and {"prompt", "actions"} <= plain.keys():
        return _from_kobold(plain)
    return from_plain(plain)


def file_name(document: Document, ending: str) -> str:
    """A name for a file to save under, which every system takes: "The_Tower.json". `ending` has no dot."""
    words = re.findall(r"\w+", document.title)
    return f"{'_'.join(words)[:60] or 'story'}.{ending}"


def _decoded(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise StoryFileError(
            f"This file has {_megabytes(len(data))}; a story can have {_megabytes(MAX_BYTES)}."
        )
    if b"\0" in data:
        at = data.index(b"\0")
        raise StoryFileError(f"This is not a text file in UTF-8: it has a NUL byte at position {at:,}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StoryFileError(
            f"This is not a text file in UTF-8: byte {error.start:,} is {data[error.start]:#04x}."
        ) from None


def _from_kobold(plain: dict[str, Any]) -> Document:
    """The text is `prompt` and `actions` in a row; of all the settings, only guidance is taken over."""
    story = Fields(plain, TOP)
    text = story.take_text("prompt")
    for action, where in story.take_items("actions"):
        if not isinstance(action, str):
            raise StoryFileError(f"{where} must be text.")
        text += action
    memory = story.take_text("memory") if story.has("memory") else ""
    note = story.take_text("authorsnote") if story.has("authorsnote") else ""
    world = story.take_or_null("worldinfo", list) if story.has("worldinfo") else None
    lore = tuple(_kobold_lore(*item) for item in items(world or [], "worldinfo"))
    document = Document.from_text(_with_our_breaks(text))
    document.guidance = Guidance(memory, AuthorsNote(note), lore)
    return document


def _kobold_lore(plain: object, where: str) -> LoreEntry:
    entry = Fields(plain, where)
    keywords = tuple(word.strip() for word in entry.take_text("key").split(",") if word.strip())
    constant = entry.take("constant", bool) if entry.has("constant") else False
    return LoreEntry(keywords=keywords, content=entry.take_text("content"), constant=constant)


def _with_our_breaks(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
