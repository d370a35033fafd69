"""Blanks at the borders of texts: spaces of any width and tabs. Line breaks are none."""

from __future__ import annotations

import unicodedata

LINE_BREAKS = "\n\r\v\f\x85\u2028\u2029"


def is_blank(character: str) -> bool:
    """Whether a character is a space of any width, or a tab."""
    return character == "\t" or unicodedata.category(character) == "Zs"


def strip_trailing(text: str) -> str:
    """A text without the blanks at its end."""
    end = len(text)
    while end and is_blank(text[end - 1]):
        end -= 1
    return text[:end]


def strip_leading(text: str) -> str:
    """A text without the blanks at its beginning."""
    return strip_trailing(text[::-1])[::-1]
