"""StopMatcher: passes on the text of a stream up to the first stop string."""

from __future__ import annotations

from collections.abc import Iterable


class StopMatcher:
    """Passes on a text that comes in parts, up to the stop string that begins first in the whole text.

    Text that may be the beginning of a stop string is withheld until the following text decides this.

    Attributes:
        matched: whether a stop string was found. Nothing is passed on after that.
    """

    def __init__(self, stops: Iterable[str] = (), skip_leading: bool = False) -> None:
        """`skip_leading`: whether stop strings at the very beginning of the text are passed on as text."""
        self.matched = False
        self.stops = [stop for stop in stops if stop]
        self._withheld = ""
        self._at_start = skip_leading  # nothing but stop strings has come

    def push(self, text: str, last: bool = False) -> str:
        """Add a part of the text; return the text that can be passed on now.

        `last`: whether the text ends with this part, so that nothing is withheld.
        """
        if self.matched:
            return ""
        if not self.stops:
            return text
        text = self._withheld + text
        start = self._skip_leading_stops(text, last) if self._at_start else 0
        withheld = len(text) - start
        if not self._at_start:
            withheld = self._partial_match_length(text[start:])
            matches = [at for stop in self.stops if (at := text.find(stop, start)) >= 0]
            # One that begins further ahead may still come to its end.
            if matches and (last or min(matches) <= len(text) - withheld):
                self.matched = True
                return text[: min(matches)]
        withheld = 0 if last else withheld
        self._withheld = text[len(text) - withheld :]
        return text[: len(text) - withheld]

    def _skip_leading_stops(self, text: str, last: bool) -> int:
        """Return how many leading characters are stop strings; note when other text has come."""
        at = 0
        while at < len(text):
            rest = text[at:]
            if not last and any(stop.startswith(rest) for stop in self.stops if len(stop) > len(rest)):
                return at
            whole = [len(stop) for stop in self.stops if rest.startswith(stop)]
            if not whole:
                self._at_start = False
                return at
            at += max(whole)
        return at

    def _partial_match_length(self, text: str) -> int:
        """Return how many trailing characters of a text are the beginning of a stop string."""
        lengths = (
            length
            for stop in self.stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)
