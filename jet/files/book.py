"""Write a story as an EPUB 3 book or as one HTML page, from templates."""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
import uuid
import zipfile
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from jet.files.markup import Block, Manuscript
from jet.files.progress import Progress, silent
from jet.files.whitespace import with_signs, xml_text

_TEMPLATES = Environment(
    loader=PackageLoader("jet.files"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
)
UNTITLED = "Untitled story"
_COVER_LINE = 22  # characters of a title on the cover
_SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CJK": "zh", "ARABIC": "ar", "HEBREW": "he",
    "CYRILLIC": "ru", "GREEK": "el", "DEVANAGARI": "hi", "THAI": "th", "ARMENIAN": "hy", "GEORGIAN": "ka",
}  # fmt: skip


class _Placed(NamedTuple):
    block: Block
    gaps: int  # empty lines before it, besides the usual one
    close: bool  # no empty line before it


class _Chapter(NamedTuple):
    id: str
    file: str
    heading: str
    blocks: tuple[_Placed, ...]


def write_epub(
    manuscript: Manuscript,
    title: str = "",
    author: str = "",
    progress: Progress = silent,
    now: datetime | None = None,
) -> bytes:
    """Write a manuscript as an EPUB 3 file: a cover, a title page, and one XHTML file for each chapter."""
    title, author = xml_text(title) or UNTITLED, xml_text(author)
    language = language_of(manuscript)
    placed = _placed(manuscript)
    chapters = _chapters(manuscript, placed, title)
    modified = (now or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
    identifier = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'jet-stories:{title}:{author}:{modified}')}"
    about = {"title": title, "author": author, "language": language}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)  # first, and not compressed
        book.writestr("META-INF/container.xml", _render("container.xml"))
        index = {**about, "chapters": chapters, "identifier": identifier, "modified": modified}
        for name in ("content.opf", "nav.xhtml", "title.xhtml"):
            book.writestr(f"OEBPS/{name}", _render(name, **index))
        lines = textwrap.wrap(title, _COVER_LINE)[:6]
        book.writestr("OEBPS/cover.svg", _render("cover.svg", lines=lines, author=author[:60]))
        book.writestr("OEBPS/style.css", _render("style.css"))
        for number, chapter in enumerate(chapters):
            progress(0.1 + 0.9 * number / len(chapters))
            after = manuscript.after if chapter is chapters[-1] else 0
            told = {"heading": chapter.heading, "blocks": chapter.blocks, "after": after}
            book.writestr(f"OEBPS/{chapter.file}", _render("chapter.xhtml", language=language, **told))
    return stream.getvalue()


def write_html(manuscript: Manuscript, title: str = "", author: str = "", progress: Progress = silent) -> str:
    """Write a manuscript as one HTML page, style sheet included, that needs no other file."""
    told = {"title": xml_text(title), "author": xml_text(author), "language": language_of(manuscript)}
    blocks = _placed(manuscript)
    progress(0.3)
    return _render("page.html", **told, style=_render("style.css"), blocks=blocks, after=manuscript.after)


def language_of(manuscript: Manuscript) -> str:
    """Guess the language code, such as "ja", from the script of most letters; "en" for Latin letters."""
    text = "".join(block.text for block in manuscript.blocks[:200])[:20_000]
    counts: dict[str, int] = {}
    for character in filter(str.isalpha, text):
        script = unicodedata.name(character, "").split(" ")[0].split("-")[0]
        language = _SCRIPTS.get(script, "en")
        counts[language] = counts.get(language, 0) + 1
    if counts.get("ja", 0) > 0.05 * sum(counts.values()):  # Japanese has more Han than kana
        return "ja"
    return max(counts, key=lambda language: counts[language], default="en")


def _placed(manuscript: Manuscript) -> tuple[_Placed, ...]:
    found = []
    for number, block in enumerate(manuscript.blocks):
        gaps = block.before - 2 if number else block.before
        found.append(_Placed(_clean(block), max(0, gaps), bool(number) and block.before == 1))
    return tuple(found)


def _clean(block: Block) -> Block:
    lines = tuple(tuple(part for run in line for part in with_signs(run)) for line in block.lines)
    return Block(block.kind, lines, block.before, block.level)


def _shown(block: Block) -> str:
    """Return a heading's text with a visible sign for each control character."""
    return "".join(run.text for line in _clean(block).lines for run in line)


def _chapters(manuscript: Manuscript, placed: Iterable[_Placed], title: str) -> list[_Chapter]:
    rest = iter(placed)
    found = []
    for number, blocks in enumerate(manuscript.chapters, start=1):
        first = blocks[0]
        heading = _shown(first) if first.kind == "heading" else (title if number == 1 else f"{number}")
        own = tuple(next(rest) for _ in blocks)
        found.append(_Chapter(f"chapter-{number}", f"chapter-{number:04}.xhtml", heading, own))
    return found or [_Chapter("chapter-1", "chapter-0001.xhtml", title, ())]


def _render(template: str, **values: object) -> str:
    return re.sub(r"\A\s+", "", _TEMPLATES.get_template(template).render(**values))
