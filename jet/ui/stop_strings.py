"""Stop strings: end a stream at the first one, and parse and format them for the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from jet.api import TokenChunk, TokenLogprobs
from jet.engine.stop_strings import StopMatcher
from jet.story.alignment import align

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
_MAX_PENDING = 64  # tokens that are not found in the text; more of them are passed on as they are

_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\t": "\t"}
_ESCAPE = re.compile(r"\\[\\nt]")
_TO_ESCAPE = re.compile(r"\\(?=[\\nt\n\t])|[\n\t]")
_UNESCAPES = {character: escape for escape, character in _ESCAPES.items()}


def parse_stop(line: str) -> str:
    """Parse a line of the page's field into a stop string.

    "\\n" stands for a line break, "\\t" for a tab, and "\\\\" for a backslash. Other backslashes stand for
    themselves.
    """
    return _ESCAPE.sub(lambda escape: _ESCAPES[escape.group()], line)


def format_stop(stop: str) -> str:
    """Format a stop string as a line that `parse_stop` reads back."""
    return _TO_ESCAPE.sub(lambda character: _UNESCAPES[character.group()], stop)


class StopStringFilter:
    """Passes a stream on up to the first stop string, each token with its text.

    Text that may be the beginning of a stop string is withheld until more text decides it. Stop strings at
    the very beginning do not end the stream, since a story that stopped at one could then never continue.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._matcher = StopMatcher(stops, skip_leading=True)
        self._pending: list[TokenLogprobs] = []  # tokens whose text has not been passed on whole
        self._text = ""  # from the first of them on
        self._emitted = 0  # characters of it that have been passed on

    @property
    def matched(self) -> bool:
        """Return whether a stop string was found. Nothing is passed on after that."""
        return self._matcher.matched

    def filter(self, chunk: TokenChunk) -> TokenChunk:
        """Return `chunk` with the text and tokens that can be shown now, including those withheld before."""
        last = chunk.stats.finish_reason is not None
        if not self._matcher.stops:
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
        """Add text without tokens; return the text that can be shown now.

        `last`: whether this is the end of the stream; nothing is withheld then.
        """
        return self._matcher.push(text, last)

    def _release_tokens(self, last: bool) -> tuple[TokenLogprobs, ...]:
        """Remove and return the tokens whose text has been emitted.

        `last`: whether this is the end of the stream. A token whose text a stop string cuts is returned, too.
        """
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
