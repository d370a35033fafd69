"""Normalize line breaks to "\\n", as a text box does.

A browser's text box turns CR LF and CR into LF and keeps everything else. Text with other line breaks would
differ from the text on the page, and offsets into it would be wrong. So all input is normalized: whole texts
by `pieces.clean`, streams by `StreamLineBreaks`, and saved stories by `normalize_branches`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate, pairwise

from jet.api import TokenChunk, TokenLogprob, TokenLogprobs
from jet.story.pieces import Piece, Pieces, Span, clean
from jet.story.tree import Branch


class LineBreaks:
    """Normalizes the line breaks of a text to "\\n" incrementally.

    A line break may be split over two pushes.
    """

    def __init__(self) -> None:
        self._after_cr = False

    def push(self, text: str) -> str:
        """Normalize the next part of the text.

        An LF at its start belongs to the line break of a CR at the end of the previous part.
        """
        if not text:
            return text
        after_cr, self._after_cr = self._after_cr, text.endswith("\r")
        return clean(text[1:] if after_cr and text.startswith("\n") else text)


class StreamLineBreaks:
    """Normalizes the chunks of a stream and the texts of their tokens."""

    def __init__(self) -> None:
        self._text, self._tokens = LineBreaks(), LineBreaks()

    def chunk(self, chunk: TokenChunk) -> TokenChunk:
        """Normalize the next chunk."""
        details = tuple(map(self._detail, chunk.logprobs))
        return replace(chunk, text=self._text.push(chunk.text), logprobs=details)

    def _detail(self, detail: TokenLogprobs) -> TokenLogprobs:
        drawn = replace(detail.sampled, text=self._tokens.push(detail.sampled.text))
        return TokenLogprobs(drawn, tuple(map(_alternative, detail.top_logprobs)))


def _alternative(other: TokenLogprob) -> TokenLogprob:
    return replace(other, text=clean(other.text)) if "\r" in other.text else other


def normalize_branches(branches: Mapping[int, Branch]) -> dict[int, Branch]:
    """Normalize the text of branches; every character keeps its author and its token."""
    pieces_by_branch = {id: _merge_split_breaks(branch.pieces) for id, branch in branches.items()}
    spans = {piece.span.id: piece.span for joined in pieces_by_branch.values() for piece in joined}
    if not any("\r" in span.text for span in spans.values()):
        return dict(branches)
    # A piece may begin or end between a CR and its LF: there, both of them stay a line break.
    boundaries: dict[int, set[int]] = {id: set() for id in spans}
    for joined in pieces_by_branch.values():
        for span, start, end in joined:
            boundaries[span.id].update((start, end))
    normalized = {id: _NormalizedSpan(span, boundaries[id]) for id, span in spans.items()}
    return {
        id: replace(
            branch, pieces=tuple(normalized[piece.span.id].piece(piece) for piece in pieces_by_branch[id])
        )
        for id, branch in branches.items()
    }


def _merge_split_breaks(pieces: Pieces) -> Pieces:
    """Drop an LF that belongs to a CR at the end of the piece before."""
    joined: list[Piece] = []
    after_cr = False
    for span, start, end in pieces:
        first = start + (after_cr and span.text.startswith("\n", start))
        after_cr = span.text.endswith("\r", start, end)
        if first < end:
            joined.append(Piece(span, first, end))
    return tuple(joined)


class _NormalizedSpan:
    """A span with normalized line breaks, and the mapping of its offsets."""

    def __init__(self, span: Span, boundaries: set[int]) -> None:
        text = span.text
        crlf = (at for at in range(1, len(text)) if text[at - 1] == "\r" and text[at] == "\n")
        self._removed = [at for at in crlf if at not in boundaries]
        if "\r" in text:
            removed = set(self._removed)
            text_left = "".join(character for at, character in enumerate(text) if at not in removed)
            span = replace(span, text=text_left.replace("\r", "\n"))
        if self._removed and span.generation is not None:
            offsets = accumulate((token.length for token in span.generation.tokens), initial=0)
            lengths = (self._new_offset(end) - self._new_offset(start) for start, end in pairwise(offsets))
            tokens = zip(span.generation.tokens, lengths, strict=True)
            new_tokens = tuple(replace(token, length=length) for token, length in tokens)
            span = replace(span, generation=replace(span.generation, tokens=new_tokens))
        self._span = span

    def piece(self, piece: Piece) -> Piece:
        """Map a piece of the original span to one of the normalized span."""
        return Piece(self._span, self._new_offset(piece.start), self._new_offset(piece.end))

    def _new_offset(self, at: int) -> int:
        return at - bisect_left(self._removed, at)
