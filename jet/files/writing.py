"""Write a story as a file for other programs, or with all branches as JSON."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jet.files.book import write_epub, write_html
from jet.files.docx_writer import write_docx
from jet.files.markup import parse
from jet.files.progress import Progress, silent
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.files import file_name, to_json, to_markdown, to_txt

_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"

Writer = Callable[[Document, Progress], bytes]


@dataclass(frozen=True)
class Written:
    """A finished file: its name, media type and bytes."""

    name: str
    data: bytes
    media_type: str


def write(document: Document, ending: str, progress: Progress = silent) -> Written:
    """Write the current branch as a file of a format; "json" is the whole story with all branches.

    Args:
        document: the story; it is not changed.
        ending: the file extension, one of `FORMATS`.
        progress: is called with the fraction that is done, from 0 to 1.

    Raises:
        StoryFileError: there is no such format, or a package that it needs is not installed.
    """
    if ending not in FORMATS:
        raise StoryFileError(f"Stories are not saved as {ending[:40]!r}.")
    media_type, writer = FORMATS[ending]
    data = writer(document, progress)
    progress(1.0)
    return Written(file_name(document, ending), data, media_type)


def write_all(documents: Iterable[Document], progress: Progress = silent) -> Written:
    """Write all stories as one zip of JSON files, which `reading.read_all` can read."""
    stories = list(documents)
    stream = io.BytesIO()
    used: set[str] = set()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as package:
        for number, document in enumerate(stories):
            package.writestr(_unused(file_name(document, "json"), used), to_json(document))
            progress((number + 1) / len(stories))
    return Written("stories.zip", stream.getvalue(), "application/zip")


def _unused(name: str, used: set[str]) -> str:
    stem, _, ending = name.rpartition(".")
    number = 1
    while name.casefold() in used:
        number += 1
        name = f"{stem}_{number}.{ending}"
    used.add(name.casefold())
    return name


def _docx(document: Document, progress: Progress) -> bytes:
    return write_docx(parse(document.text), document.title, document.author, progress)


def _epub(document: Document, progress: Progress) -> bytes:
    return write_epub(parse(document.text), document.title, document.author, progress)


def _html(document: Document, progress: Progress) -> bytes:
    return write_html(parse(document.text), document.title, document.author, progress).encode()


def _txt(document: Document, progress: Progress) -> bytes:
    text = to_txt(document)
    return (_BOM + text if text.startswith(_BOM) else text).encode()  # the first one is taken for a mark


def _md(document: Document, progress: Progress) -> bytes:
    return to_markdown(document).encode()


def _json(document: Document, progress: Progress) -> bytes:
    return to_json(document).encode()


_OFFICE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
FORMATS: dict[str, tuple[str, Writer]] = {
    "docx": (_OFFICE, _docx),
    "epub": ("application/epub+zip", _epub),
    "html": ("text/html", _html),
    "txt": ("text/plain", _txt),
    "md": ("text/markdown", _md),
    "json": ("application/json", _json),
}
