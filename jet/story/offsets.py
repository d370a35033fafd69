"""Places in a text: Python counts characters, a browser's `selectionStart` counts UTF-16 units."""

from __future__ import annotations


def from_utf16(text: str, units: int) -> int:
    """The offset in characters of a place that is `units` UTF-16 units into the text.

    A place inside a character gives the offset before it; places outside the text give its ends.
    """
    if text.isascii():
        return max(0, min(units, len(text)))
    head = text.encode("utf-16-le", "surrogatepass")[: 2 * max(0, units)]
    return len(head.decode("utf-16-le", "ignore"))


def to_utf16(text: str, offset: int) -> int:
    """How many UTF-16 units stand before the character at `offset`."""
    head = text[: max(0, offset)]
    return len(head) if head.isascii() else len(head.encode("utf-16-le", "surrogatepass")) // 2
