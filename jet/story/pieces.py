"""Spans of text by one author, and the pieces of them that make up a story (a piece table).

All offsets in `jet.story` count characters as Python does (code points); `offsets.py` converts the browser's
UTF-16 offsets.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, TypeAlias

from jet.api import SamplingParams, TokenLogprob
from jet.story.errors import StoryError
from jet.story.guidance import Guidance

Author = Literal["writer", "model"]

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_OTHER_BREAKS = re.compile("[\v\f\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Token:
    """A token that the model generated.

    Attributes:
        id: the token's id in the model's vocabulary.
        length: the number of characters that it added to the text; 0 if it ends inside a character or adds
            none.
        logprob: natural logarithm of its probability, finite; None if not requested.
        alternatives: the likeliest tokens at this position, likeliest first, with finite log-probabilities;
            this token may be among them.
    """

    id: int
    length: int
    logprob: float | None = None
    alternatives: tuple[TokenLogprob, ...] = ()

    def __post_init__(self) -> None:
        if self.length < 0:
            raise StoryError(f"A token cannot have {self.length} characters.")
        for logprob in (self.logprob, *(other.logprob for other in self.alternatives)):
            if logprob is not None and not math.isfinite(logprob):
                raise StoryError(f"A log-probability must be a finite number, not {logprob}.")


@dataclass(frozen=True)
class Generation:
    """How a span was generated, so that it can be generated again.

    Attributes:
        model: `EngineInfo.model`.
        sampling: the sampling parameters, with the seed that was used.
        inserted: whether text followed the span when it was generated.
        finish_reason: as in `RequestStats`; None while generating, or if interrupted.
        tokens: the generated tokens in order, from the start of the span's text; may be empty.
        stops: the stop strings.
        guidance: memory, note, lorebook and instruction; None if there were none.
    """

    model: str
    sampling: SamplingParams
    inserted: bool = False
    finish_reason: str | None = None
    tokens: tuple[Token, ...] = ()
    stops: tuple[str, ...] = ()
    guidance: Guidance | None = None


@dataclass(frozen=True)
class Span:
    """A text by one author, written or generated at once. Immutable; edits use pieces of it."""

    id: int
    text: str
    generation: Generation | None = None  # None: the writer's

    @property
    def author(self) -> Author:
        """Return the author of the span."""
        return "writer" if self.generation is None else "model"


class Piece(NamedTuple):
    """The characters of a span from `start` up to `end` (exclusive)."""

    span: Span
    start: int
    end: int

    @property
    def text(self) -> str:
        """Return the characters of the piece."""
        text = self.span.text
        return text if self.end - self.start == len(text) else text[self.start : self.end]


Pieces: TypeAlias = tuple[Piece, ...]


class Range(NamedTuple):
    """The author of a branch's text from `start` up to `end` (exclusive)."""

    start: int
    end: int
    author: Author
    span: int


class TokenRange(NamedTuple):
    """The place of a whole token in a branch's text."""

    start: int
    end: int
    span: int
    token: Token


def to_valid_unicode(text: str) -> str:
    """Replace NUL and lone surrogates, which UTF-8 files and browsers cannot hold, by U+FFFD.

    Each replacement is one character, so offsets stay the same. Two surrogates that form a pair become one
    character.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", REPLACEMENT)


def clean(text: str) -> str:
    """Replace characters as `to_valid_unicode` does, and normalize line breaks to LF, as a text box does."""
    return normalize_line_breaks(to_valid_unicode(text))


def normalize_line_breaks(text: str) -> str:
    """Normalize CR LF and CR to LF, as a text box does."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def normalize_file_line_breaks(text: str) -> str:
    """Normalize all kinds of line breaks in a text from a file to "\\n".

    Word's soft line break, a form feed, and Unicode's next line, line separator and paragraph separator break
    lines, too: a text box would show them as boxes. `line_breaks.js` does the same to what is pasted.
    """
    return _OTHER_BREAKS.sub("\n", clean(text))


def as_piece(span: Span) -> Piece:
    """Return a whole span as a piece."""
    return Piece(span, 0, len(span.text))


def text_of(pieces: Sequence[Piece]) -> str:
    """Return the concatenated text of pieces."""
    return "".join(piece.text for piece in pieces)


def length_of(pieces: Sequence[Piece]) -> int:
    """Return the total number of characters of pieces."""
    return sum(piece.end - piece.start for piece in pieces)


def ends_at_token_boundary(pieces: Pieces) -> bool:
    """Return whether the text ends at the end of a generated token that the writer has not edited."""
    if not pieces or (generation := pieces[-1].span.generation) is None:
        return False
    span, start, end = pieces[-1]
    may_end_inside_token = generation.finish_reason == "stop_string" and end == len(
        span.text
    )  # perhaps within a token
    if may_end_inside_token or not generation.tokens:
        return end == len(span.text) and not may_end_inside_token
    at = 0
    for token in generation.tokens:
        at += token.length
        if at >= end:
            return at == end and at - token.length >= start
    return False


class PieceTable:
    """Slices a sequence of pieces, in time that depends on the slice and hardly on the whole sequence."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(piece.end - piece.start for piece in pieces))

    def slice(self, start: int, end: int | None = None) -> Pieces:
        """Return the pieces of the text from `start` up to `end` (exclusive); None for the text's end."""
        length = self._ends[-1] if self._ends else 0
        end = length if end is None else min(end, length)
        found: list[Piece] = []
        index = bisect_right(self._ends, start)
        while start < end:
            span, _, stop = self._pieces[index]
            shift = stop - self._ends[index]  # from offsets in the text to offsets in the span
            found.append(Piece(span, start + shift, min(end + shift, stop)))
            start = self._ends[index]
            index += 1
        return tuple(found)


def ranges(pieces: Sequence[Piece]) -> list[Range]:
    """Return the author of every range of the text; empty pieces give no range."""
    found: list[Range] = []
    at = 0
    for span, start, end in pieces:
        if end > start:
            found.append(Range(at, at + end - start, span.author, span.id))
        at += end - start
    return found


def token_ranges(pieces: Sequence[Piece]) -> Iterator[TokenRange]:
    """Yield the generated tokens that are in the text with all their characters."""
    at = 0
    for span, start, end in pieces:
        offset = 0
        for token in span.generation.tokens if span.generation else ():
            if offset >= end:
                break
            if token.length and offset >= start and offset + token.length <= end:
                shift = at - start
                yield TokenRange(offset + shift, offset + token.length + shift, span.id, token)
            offset += token.length
        at += end - start
