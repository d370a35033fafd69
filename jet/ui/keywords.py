"""Format keywords for a one-line form field: separated by commas, in quotes if they contain a comma."""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUOTES = {'"': '"', "“": "”", "„": "“”", "«": "»", "”": "”"}
_BREAKS = re.compile(r"[\r\n]")


def one_line(text: str) -> str:
    """Remove line breaks, as a browser's one-line field does."""
    return _BREAKS.sub("", text)


def format_keywords(keywords: Iterable[str]) -> str:
    """Format keywords as a line that `parse_keywords` reads back."""
    return ", ".join(map(_format_keyword, keywords))


def parse_keywords(line: str) -> tuple[str, ...]:
    """Parse the keywords of a line. Quotation marks count only around a whole keyword."""
    found: list[str] = []
    at = 0
    while at < len(line):
        while at < len(line) and (line[at].isspace() or line[at] == ","):
            at += 1
        word, at = _take_quoted(line, at) or _take_plain(line, at)
        if word := word.strip():
            found.append(word)
    return tuple(found)


def _format_keyword(keyword: str) -> str:
    if "," not in keyword and keyword[:1] not in _QUOTES:
        return keyword
    return '"' + keyword.replace('"', '""') + '"'


def _take_plain(line: str, at: int) -> tuple[str, int]:
    end = line.find(",", at)
    end = len(line) if end < 0 else end
    return line[at:end], end


def _take_quoted(line: str, at: int) -> tuple[str, int] | None:
    """Parse a quoted keyword at an offset; return the keyword and the offset after it.

    A doubled quotation mark stands for one. Returns None if there is no quotation mark at the offset, or if
    the closing one is not followed by a comma or the end of the line.
    """
    closing = _QUOTES.get(line[at : at + 1])
    if closing is None:
        return None
    word: list[str] = []
    place = at + 1
    while place < len(line):
        if line[place] not in closing:
            word.append(line[place])
            place += 1
        elif line[at] == '"' and line.startswith('""', place):
            word.append('"')
            place += 2
        else:
            rest = line[place + 1 :].lstrip()
            return ("".join(word), place + 1) if not rest or rest.startswith(",") else None
    return None
