"""Stop strings: a continuation ends in front of the first of them."""

from __future__ import annotations

from collections.abc import Iterable

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200


class Cutter:
    """Passes a stream's text on up to the first stop string.

    Text that may turn out to be the beginning of one is held back until that is known.

    Attributes:
        found: whether a stop string has come. Nothing is passed on after that.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self.found = False
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text: str, last: bool = False) -> str:
        """What can be shown now that this has come; with `last`, all that is left."""
        if self.found:
            return ""
        text = self._held + text
        places = [at for at in map(text.find, self._stops) if at >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        held = 0 if last else self._beginnings(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _beginnings(self, text: str) -> int:
        """How many characters at the end of the text begin a stop string."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)
