"""Line breaks as a text box has them: "\\n" alone.

A browser's text box turns CR LF and CR into LF, and holds everything else as it is. A text that still had
them here would differ from the one on the page, and places in it would not be those that the page means. So
whatever comes in is normalised: whole texts by `spans.clean`, streams by `StreamBreaks`, and stories that
were kept before by `settle_breaks`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise

from jet.api import Alternative, TokenChunk, TokenDetail
from jet.story.pieces import Piece, Pieces, Span, clean
from jet.story.tree import Branch


class Breaks:
    """Turns the line breaks of a text into "\\n", piece by piece, also where one comes in two pieces."""

    def __init__(self) -> None:
        self._after_cr = False

    def push(self, text: str) -> str:
        """The next piece. An LF right behind a CR belongs to the line break that the CR has made."""
        if not text:
            return text
        begun, self._after_cr = self._after_cr, text.endswith("\r")
        return clean(text[1:] if begun and text.startswith("\n") else text)


class StreamBreaks:
    """The same for the chunks of a stream, and for the texts of their tokens."""

    def __init__(self) -> None:
        self._text, self._tokens = Breaks(), Breaks()

    def chunk(self, chunk: TokenChunk) -> TokenChunk:
        """The next chunk, with our line breaks."""
        details = tuple(map(self._detail, chunk.details))
        return replace(chunk, text=self._text.push(chunk.text), details=details)

    def _detail(self, detail: TokenDetail) -> TokenDetail:
        drawn = replace(detail.drawn, text=self._tokens.push(detail.drawn.text))
        return TokenDetail(drawn, tuple(map(_alternative, detail.alternatives)))


def _alternative(other: Alternative) -> Alternative:
    return replace(other, text=clean(other.text)) if "\r" in other.text else other


def settle_breaks(branches: Mapping[int, Branch]) -> dict[int, Branch]:
    """Branches whose text has our line breaks; every character keeps its author and its token."""
    rows = {id: _joined(branch.pieces) for id, branch in branches.items()}
    spans = {piece.span.id: piece.span for row in rows.values() for piece in row}
    if not any("\r" in span.text for span in spans.values()):
        return dict(branches)
    # A piece may begin or end between a CR and its LF: there, both of them stay a line break.
    ends: dict[int, set[int]] = {id: set() for id in spans}
    for row in rows.values():
        for span, start, end in row:
            ends[span.id].update((start, end))
    shorter = {id: _Shorter(span, ends[id]) for id, span in spans.items()}
    return {
        id: replace(branch, pieces=tuple(shorter[piece.span.id].piece(piece) for piece in rows[id]))
        for id, branch in branches.items()
    }


def _joined(pieces: Pieces) -> Pieces:
    """The pieces without an LF that belongs to a CR at the end of the piece before."""
    row: list[Piece] = []
    after_cr = False
    for span, start, end in pieces:
        first = start + (after_cr and span.text.startswith("\n", start))
        after_cr = span.text.endswith("\r", start, end)
        if first < end:
            row.append(Piece(span, first, end))
    return tuple(row)


class _Shorter:
    """A span with our line breaks, and where its characters have gone."""

    def __init__(self, span: Span, ends: set[int]) -> None:
        text = span.text
        pairs = (at for at in range(1, len(text)) if text[at - 1] == "\r" and text[at] == "\n")
        self._gone = [at for at in pairs if at not in ends]
        if "\r" in text:
            gone = set(self._gone)
            kept = "".join(character for at, character in enumerate(text) if at not in gone)
            span = replace(span, text=kept.replace("\r", "\n"))
        if self._gone and span.generation is not None:
            places = accumulate((token.length for token in span.generation.tokens), initial=0)
            lengths = (self._place(end) - self._place(start) for start, end in pairwise(places))
            tokens = zip(span.generation.tokens, lengths, strict=True)
            made = tuple(replace(token, length=length) for token, length in tokens)
            span = replace(span, generation=replace(span.generation, tokens=made))
        self._span = span

    def piece(self, piece: Piece) -> Piece:
        """A piece of the span as it was, as one of the span as it is."""
        return Piece(self._span, self._place(piece.start), self._place(piece.end))

    def _place(self, at: int) -> int:
        return at - bisect_left(self._gone, at)
