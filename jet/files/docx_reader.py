"""Read DOCX files of any word processor with python-docx."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

from jet.files.docx_writer import CHAPTER, CLOSE, CONTROL, GAP, LINED, LINED_CONTROL, SCENE, TEXT, library
from jet.files.html_tokens import elements, text_of_element
from jet.files.losses import Losses
from jet.files.markup import Block, Manuscript, Run, free_block, spaced
from jet.files.package import MAX_MEMBER, open_zip, read_member
from jet.files.whitespace import tidy_runs, without_signs
from jet.story.errors import StoryFileError

MAX_XML = 30_000_000  # bytes of all XML in the file
MAX_PROPERTIES = 1_000_000  # bytes
MAX_TAGS = 1_200_000
MAX_DEPTH = 60  # of text within tables, changes and links

Paragraph = tuple[str, tuple[tuple[Run, ...], ...]]

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_OFF = ("0", "false", "off", "none")
_AROUND = {
    f"{_W}{tag}"
    for tag in [
        "hyperlink",
        "ins",
        "smartTag",
        "sdt",
        "sdtContent",
        "fldSimple",
        "moveTo",
        "customXml",
        "bdo",
        "dir",
    ]
}
_GONE = {f"{_W}{tag}" for tag in ("del", "moveFrom")}
_LOST = {
    "drawing": ("picture", "pictures"), "pict": ("picture", "pictures"), "object": ("object", "objects"),
    "footnoteReference": ("footnote", "footnotes"), "endnoteReference": ("endnote", "endnotes"),
    "commentReference": ("comment", "comments"), "AlternateContent": ("picture", "pictures"),
    "oMath": ("formula", "formulas"), "oMathPara": ("formula", "formulas"),
}  # fmt: skip
_SIGNS = {
    "tab": "\t",
    "ptab": "\t",
    "noBreakHyphen": "\N{NON-BREAKING HYPHEN}",
    "softHyphen": "\N{SOFT HYPHEN}",
}


def read_docx(data: bytes, losses: Losses) -> tuple[Manuscript, str, str]:
    """Read a DOCX file: its text, title and author.

    Raises StoryFileError if the file is no DOCX file, is damaged, or is too large for a story.
    """
    with open_zip(data) as package:
        _check(package)
        title, author = _properties(package)
    docx = library()
    try:
        document = docx.Document(io.BytesIO(data))
        manuscript, named = _Reader(document, losses).manuscript()
    except StoryFileError:
        raise
    except Exception as error:  # whatever a damaged package makes its parser raise
        name = type(error).__name__
        raise StoryFileError(f"This DOCX file is damaged and cannot be read ({name}).") from None
    return manuscript, title or " ".join(named.split()), author


def _properties(package: zipfile.ZipFile) -> tuple[str, str]:
    """Return title and author.

    Reads the XML itself, since python-docx finds them only in the files of some programs.
    """
    name = next((name for name in package.namelist() if name.lower() == "docprops/core.xml"), "")
    row = elements(read_member(package, name, MAX_PROPERTIES).decode("utf-8", "replace")) if name else []
    author = text_of_element(row, "creator")
    return text_of_element(row, "title"), "" if author == "python-docx" else author


def _check(package: zipfile.ZipFile) -> None:
    """Raise StoryFileError if the package's XML is too large to be parsed, or defines entities."""
    size = tags = 0
    for member in package.infolist():
        if member.filename.lower().endswith((".xml", ".rels")):
            text = read_member(package, member.filename, MAX_MEMBER)
            size, tags = size + len(text), tags + text.count(b"<") + text.count(b"=") // 2
            if size > MAX_XML or tags > MAX_TAGS:
                raise StoryFileError("This file holds more than a story may have.")
            if b"<!DOCTYPE" in text[:4096] or b"<!ENTITY" in text:
                raise StoryFileError("This file defines entities of its own, which are not read.")


class _Reader:
    """Reads a document's body in order. The paragraphs of a table are read cell by cell."""

    def __init__(self, document: Any, losses: Losses) -> None:
        self._body = document.element.body
        self._styles = {style.style_id: style for style in document.styles}
        self._names = {style_id: str(style.name) for style_id, style in self._styles.items()}
        self._looks: dict[str, tuple[bool, bool]] = {}
        self._ours = TEXT in self._names.values()
        self._losses = losses

    def manuscript(self) -> tuple[Manuscript, str]:
        """Return the text, and the title if the first paragraph with text has the style "Title", else ""."""
        paragraphs = [*self._paragraphs(self._body, 0)]
        first = next((one for one in paragraphs if _text(one[1]).strip()), None)
        named = _text(first[1]) if first and first[0] == "Title" else ""
        return (_exact(paragraphs) if self._ours else _free(paragraphs)), named

    def _paragraphs(self, parent: Any, depth: int) -> Iterator[Paragraph]:
        if depth > MAX_DEPTH:
            raise StoryFileError("This DOCX file is damaged: it is nested too deeply.")
        for child in parent.iterchildren():
            if child.tag == f"{_W}p":
                yield self._style_of(child), tuple(self._lines(child))
            elif child.tag == f"{_W}tbl":
                self._losses.count(
                    "table, of which the words were kept", "tables, of which the words were kept"
                )
                for row in child.iterchildren(f"{_W}tr"):
                    for cell in row.iterchildren(f"{_W}tc"):
                        yield from self._paragraphs(cell, depth + 1)
            elif child.tag in _AROUND:
                yield from self._paragraphs(child, depth + 1)
            elif child.tag in _GONE:
                self._losses.count("deleted passage", "deleted passages")

    def _style_of(self, paragraph: Any) -> str:
        """Return the name of a paragraph's style; "Heading N" if the paragraph has an outline level."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return "Normal"
        if properties.find(f"{_W}numPr") is not None:
            self._losses.count("mark of a list", "marks of lists")
        found = properties.find(f"{_W}pStyle")
        name = self._names.get(_value(found), "Normal")
        level = _value(properties.find(f"{_W}outlineLvl"))
        if name.startswith("Heading") or not re.fullmatch("[0-5]", level):
            return name
        return f"Heading {int(level) + 1}"

    def _lines(self, paragraph: Any) -> list[tuple[Run, ...]]:
        lines: list[list[Run]] = [[]]
        for run in self._runs(paragraph, 0):
            mark = self._mark(run)
            for child in run.iterchildren():
                tag = str(child.tag).rpartition("}")[2]
                if tag == "t":
                    text = child.text or ""
                    lines[-1].append(Run(without_signs(text) if self._is_control(run) else text, mark))
                elif tag in _SIGNS:
                    lines[-1].append(Run(_SIGNS[tag], mark))
                elif tag == "cr" or (tag == "br" and child.get(f"{_W}type") in (None, "textWrapping")):
                    lines.append([])
                elif tag in _LOST:
                    self._losses.count(*_LOST[tag])
        return [tidy_runs(line) for line in lines]

    def _runs(self, parent: Any, depth: int) -> Iterator[Any]:
        """Yield an element's runs in order, with those of links and accepted changes, without text boxes."""
        if depth > MAX_DEPTH:
            raise StoryFileError("This DOCX file is damaged: it is nested too deeply.")
        for child in parent.iterchildren():
            if child.tag == f"{_W}r":
                yield child
            elif child.tag in _AROUND:
                yield from self._runs(child, depth + 1)
            elif child.tag in _GONE:
                self._losses.count("deleted passage", "deleted passages")
            elif (tag := str(child.tag).rpartition("}")[2]) in _LOST:
                self._losses.count(*_LOST[tag])

    def _mark(self, run: Any) -> str:
        properties = run.find(f"{_W}rPr")
        if properties is None:
            return ""
        style = _value(properties.find(f"{_W}rStyle"))
        if self._names.get(style) in (LINED, LINED_CONTROL):
            return "_"
        italic, bold = self._look(style)
        italic, bold = _on(properties, "i", italic), _on(properties, "b", bold)
        return ("**" if bold else "") + ("*" if italic else "")

    def _is_control(self, run: Any) -> bool:
        properties = run.find(f"{_W}rPr") if self._ours else None
        style = None if properties is None else properties.find(f"{_W}rStyle")
        return style is not None and self._names.get(_value(style)) in (CONTROL, LINED_CONTROL)

    def _look(self, style: str) -> tuple[bool, bool]:
        if style not in self._looks:
            font = self._styles[style].font if style in self._styles else None
            self._looks[style] = (bool(font and font.italic), bool(font and font.bold))
        return self._looks[style]


def _value(element: Any) -> str:
    return "" if element is None else str(element.get(f"{_W}val") or "")


def _on(properties: Any, tag: str, inherited: bool) -> bool:
    found = properties.find(f"{_W}{tag}")
    return inherited if found is None else _value(found).lower() not in _OFF


def _text(lines: Iterable[Iterable[Run]]) -> str:
    return "\n".join("".join(run.text for run in line) for line in lines)


def _exact(paragraphs: Iterable[Paragraph]) -> Manuscript:
    """Read a document that `write_docx` wrote, with its exact line breaks.

    A paragraph that was added with a word processor is separated from the one before it by an empty line.
    """
    blocks: list[Block] = []
    gaps, begun = 0, False
    for style, lines in paragraphs:
        if style in ("Title", "Subtitle") and not begun:
            continue
        empty = not _text(lines)
        if style == GAP or (empty and (begun or style != "Normal")):
            gaps += 1
            continue
        if empty:  # the page break behind the title
            continue
        close, name = style.endswith(CLOSE), style.removesuffix(CLOSE)
        before = (1 if close else 2 + gaps) if begun else gaps
        blocks.append(_block(name, lines, before))
        gaps, begun = 0, True
    return Manuscript(tuple(blocks), gaps, exact=True)


def _free(paragraphs: Iterable[Paragraph]) -> Manuscript:
    """Read a document of another program: drop empty paragraphs, and put empty lines between all others."""
    texts = [(style, lines) for style, lines in paragraphs if _text(lines).strip()]
    while texts and texts[0][0] in ("Title", "Subtitle", "Author", "Date"):
        texts = texts[1:]
    return spaced(free_block(lines, _level(style)) for style, lines in texts)


def _block(style: str, lines: tuple[tuple[Run, ...], ...], before: int) -> Block:
    """Convert a paragraph that `write_docx` wrote to the kind of block that its style names."""
    level = _level(style)
    if style == SCENE:
        return Block("scene", lines[:1], before)
    if style == CHAPTER or level:
        return Block("heading", ((Run(_text(lines)),),), before, level)
    return Block("paragraph", lines, before)


def _level(style: str) -> int:
    found = re.fullmatch(r"heading ([1-9])", style, re.IGNORECASE)
    return min(int(found[1]), 6) if found else 1 if style == "Title" else 0
