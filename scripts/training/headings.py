"""Find the parts of a story that are not prose: its title, headings of chapters, remarks about its length."""

from __future__ import annotations

import re

HEADING = re.compile(
    r"(?:chapter|part|section|act|scene|episode|prologue|epilogue|introduction|conclusion|paragraph|setting|"
    r"word count|title|back cover)\b[^\n]{0,80}|[IVX]{1,5}\.?[^\n.!?]{0,60}|\d{1,2}[.:][^\n.!?]{0,60}",
    re.IGNORECASE,
)
LONGEST_TITLE = 90  # characters
_SENTENCE_END = re.compile(r"[.!?…,;:—”\"’']\s*\Z")


def body_start(text: str) -> int:
    """Return the index of the first character after the title and its headings; 0 if there is no title."""
    lines = text.split("\n\n", 4)[:-1]
    start = 0
    for number, line in enumerate(lines):
        is_title = number == 0 and len(line) < LONGEST_TITLE and not re.search(r"[.!?…”\"’']\s*\Z", line)
        if not is_title and not (number > 0 and start > 0 and HEADING.fullmatch(line)):
            break
        start += len(line) + 2
    return start


def find_headings(text: str, start: int) -> list[tuple[int, int]]:
    """Return the spans of all headings from `start` on, each with the blank line after it.

    A heading is a paragraph that names a chapter or the like, or a short line of words in title case without
    a final mark. A sentence that begins with such a word ("Part of her wanted to go.") is not a heading.
    """
    spans, place = [], start
    for paragraph in text[start:].split("\n\n"):
        end = min(place + len(paragraph) + 2, len(text))
        if paragraph and _is_heading(paragraph):
            spans.append((place, end))
        place = end
    return spans


def _is_heading(paragraph: str) -> bool:
    if len(paragraph) > LONGEST_TITLE or "\n" in paragraph:
        return False
    ends = bool(_SENTENCE_END.search(paragraph))
    if HEADING.fullmatch(paragraph):
        return not ends or bool(re.match(r"(?:chapter|\w+ \d)", paragraph, re.IGNORECASE))
    words = paragraph.split()
    capital = sum(word[:1].isupper() for word in words)
    return not ends and len(words) <= 10 and capital >= max(1, 0.6 * len(words))


def without_spans(text: str, spans: list[tuple[int, int]], start: int, end: int) -> str:
    """Return the text from `start` to `end` without the spans in it."""
    parts, place = [], start
    for left, right in spans:
        if right <= place or left >= end:
            continue
        parts.append(text[place : max(left, place)])
        place = right
    parts.append(text[min(place, end) : end])
    return "".join(parts)
