"""Stop strings: a continuation ends in front of the first of them, and how the page writes them down."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from jet.api import TokenChunk, TokenDetail
from jet.story.alignment import align

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
_MAX_WAITING = 64  # tokens that are not found in the text; more of them are passed on as they are

_WRITTEN = {"\\\\": "\\", "\\n": "\n", "\\t": "\t"}
_ESCAPE = re.compile(r"\\[\\nt]")
_TO_ESCAPE = re.compile(r"\\(?=[\\nt\n\t])|[\n\t]")
_ESCAPED = {character: escape for escape, character in _WRITTEN.items()}


def typed(line: str) -> str:
    """The stop string that a line of the page's field means: "\\\\n" is a line break, "\\\\t" a tab.

    "\\\\\\\\" is a backslash where one of them would be meant otherwise.
    """
    return _ESCAPE.sub(lambda found: _WRITTEN[found.group()], line)


def shown(stop: str) -> str:
    """The line for a stop string, which `typed` reads back."""
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found.group()], stop)


class Cutter:
    """Passes a stream on up to the first stop string, each token with its text.

    Text that may turn out to be the beginning of one is held back until that is known. Stop strings at the
    very beginning, one behind the other, end nothing: a story that stopped at one could never go on.

    Attributes:
        found: whether a stop string has come. Nothing is passed on after that.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self.found = False
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._beginning = True  # nothing but stop strings has come
        self._waiting: list[TokenDetail] = []  # tokens whose text has not been passed on whole
        self._text = ""  # from the first of them on
        self._passed = 0  # characters of it that have been passed on

    def cut(self, chunk: TokenChunk) -> TokenChunk:
        """What can be shown of a stream now that this has come."""
        last = chunk.stats.finish_reason is not None
        if not self._stops:
            return chunk
        closed = self.found
        text = self.push(chunk.text, last)
        if closed:
            return replace(chunk, text="", details=())
        self._waiting += chunk.details
        self._text += chunk.text
        self._passed += len(text)
        return replace(chunk, text=text, details=self._release(last))

    def push(self, text: str, last: bool = False) -> str:
        """The same for the text alone; with `last`, all that is left."""
        if self.found:
            return ""
        text = self._held + text
        start = self._skip(text, last) if self._beginning else 0
        held = len(text) - start
        if not self._beginning:
            held = self._beginnings(text[start:])
            places = [at for stop in self._stops if (at := text.find(stop, start)) >= 0]
            # One that begins further ahead may still come to its end.
            if places and (last or min(places) <= len(text) - held):
                self.found = True
                return text[: min(places)]
        held = 0 if last else held
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _skip(self, text: str, last: bool) -> int:
        """How many characters at the beginning are stop strings; notes whether the beginning is over."""
        at = 0
        while at < len(text):
            rest = text[at:]
            if not last and any(stop.startswith(rest) for stop in self._stops if len(stop) > len(rest)):
                return at
            whole = [len(stop) for stop in self._stops if rest.startswith(stop)]
            if not whole:
                self._beginning = False
                return at
            at += max(whole)
        return at

    def _beginnings(self, text: str) -> int:
        """How many characters at the end of the text begin a stop string."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _release(self, last: bool) -> tuple[TokenDetail, ...]:
        """The tokens whose text has been passed on; at the end also one that is cut."""
        lengths = align(self._text, [detail.drawn.text for detail in self._waiting])
        missing = len(self._waiting) - len(lengths)
        number = at = 0
        if self.found:
            lengths += [0] * missing
            while number < len(self._waiting) and at < self._passed:
                at += lengths[number]
                number += 1
            released, self._waiting = tuple(self._waiting[:number]), []
            return released
        if last or missing > _MAX_WAITING:
            number, at = len(self._waiting), min(self._passed, len(self._text))
        else:
            while number < len(lengths) and at + lengths[number] <= self._passed:
                at += lengths[number]
                number += 1
        released, self._waiting = tuple(self._waiting[:number]), self._waiting[number:]
        self._text, self._passed = self._text[at:], self._passed - at
        return released
