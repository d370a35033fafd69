"""Write a story as a DOCX file with python-docx.

A paragraph gets the style "Story Text" and keeps its line breaks; a heading gets "Heading 1" to "Heading 6",
so that word processors show an outline. Some properties of the text have no equivalent in DOCX, such as
paragraphs without an empty line between them, or "_" as the mark of italics. Styles with names of their own
stand for these, so that `docx_reader` restores exactly the same text.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

from jet.files.markup import Block, Manuscript, Run
from jet.files.progress import Progress, silent, watched
from jet.files.whitespace import with_signs, xml_text
from jet.story.errors import StoryFileError

TEXT, GAP, SCENE, CHAPTER = "Story Text", "Story Gap", "Scene Break", "Chapter Line"
CLOSE = " Close"  # at the end of a style's name: no empty line before
LINED = "Story Emphasis"  # italics whose mark on the sheet is "_"
CONTROL, LINED_CONTROL = "Control Character", "Control Emphasis"  # signs that stand for control characters


def write_docx(
    manuscript: Manuscript, title: str = "", author: str = "", progress: Progress = silent
) -> bytes:
    """Return a manuscript as the bytes of a DOCX file, with a title page if there is a title or an author.

    Raises StoryFileError if python-docx is not installed.
    """
    title, author = xml_text(title), xml_text(author)
    document = _new_document(title, author)
    styles = {style.name: style.style_id for style in document.styles}
    body = document.element.body
    end = body.sectPr  # the section's properties stay last
    add = end.addprevious if end is not None else body.append
    make = _Maker(styles)
    if title or author:
        for element in make.title_page(title, author):
            add(element)
    for element in make.manuscript(manuscript, progress):
        add(element)
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def library() -> Any:
    """Import python-docx and return it. Raises StoryFileError if it is not installed."""
    try:
        import docx
    except ImportError:
        raise StoryFileError(
            "DOCX files need the package python-docx, which is not installed here: pip install python-docx."
        ) from None
    return docx


def reads_from_the_right(lines: Iterable[Iterable[Run]]) -> bool:
    """Return whether the first letter with a direction in these lines is read from right to left."""
    kinds = (unicodedata.bidirectional(character) for line in lines for run in line for character in run.text)
    return next((kind in ("R", "AL") for kind in kinds if kind in ("L", "R", "AL")), False)


# --- inside ----------------------------------------------------------------------------------------------


def _new_document(title: str, author: str) -> Any:
    docx = library()
    from docx.enum.style import WD_STYLE_TYPE
    from docx.enum.text import WD_ALIGN_PARAGRAPH
    from docx.oxml.ns import qn
    from docx.shared import Cm, Pt, RGBColor

    document = docx.Document()
    properties = document.core_properties
    properties.title, properties.author = title[:255], author[:255]
    properties.comments = ""
    properties.created = properties.modified = datetime.now(timezone.utc).replace(tzinfo=None)
    for section in document.sections:
        section.left_margin = section.right_margin = Cm(2.8)
    styles = document.styles
    for name in ("Title", *(f"Heading {level}" for level in range(1, 7))):
        heading = styles[name].font
        heading.name, heading.color.rgb = "Georgia", RGBColor(0x22, 0x22, 0x22)
        fonts = styles[name].element.rPr.rFonts
        for theme in ("asciiTheme", "hAnsiTheme", "eastAsiaTheme", "cstheme"):
            fonts.attrib.pop(qn(f"w:{theme}"), None)
    normal = styles["Normal"]
    normal.font.name, normal.font.size = "Georgia", Pt(11.5)
    normal.paragraph_format.space_after = Pt(0)
    normal.paragraph_format.line_spacing = 1.35

    def style(name: str, base: str, before: float) -> Any:
        made = styles.add_style(name, WD_STYLE_TYPE.PARAGRAPH)
        made.base_style = styles[base]
        made.paragraph_format.space_before = Pt(before)
        return made

    style(TEXT, "Normal", 9)
    style(GAP, "Normal", 0)
    style(SCENE, "Normal", 14).paragraph_format.alignment = WD_ALIGN_PARAGRAPH.CENTER
    style(CHAPTER, "Heading 1", 24)
    for name in (TEXT, SCENE, CHAPTER, *(f"Heading {level}" for level in range(1, 7))):
        style(name + CLOSE, name, 0)
    lined = styles.add_style(LINED, WD_STYLE_TYPE.CHARACTER)
    lined.font.italic = True
    for name, base in ((CONTROL, None), (LINED_CONTROL, lined)):
        control = styles.add_style(name, WD_STYLE_TYPE.CHARACTER)
        control.font.color.rgb = RGBColor(0x88, 0x88, 0x88)
        if base is not None:
            control.base_style = base
    return document


class _Maker:
    """Makes the XML elements of a body directly, since each call of python-docx takes a millisecond."""

    def __init__(self, styles: dict[str, str]) -> None:
        from docx.oxml import OxmlElement
        from docx.oxml.ns import qn

        self._element: Callable[[str], Any] = OxmlElement
        self._name: Callable[[str], str] = qn
        self._styles = styles

    def title_page(self, title: str, author: str) -> Iterator[Any]:
        if title:
            yield self.paragraph("Title", ((Run(title),),))
        if author:
            yield self.paragraph("Subtitle", ((Run(author),),))
        last = self.paragraph("Normal", ())
        run, broken = self._element("w:r"), self._element("w:br")
        broken.set(self._name("w:type"), "page")
        run.append(broken)
        last.append(run)
        yield last

    def manuscript(self, manuscript: Manuscript, progress: Progress) -> Iterator[Any]:
        for number, block in enumerate(watched(manuscript.blocks, progress, 0.1, 0.8)):
            gaps = block.before - 2 if number else block.before
            yield from self._gaps(gaps)
            style = self._style(block, close=number > 0 and block.before == 1)
            yield self.paragraph(style, block.lines)
        yield from self._gaps(manuscript.after)

    def _style(self, block: Block, close: bool) -> str:
        names = {
            "paragraph": TEXT,
            "scene": SCENE,
            "heading": f"Heading {block.level}" if block.level else CHAPTER,
        }
        return names[block.kind] + (CLOSE if close else "")

    def _gaps(self, count: int) -> Iterator[Any]:
        for _ in range(max(0, count)):
            yield self.paragraph(GAP, ())

    def paragraph(self, style: str, lines: tuple[tuple[Run, ...], ...]) -> Any:
        made = self._element("w:p")
        properties, named = self._element("w:pPr"), self._element("w:pStyle")
        named.set(self._name("w:val"), self._styles[style])
        properties.append(named)
        if reads_from_the_right(lines):
            properties.append(self._element("w:bidi"))
        made.append(properties)
        for number, line in enumerate(lines):
            if number:
                run = self._element("w:r")
                run.append(self._element("w:br"))
                made.append(run)
            made.extend(self.run(part) for run in line for part in with_signs(run))
        return made

    def run(self, run: Run) -> Any:
        made = self._element("w:r")
        from_right = not run.text.isascii() and any(
            unicodedata.bidirectional(character) in ("R", "AL") for character in run.text
        )
        if run.mark or from_right or run.control:
            properties = self._element("w:rPr")
            style = {(True, False): LINED, (False, True): CONTROL, (True, True): LINED_CONTROL}
            if name := style.get((run.mark == "_", run.control)):
                named = self._element("w:rStyle")
                named.set(self._name("w:val"), self._styles[name])
                properties.append(named)
            tags = ("b", "bCs") * run.bold + ("i", "iCs") * run.italic + ("rtl",) * from_right
            properties.extend(self._element(f"w:{tag}") for tag in tags)
            made.append(properties)
        for number, part in enumerate(run.text.split("\t")):
            if number:
                made.append(self._element("w:tab"))
            if part:
                text = self._element("w:t")
                text.text = part
                text.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
                made.append(text)
        return made
