"""Blocks of a rendered report: headings, paragraphs, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 (the title) or 2 (a section)."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Plain text; `strong`: whether it is emphasized as a summary."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table of texts; every row has as many cells as the head.

    The first column has words, the others figures.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture in a file of the report's folder."""

    file: str
    caption: str


Block = Heading | Paragraph | Table | Picture

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_NUMBER_LENGTH = 40  # characters; longer cells are words, not figures


def to_markdown(blocks: Sequence[Block]) -> str:
    """Render blocks as Markdown that refers to pictures in the same folder."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Paragraph):
        return f"**{block.text}**" if block.strong else block.text
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.file})\n\n{block.caption}"
    rule = ["---", *["--:"] * (len(block.head) - 1)]
    rows = [block.head, rule, *block.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def to_html(blocks: Sequence[Block], pictures: dict[str, str]) -> str:
    """Render blocks as one self-contained HTML page; `pictures`: file name → data URL."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    named = [(type(block).__name__, block) for block in blocks]
    return environment.get_template("report.html").render(
        title=title, blocks=named, pictures=pictures, max_number_length=_MAX_NUMBER_LENGTH
    )
