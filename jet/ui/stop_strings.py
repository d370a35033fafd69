"""Stop strings: filter a stream up to the first one, and parse and format them for the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from jet.api import TokenChunk, TokenLogprobs
from jet.story.alignment import align

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
_MAX_PENDING = 64  # tokens that are not found in the text; more of them are passed on as they are

_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\t": "\t"}
_ESCAPE = re.compile(r"\\[\\nt]")
_TO_ESCAPE = re.compile(r"\\(?=[\\nt\n\t])|[\n\t]")
_UNESCAPES = {character: escape for escape, character in _ESCAPES.items()}


def parse_stop(line: str) -> str:
    """Parse a line of the page's field: "\\\\n" is a line break, "\\\\t" a tab, "\\\\\\\\" a backslash where
    needed."""
    return _ESCAPE.sub(lambda escape: _ESCAPES[escape.group()], line)


def format_stop(stop: str) -> str:
    """Format a stop string as a line that `parse_stop` reads back."""
    return _TO_ESCAPE.sub(lambda character: _UNESCAPES[character.group()], stop)


class StopStringFilter:
    """Passes a stream on up to the first stop string, each token with its text.

    Text that may be the beginning of a stop string is withheld until that is known. Stop strings at the very
    beginning end nothing: a story that stopped at one could never continue.

    Attributes:
        matched: whether a stop string was found. Nothing is passed on after that.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self.matched = False
        self._stops = [stop for stop in stops if stop]
        self._withheld = ""
        self._at_start = True  # nothing but stop strings has come
        self._pending: list[TokenLogprobs] = []  # tokens whose text has not been passed on whole
        self._text = ""  # from the first of them on
        self._emitted = 0  # characters of it that have been passed on

    def filter(self, chunk: TokenChunk) -> TokenChunk:
        """Return the part of the stream that can be shown after this chunk."""
        last = chunk.stats.finish_reason is not None
        if not self._stops:
            return chunk
        was_matched = self.matched
        text = self.push(chunk.text, last)
        if was_matched:
            return replace(chunk, text="", logprobs=())
        self._pending += chunk.logprobs
        self._text += chunk.text
        self._emitted += len(text)
        return replace(chunk, text=text, logprobs=self._release_tokens(last))

    def push(self, text: str, last: bool = False) -> str:
        """Do the same for text alone; with `last`, return all that is left."""
        if self.matched:
            return ""
        text = self._withheld + text
        start = self._skip_leading_stops(text, last) if self._at_start else 0
        withheld = len(text) - start
        if not self._at_start:
            withheld = self._partial_match_length(text[start:])
            matches = [at for stop in self._stops if (at := text.find(stop, start)) >= 0]
            # One that begins further ahead may still come to its end.
            if matches and (last or min(matches) <= len(text) - withheld):
                self.matched = True
                return text[: min(matches)]
        withheld = 0 if last else withheld
        self._withheld = text[len(text) - withheld :]
        return text[: len(text) - withheld]

    def _skip_leading_stops(self, text: str, last: bool) -> int:
        """Return how many leading characters are stop strings; note whether the beginning is over."""
        at = 0
        while at < len(text):
            rest = text[at:]
            if not last and any(stop.startswith(rest) for stop in self._stops if len(stop) > len(rest)):
                return at
            whole = [len(stop) for stop in self._stops if rest.startswith(stop)]
            if not whole:
                self._at_start = False
                return at
            at += max(whole)
        return at

    def _partial_match_length(self, text: str) -> int:
        """Return how many trailing characters begin a stop string."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _release_tokens(self, last: bool) -> tuple[TokenLogprobs, ...]:
        """Return the tokens whose text has been emitted; at the end also one that is cut."""
        lengths = align(self._text, [detail.sampled.text for detail in self._pending])
        unaligned = len(self._pending) - len(lengths)
        number = at = 0
        if self.matched:
            lengths += [0] * unaligned
            while number < len(self._pending) and at < self._emitted:
                at += lengths[number]
                number += 1
            released, self._pending = tuple(self._pending[:number]), []
            return released
        if last or unaligned > _MAX_PENDING:
            number, at = len(self._pending), min(self._emitted, len(self._text))
        else:
            while number < len(lengths) and at + lengths[number] <= self._emitted:
                at += lengths[number]
                number += 1
        released, self._pending = tuple(self._pending[:number]), self._pending[number:]
        self._text, self._emitted = self._text[at:], self._emitted - at
        return released
