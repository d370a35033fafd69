"""StopMatcher: ends a text in front of the first stop string, as OpenAI's `stop` asks for."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on up to the stop string that is complete first, whatever pieces it comes in.

    Attributes:
        found: whether a stop string has come. Nothing is passed on after that.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def push(self, text: str, last: bool = False) -> str:
        """Return what can be passed on now that `text` has come; with `last`, all that is left."""
        if self.found:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        held = 0 if last else max(self._beginning_at_end(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    @staticmethod
    def _beginning_at_end(text: str, stop: str) -> int:
        """Return how many characters at the end of `text` begin `stop`."""
        lengths = range(min(len(stop) - 1, len(text)), 0, -1)
        return next((length for length in lengths if text.endswith(stop[:length])), 0)
