"""What has changed in a long story since it was sent, so that it need not be sent again with every word.

A browser takes tenths of a second to lay out a long text anew, and new words come many times a second.
"""

from __future__ import annotations

from jet.affixes import common_prefix, common_suffix
from jet.story.offsets import to_utf16

LONG = 40_000  # characters from which on only changes are sent

Patch = dict[str, int | str]


class Sent:
    """The text that the page has."""

    def __init__(self, text: str) -> None:
        self._text = text

    def news(self, now: str) -> tuple[str | None, Patch | None]:
        """What the page is to be told of the text as it is now: all of it, or of a long one a patch.

        A patch says which of the browser's UTF-16 units give way to a text: those from `from` to before `to`.
        """
        before = self._text
        if len(before) < LONG:
            return now, None
        start = common_prefix(before, now)
        behind = common_suffix(before[start:], now[start:])
        end = len(before) - behind
        # What is exchanged is short, and so what stands before it is measured once.
        units = to_utf16(before, start)
        exchanged = to_utf16(before[start:end], end - start)
        return None, {"from": units, "to": units + exchanged, "text": now[start : len(now) - behind]}
