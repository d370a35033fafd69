"""Export and import stories as plain text, Markdown and this program's JSON; import saves of KoboldAI.

Plain text and Markdown hold the branch on the page; JSON holds everything (see `format.py`). Input is UTF-8;
line breaks of any system become "\\n", as in a text box.
"""

from __future__ import annotations

import re
import unicodedata

from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.format import from_dict, load
from jet.story.kobold import from_kobold, is_kobold
from jet.story.matching import words
from jet.story.shrink import BoundedStory, shrink

MAX_BYTES = 20_000_000
BROWSER_BYTES = 2_000_000  # browsers keep about five million UTF-16 units, which all stories share
UNTITLED = "Untitled story"

MAX_FILE_NAME = 60  # characters, without the ending

_DEVICES = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)\Z", re.IGNORECASE)  # what Windows calls its own
_HEADING = re.compile(r"# ([^\n]*)\n(?:\n|\Z)")


def to_txt(document: Document) -> str:
    """Export the text on the page as it is."""
    return document.text


def to_markdown(document: Document) -> str:
    """Export the title as a heading, an empty line, and the text on the page as it is."""
    return f"# {document.title or UNTITLED}\n\n{document.text}"


def to_json(document: Document) -> str:
    """Export the whole document.

    If the JSON is larger than `MAX_BYTES`, parts are dropped in this order: alternatives of tokens, tokens,
    and the guidance of spans, each from the oldest span on. Text and branches are never dropped. Raises
    StoryFileError if that is not enough.
    """
    saved = shrink(document, MAX_BYTES, keep_branches=True)
    if not saved.fits:
        raise StoryFileError(f"This story is larger than {_megabytes(MAX_BYTES)}: prune branches first.")
    return saved.text


def to_browser(document: Document, limit: int = BROWSER_BYTES) -> BoundedStory:
    """Encode the document for the browser's storage, in at most `limit` bytes where possible.

    `from_json` reads the result, which always has the whole text on the page.
    """
    return shrink(document, limit)


def from_markdown(text: str, title: str = "") -> Document:
    """Import Markdown. A first-level heading on the first line is the title; without one, `title` is."""
    heading = _HEADING.match(text)
    if heading is None:
        return Document.from_text(text, title)
    found = heading.group(1)
    return Document.from_text(text[heading.end() :], "" if found == UNTITLED else found)


def from_json(text: str, remarks: list[str] | None = None) -> Document:
    """Import a story from this program's JSON or KoboldAI's. Raises StoryFileError for any other text.

    Appends to `remarks` a message for each part of a KoboldAI story that cannot be imported.
    """
    plain = load(text)
    if isinstance(plain, dict) and is_kobold(plain):
        return from_kobold(plain, [] if remarks is None else remarks)
    return from_dict(plain)


def file_name(document: Document, ending: str) -> str:
    """Return a file name from the title that every system accepts, such as "The_Tower.json".

    `ending`: the file name's extension without the dot.
    """
    name = "_".join(words(unicodedata.normalize("NFC", document.title)))
    if len(name) > MAX_FILE_NAME:
        end = MAX_FILE_NAME
        while end and unicodedata.category(name[end])[0] == "M":  # a mark stays with its letter
            end -= 1
        name = name[:end].rstrip("_")
    return f"{name or 'story'}{'_story' if _DEVICES.match(name) else ''}.{ending}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
