"""Apply the writer's changes to pieces; unchanged text keeps its author."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jet.story.diff import Change
from jet.story.pieces import Piece, Pieces, PieceTable, Span, as_piece, text_of

_MAX_MERGED_CHARACTERS = (
    2_000  # characters up to which what the writer types in several goes becomes one span
)
_MAX_SPAN_CHARACTERS = 16_000  # of one span of the writer: what is cut out of a span is copied


def splice(pieces: Pieces, changes: Sequence[Change], new_id: Callable[[], int]) -> Pieces:
    """Apply the writer's changes to the text of pieces.

    A shortened piece of the model keeps its whole span, since the span's tokens count from its start. A
    shortened piece of the writer gets a new span with only the text that is left, so that deleted text does
    not end up in files.

    Args:
        pieces: the text to change.
        changes: in order and disjoint, as `diff.changes` returns them.
        new_id: returns ids for new spans.
    """
    table = PieceTable(pieces)
    builder = _PieceBuilder(new_id)
    at = 0
    for change in changes:
        builder.append(table.slice(at, change.start))
        builder.insert(change.text)
        at = change.end
    builder.append(table.slice(at))
    return tuple(builder.pieces)


class _PieceBuilder:
    """Builds a sequence of pieces, merging neighbors where possible."""

    def __init__(self, new_id: Callable[[], int]) -> None:
        self.pieces: list[Piece] = []
        self._new_id = new_id
        self._new_spans: set[int] = (
            set()
        )  # ids of spans made here: only those are joined with their neighbors

    def insert(self, text: str) -> None:
        """Append text of the writer."""
        for start in range(0, len(text), _MAX_SPAN_CHARACTERS):
            self._push(self._span(text[start : start + _MAX_SPAN_CHARACTERS]))

    def append(self, pieces: Pieces) -> None:
        """Append existing pieces."""
        for piece in pieces:
            if piece.span.author == "writer" and piece != as_piece(piece.span):
                self._push(self._span(piece.text))
            else:
                self._push(piece)

    def _push(self, piece: Piece) -> None:
        if self.pieces:
            last = self.pieces[-1]
            if last.span is piece.span and last.end == piece.start:
                piece = Piece(last.span, last.start, piece.end)
                self.pieces.pop()
            elif self._can_merge(last, piece):
                piece = self._span(text_of((last, piece)))
                self.pieces.pop()
        self.pieces.append(piece)

    def _can_merge(self, last: Piece, piece: Piece) -> bool:
        return (
            last.span.author == piece.span.author == "writer"
            and not self._new_spans.isdisjoint((last.span.id, piece.span.id))
            and len(last.span.text) + len(piece.span.text) <= _MAX_MERGED_CHARACTERS
        )

    def _span(self, text: str) -> Piece:
        span = Span(self._new_id(), text)
        self._new_spans.add(span.id)
        return as_piece(span)
