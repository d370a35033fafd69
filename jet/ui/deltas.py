"""Send only the changes of a long text, in both directions.

A browser takes tenths of a second to lay out a long text, and new words come many times a second.
"""

from __future__ import annotations

from jet.affixes import common_prefix, common_suffix
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.story.offsets import to_utf16

DELTA_MIN_CHARACTERS = 40_000  # characters from which on only changes are sent

Patch = dict[str, int | str]


class TextDelta:
    """Compares texts with the text that the page had when a generation began."""

    def __init__(self, text: str) -> None:
        self._text = text

    def diff(self, current: str) -> tuple[str | None, Patch | None]:
        """Return (text, None), or (None, patch) if the page's text is long.

        A patch replaces the UTF-16 units of the page's text from `from` up to `to` (exclusive) by `text`.
        """
        previous = self._text
        if len(previous) < DELTA_MIN_CHARACTERS:
            return current, None
        start = common_prefix(previous, current)
        suffix_length = common_suffix(previous[start:], current[start:])
        end = len(previous) - suffix_length
        # What is exchanged is short, and so what stands before it is measured once.
        start_units = to_utf16(previous, start)
        removed_units = to_utf16(previous[start:end], end - start)
        return None, {
            "from": start_units,
            "to": start_units + removed_units,
            "text": current[start : len(current) - suffix_length],
        }


def apply_patch(text: str, patch: Fields) -> str:
    """Apply a patch of the page to a text.

    The patch replaces the UTF-16 units from `from` up to `to` (exclusive) by `text`. Its field `of` is the
    length of the page's text before, in UTF-16 units. Raises StoryError if `text` has another length.
    """
    encoded = text.encode("utf-16-le", "surrogatepass")
    start, end = 2 * patch.take("from", int), 2 * patch.take("to", int)
    if not 0 <= start <= end <= len(encoded) or len(encoded) != 2 * patch.take("of", int):
        raise StoryError("This page has another text of the story than the server: please reload the page.")
    inserted = patch.take("text", str).encode("utf-16-le", "surrogatepass")
    return (encoded[:start] + inserted + encoded[end:]).decode("utf-16-le", "surrogatepass")
