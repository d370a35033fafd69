"""Parse a story's plain text into headings, paragraphs and scene breaks, and compose the text from them.

The marks are those of Markdown and of typescripts: "# The Cave" and "Chapter 3" are headings, "* * *" is a
scene break, *word* and _word_ are italic, **word** is bold. Everything else is a paragraph.
`compose(parse(text)) == text` holds for every text, so that export to DOCX or EPUB and import restore it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["paragraph", "heading", "scene"]

MARKS = {"***": (True, True), "**": (False, True), "*": (True, False), "_": (True, False)}  # (italic, bold)

_HEADING = re.compile(r"(#{1,6}) (?=\S)(.*)", re.DOTALL)
_NUMBER = r"(?:\d{1,4}|[IVXLC]{1,8}|One|Two|Three|Four|Five|Six|Seven|Eight|Nine|Ten|Eleven|Twelve)"
_CHAPTER = re.compile(
    rf"(?:(?:Chapter|Part|Book|Kapitel|Chapitre|Capítulo) {_NUMBER}(?:[:.—–-]? .{{1,80}})?"
    r"|Prologue|Epilogue|Prolog|Epilog)[.:]?",
    re.IGNORECASE,
)
_SCENE = re.compile(r"(?:[*＊] ?){3,}|-{3,}|~{3,}|#|⁂|(?:• ?){3,}|(?:— ?){3,}")
# A mark opens before a word and closes behind one; what lies between has no mark of the same kind.
_EMPHASIS = re.compile(
    r"(?<![\w*])(?P<mark>\*{1,3})(?=[^\s*])(?P<starred>[^*\n]*[^\s*\n])(?P=mark)(?![\w*])"
    r"|(?<![\w_])_(?=[^\s_])(?P<lined>[^_\n]*[^\s_\n])_(?![\w_])"
)


@dataclass(frozen=True)
class Run:
    """Successive characters of one format.

    Attributes:
        text: the characters, without marks.
        mark: the mark on both sides of them in the plain text, such as "**"; "" if there is none.
        control: whether they are the visible signs that stand for control characters in a file.
    """

    text: str
    mark: str = ""
    control: bool = False

    @property
    def italic(self) -> bool:
        """Return whether the characters are italic."""
        return MARKS.get(self.mark, (False, False))[0]

    @property
    def bold(self) -> bool:
        """Return whether the characters are bold."""
        return MARKS.get(self.mark, (False, False))[1]


@dataclass(frozen=True)
class Block:
    """A paragraph, a heading or a scene break.

    Attributes:
        kind: "paragraph", "heading" or "scene".
        lines: the runs of each line; at least one line, and several only in a paragraph.
        before: the number of line breaks between this block and the previous one, or the text's beginning.
        level: 1 to 6 for a heading with as many "#"; 0 for a line such as "Chapter 3" and all other blocks.
    """

    kind: Kind
    lines: tuple[tuple[Run, ...], ...]
    before: int
    level: int = 0

    @property
    def text(self) -> str:
        """Return the characters without marks, lines separated by "\\n"."""
        return "\n".join("".join(run.text for run in line) for line in self.lines)


@dataclass(frozen=True)
class Manuscript:
    """A whole text as blocks.

    Attributes:
        blocks: the blocks in order.
        after: the number of line breaks after the last block.
        exact: whether it was read from a file that this program wrote. `compose` then gives exactly the text
            from which the file was written.
    """

    blocks: tuple[Block, ...]
    after: int = 0
    exact: bool = False

    @property
    def chapters(self) -> Iterator[tuple[Block, ...]]:
        """Yield the blocks of each chapter.

        A chapter begins with a heading of level 0 to 2. Only the first one may begin with another block.
        """
        chapter: list[Block] = []
        for block in self.blocks:
            if block.kind == "heading" and block.level <= 2 and chapter:
                yield tuple(chapter)
                chapter = []
            chapter.append(block)
        if chapter:
            yield tuple(chapter)


def parse(text: str) -> Manuscript:
    """Parse a plain text with marks, whose line breaks are "\\n"."""
    blocks: list[Block] = []
    paragraph: list[str] = []
    gap = breaks = (
        0  # line breaks before the paragraph under way, and since the last line with something on it
    )
    for number, line in enumerate(text.split("\n")):
        breaks += 1 if number else 0
        if not line:
            continue
        special = _special(line)
        if paragraph and (special or breaks > 1):
            blocks.append(_paragraph(paragraph, gap))
            paragraph = []
        if special:
            blocks.append(Block(special[0], (special[2],), breaks, special[1]))
        else:
            if not paragraph:
                gap = breaks
            paragraph.append(line)
        breaks = 0
    if paragraph:
        blocks.append(_paragraph(paragraph, gap))
    return Manuscript(tuple(blocks), breaks)


def compose(manuscript: Manuscript) -> str:
    """Return the plain text of a manuscript, with marks."""
    parts: list[str] = []
    for block in manuscript.blocks:
        parts.append("\n" * block.before)
        if block.level:
            parts.append("#" * block.level + " ")
        parts.append(
            "\n".join("".join(run.mark + run.text + run.mark for run in line) for line in block.lines)
        )
    return "".join([*parts, "\n" * manuscript.after])


def spaced(blocks: Iterable[Block]) -> Manuscript:
    """Return a manuscript of these blocks, with one empty line between any two.

    It is for files that do not store the space between paragraphs.
    """
    row = [*blocks]
    if not row:
        return Manuscript(())
    first, *others = row
    apart = (Block(block.kind, block.lines, 2, block.level) for block in others)
    return Manuscript((Block(first.kind, first.lines, 0, first.level), *apart))


def free_block(lines: tuple[tuple[Run, ...], ...], level: int = 0) -> Block:
    """Convert a paragraph of another program's file to a block.

    A `level` from 1 makes the paragraph a heading. A line such as "Chapter 3" becomes a heading without "#"
    in any case, and a line such as "* * *" a scene break.
    """
    text = "\n".join("".join(run.text for run in line) for line in lines)
    flat = " ".join(text.split())
    if is_scene_break(flat):
        return Block("scene", ((Run(flat),),), 2)
    if is_chapter_line(flat) and (level or len(lines) == 1):
        return Block("heading", ((Run(flat),),), 2)
    if level:
        return Block("heading", ((Run(flat),),), 2, min(level, 6))
    return Block("paragraph", lines, 2)


def runs_of(line: str) -> tuple[Run, ...]:
    """Split a line at its marks into runs. Their texts do not contain the marks."""
    found: list[Run] = []
    at = 0
    for match in _EMPHASIS.finditer(line):
        if match.start() > at:
            found.append(Run(line[at : match.start()]))
        mark = match["mark"] or "_"
        found.append(Run(match["starred"] or match["lined"], mark))
        at = match.end()
    if at < len(line):
        found.append(Run(line[at:]))
    return tuple(found)


def is_chapter_line(line: str) -> bool:
    """Return whether a line without "#" is a chapter heading, such as "Chapter 3: The Cave"."""
    return len(line) <= 100 and _CHAPTER.fullmatch(line) is not None


def is_scene_break(line: str) -> bool:
    """Return whether a line is a scene break, such as "* * *"."""
    return len(line) <= 80 and _SCENE.fullmatch(line.strip()) is not None


def _special(line: str) -> tuple[Kind, int, tuple[Run, ...]] | None:
    if is_scene_break(line):
        return "scene", 0, (Run(line),)
    heading = _HEADING.fullmatch(line)
    if heading is not None:
        return "heading", len(heading[1]), (Run(heading[2]),)
    if is_chapter_line(line):
        return "heading", 0, (Run(line),)
    return None


def _paragraph(lines: list[str], before: int) -> Block:
    return Block("paragraph", tuple(map(runs_of, lines)), before)
