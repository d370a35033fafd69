"""Convert between Python's character offsets and a browser's UTF-16 offsets."""

from __future__ import annotations


def from_utf16(text: str, units: int) -> int:
    """Return the character offset of the place that is `units` UTF-16 units into the text.

    A place inside a character gives the offset before the character. A place outside the text gives the
    nearer end of the text.
    """
    if text.isascii():
        return max(0, min(units, len(text)))
    head = text.encode("utf-16-le", "surrogatepass")[: 2 * max(0, units)]
    return len(head.decode("utf-16-le", "ignore"))


def to_utf16(text: str, offset: int) -> int:
    """Return how many UTF-16 units precede the character at `offset`."""
    head = text[: max(0, offset)]
    return len(head) if head.isascii() else len(head.encode("utf-16-le", "surrogatepass")) // 2
