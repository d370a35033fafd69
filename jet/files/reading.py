"""Import a file of any supported kind, and report what was lost.

The kind is detected from the content; the file extension only distinguishes kinds of text files. All sizes
are limited: an oversized or malicious file gets an error message.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from jet.files import novelai, sillytavern
from jet.files.cards import from_card, is_card
from jet.files.docx_reader import read_docx
from jet.files.encodings import Encoding, decode
from jet.files.losses import Losses
from jet.files.markup import Manuscript, compose
from jet.files.package import MAX_BYTES, open_zip, read_member
from jet.files.plain import load_foreign
from jet.files.png import MAX_TEXT, SIGNATURE, card_in_png
from jet.files.rtf import read_rtf
from jet.files.web import read_epub, read_html
from jet.story.document import Document
from jet.story.errors import StoryError, StoryFileError
from jet.story.files import from_markdown
from jet.story.format import FORMAT, from_dict, load
from jet.story.kobold import from_kobold, is_kobold
from jet.story.pieces import clean, normalize_file_line_breaks

MAX_STORIES = 500  # in one zip
TEXT_ENDINGS = (".txt", ".text", ".md", ".markdown", ".html", ".htm", ".xhtml")
JSON_ENDINGS = (".json", ".jsonl", ".lorebook", ".scenario", ".story", ".card")
ENDINGS = (".docx", ".epub", ".rtf", ".png", ".charx", ".zip", *TEXT_ENDINGS, *JSON_ENDINGS)

_Belongs = Callable[[dict[str, Any]], bool]
_Reader = Callable[[dict[str, Any], Losses], Document]

_WORD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PICTURES = (b"\xff\xd8\xff", b"GIF8", b"RIFF")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_KNOWN = "KoboldAI, NovelAI, SillyTavern, RisuAI or a character card"


@dataclass(frozen=True)
class Imported:
    """A file that was read.

    Attributes:
        name: the file's name.
        kind: a description for the writer, such as "NovelAI scenario".
        document: the story, with an empty undo history. The story of a lorebook has guidance and no text.
        losses: descriptions of what could not be imported, a few words each.
        encoding: the encoding of a text file; None for other files.
        certain: whether no other encoding is plausible.
        others: the other plausible encodings.
    """

    name: str
    kind: str
    document: Document
    losses: tuple[str, ...] = ()
    encoding: Encoding | None = None
    certain: bool = True
    others: tuple[Encoding, ...] = ()

    @property
    def only_guidance(self) -> bool:
        """Return whether the file has no text, so that at most its guidance can be imported."""
        return not self.document.text.strip()

    @property
    def asks(self) -> bool:
        """Return whether to ask the writer about losses or the encoding before the file is opened."""
        return bool(self.losses) or not self.certain


@dataclass(frozen=True)
class Refused:
    """A file that cannot be read; `why` is a sentence for the writer."""

    name: str
    why: str


def read(name: str, data: bytes, encoding: str = "") -> Imported:
    """Read a file of one story.

    Args:
        name: the file's name; its extension and stem are used.
        data: its bytes.
        encoding: the encoding that the writer has chosen for a text file; "" to detect it.

    Raises:
        StoryFileError: the file cannot be read; the message says why. No other error is raised.
    """
    path = PurePath(clean(name).replace("\\", "/"))
    if len(data) > MAX_BYTES:
        raise StoryFileError(
            f"This file has {len(data) / 1e6:,.1f} MB; {MAX_BYTES / 1e6:,.0f} MB are read at most."
        )
    losses = Losses()
    try:
        return _read(path, data, encoding, losses)
    except StoryFileError:
        raise
    except StoryError as error:  # too long a text, or an encoding that does not fit
        raise StoryFileError(str(error)) from None
    except (RecursionError, MemoryError):
        raise StoryFileError("This file is nested too deeply, or holds more than a story may have.") from None


def read_all(name: str, data: bytes, encoding: str = "") -> list[Imported | Refused]:
    """Read a file of one story, or each story of a zip.

    Raises no error. A file that cannot be read is returned as `Refused`.
    """
    try:
        if _is_zip_of_stories(data):
            return _members(data)
        return [read(name, data, encoding)]
    except StoryFileError as error:
        return [Refused(PurePath(name).name[:200], str(error))]


def _read(path: PurePath, data: bytes, encoding: str, losses: Losses) -> Imported:
    start = data[:8]
    if start == SIGNATURE:
        document, kind = _from_json(card_in_png(data), losses)
        losses.add("the picture itself")
        return Imported(path.name, f"{kind} in a picture", document, losses.told())
    if start.startswith(_ZIP):
        return _package(path, data, losses)
    if start.startswith(_PICTURES) and (start[:4] != b"RIFF" or data[8:12] == b"WEBP"):
        raise StoryFileError("This picture carries no character card: only PNG pictures do.")
    if start == _WORD:
        raise StoryFileError("This is a document of an old Word: save it as DOCX, and open that.")
    if start.startswith(b"%PDF"):
        raise StoryFileError("PDF files are not read: save the text as DOCX, EPUB or TXT, and open that.")
    if start.lstrip().startswith(b"{\\rtf"):
        return _book(path, "RTF document", read_rtf(data, losses), losses)
    return _text(path, data, encoding, losses)


def _book(path: PurePath, kind: str, read: tuple[Manuscript, str, str], losses: Losses) -> Imported:
    manuscript, title, author = read
    text = compose(manuscript)
    document = Document.from_text(text if manuscript.exact else normalize_file_line_breaks(text))
    document.title, document.author = title or path.stem, author
    return Imported(path.name, kind, document, losses.told())


def _package(path: PurePath, data: bytes, losses: Losses) -> Imported:
    with open_zip(data) as package:
        names = set(package.namelist())
        if "card.json" in names:
            text = read_member(package, "card.json", MAX_TEXT).decode("utf-8", "replace")
            losses.count("picture or sound", "pictures and sounds", len(names) - 1)
            document, kind = _from_json(text, losses)
            return Imported(path.name, kind, document, losses.told())
        kind = _package_kind(names, read_member(package, "mimetype", 200) if "mimetype" in names else b"")
    if kind == "docx":
        return _book(path, "Word document (DOCX)", read_docx(data, losses), losses)
    if kind == "epub":
        return _book(path, "EPUB book", read_epub(data, losses), losses)
    raise StoryFileError(
        "This zip holds no story that is known here. Stories are read from " + _listed() + "."
    )


def _package_kind(names: set[str], mimetype: bytes) -> str:
    if "word/document.xml" in names or "word/document2.xml" in names:
        return "docx"
    if b"opendocument" in mimetype:
        raise StoryFileError("OpenDocument files are not read: save it as DOCX, and open that.")
    if b"epub" in mimetype or "META-INF/container.xml" in names:
        return "epub"
    if any(name.startswith(("word/", "[Content_Types]")) for name in names):
        return "docx"
    return ""


def _text(path: PurePath, data: bytes, encoding: str, losses: Losses) -> Imported:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise StoryFileError(f"Stories are read from {_listed()}, not from {path.name[:80]!r}.")
    found = decode(data, encoding)
    text = found.text
    if ending in JSON_ENDINGS:
        document, kind = _from_json(text, losses)
        return Imported(path.name, kind, document, losses.told())
    if ending not in TEXT_ENDINGS:
        raise StoryFileError(f"This is no {ending[1:].upper()} file, or a damaged one.")
    if ending in (".html", ".htm", ".xhtml"):
        made = _book(path, "HTML page", read_html(text, losses), losses)
        document, kind = made.document, made.kind
    elif ending in (".md", ".markdown"):
        document, kind = from_markdown(normalize_file_line_breaks(text), path.stem), "Markdown text"
    else:
        document, kind = Document.from_text(normalize_file_line_breaks(text), path.stem), "plain text"
    return Imported(path.name, kind, document, losses.told(), found.encoding, found.certain, found.others)


def _from_json(text: str, losses: Losses) -> tuple[Document, str]:
    ours = f'"{FORMAT}"' in text[:400]
    if not ours and sillytavern.is_chat(text) and "\n" in text.strip():
        return sillytavern.from_chat(text, losses), "SillyTavern chat"
    plain = load(text) if ours else load_foreign(text)
    if not isinstance(plain, dict):
        raise StoryFileError(f"This JSON is no story: it is neither ours nor of {_KNOWN}.")
    if "format" in plain:
        return _ours(plain), "Jet Stories"
    for belongs, kind, read_it in _FORMATS:
        if belongs(plain):
            return read_it(plain, losses), kind
    raise StoryFileError(f"This JSON is no story: it is neither ours nor of {_KNOWN}.")


def _ours(plain: dict[str, Any]) -> Document:
    """Read a story that this program saved.

    Raises StoryFileError for a damaged story; the message names the wrong field.
    """
    try:
        return from_dict(plain)
    except StoryFileError as error:
        message = str(error)
        raise StoryFileError(
            message if message[0].isupper() else f"This story is damaged: {message}"
        ) from None


def _kobold(plain: dict[str, Any], losses: Losses) -> Document:
    remarks: list[str] = []
    document = from_kobold(plain, remarks)
    for remark in remarks:
        losses.add(remark)
    return document


def _has(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda plain: name in plain


_FORMATS: tuple[tuple[_Belongs, str, _Reader], ...] = (
    (is_kobold, "KoboldAI story", _kobold),
    (_has("storyContainerVersion"), "NovelAI story", novelai.from_story),
    (_has("scenarioVersion"), "NovelAI scenario", novelai.from_scenario),
    (_has("lorebookVersion"), "NovelAI lorebook", novelai.from_lorebook),
    (lambda plain: plain.get("spec") == "lorebook_v3", "lorebook", sillytavern.from_world_info),
    (lambda plain: plain.get("type") == "risu", "RisuAI lorebook", sillytavern.from_risu),
    (is_card, "character card", from_card),
    (_has("entries"), "SillyTavern world info", sillytavern.from_world_info),
    (sillytavern.is_message, "SillyTavern chat", sillytavern.from_message),
)  # fmt: skip


# --- many at once ----------------------------------------------------------------------------------------


def _is_zip_of_stories(data: bytes) -> bool:
    if not data.startswith(_ZIP):
        return False
    with open_zip(data) as package:
        names = set(package.namelist())
        mimetype = read_member(package, "mimetype", 200) if "mimetype" in names else b""
    return "card.json" not in names and not mimetype and not _package_kind(names, mimetype)


def _members(data: bytes) -> list[Imported | Refused]:
    found: list[Imported | Refused] = []
    with open_zip(data) as package:
        names = [name for name in package.namelist() if _is_wanted(name)]
        found.extend(_member(package, name) for name in names[:MAX_STORIES])
    if len(names) > MAX_STORIES:
        found.append(
            Refused("…", f"{len(names) - MAX_STORIES:,} further files: {MAX_STORIES} are read at most.")
        )
    return found or [Refused("zip", "This zip is empty.")]


def _member(package: zipfile.ZipFile, name: str) -> Imported | Refused:
    try:
        return read(name, read_member(package, name, MAX_BYTES))
    except StoryFileError as error:
        return Refused(PurePath(name).name[:200], str(error))


def _is_wanted(name: str) -> bool:
    parts = PurePath(name).parts
    return bool(parts) and not name.endswith("/") and not any(_is_hidden(part) for part in parts)


def _is_hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX")) and part != ".."


def _listed() -> str:
    return ", ".join(
        ending for ending in ENDINGS if ending not in (".text", ".markdown", ".htm", ".xhtml", ".card")
    )
