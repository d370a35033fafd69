"""Strip blanks from the ends of texts: spaces of any width and tabs, not line breaks."""

from __future__ import annotations

import unicodedata

LINE_BREAKS = "\n\r\v\f\x85\u2028\u2029"


def is_blank(character: str) -> bool:
    """Return whether a character is a space of any width or a tab."""
    return character == "\t" or unicodedata.category(character) == "Zs"


def strip_trailing(text: str) -> str:
    """Return a text without trailing blanks."""
    end = len(text)
    while end and is_blank(text[end - 1]):
        end -= 1
    return text[:end]


def strip_leading(text: str) -> str:
    """Return a text without leading blanks."""
    return strip_trailing(text[::-1])[::-1]
