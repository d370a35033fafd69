"""What the writer changed, put between what stays and keeps its author."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jet.story.diff import Change
from jet.story.pieces import Cutter, Piece, Pieces, Span, text_of, whole

_MERGED = 2_000  # characters up to which what the writer types in several goes becomes one span
_LARGEST = 16_000  # of one span of the writer: what is cut out of a span is copied


def splice(pieces: Pieces, changes: Sequence[Change], new_id: Callable[[], int]) -> Pieces:
    """The pieces with changes made to their text by the writer.

    A span of the model stays whole behind its pieces, since its tokens count from its start. One of the
    writer is shortened, so that what was deleted is not carried along in every file.

    Args:
        pieces: the text to change.
        changes: in order and apart from each other, as `diff.changes` gives them.
        new_id: gives ids for new spans.
    """
    cutter = Cutter(pieces)
    row = _Row(new_id)
    at = 0
    for change in changes:
        row.keep(cutter.cut(at, change.start))
        row.write(change.text)
        at = change.end
    row.keep(cutter.cut(at))
    return tuple(row.pieces)


class _Row:
    """Pieces put in a row, joined where they belong together."""

    def __init__(self, new_id: Callable[[], int]) -> None:
        self.pieces: list[Piece] = []
        self._new_id = new_id
        self._fresh: set[int] = set()  # ids of spans made here: only those are joined with their neighbours

    def write(self, text: str) -> None:
        """Append words of the writer."""
        for start in range(0, len(text), _LARGEST):
            self._append(self._span(text[start : start + _LARGEST]))

    def keep(self, pieces: Pieces) -> None:
        """Append pieces that were there."""
        for piece in pieces:
            if piece.span.author == "writer" and piece != whole(piece.span):
                self._append(self._span(piece.text))
            else:
                self._append(piece)

    def _append(self, piece: Piece) -> None:
        if self.pieces:
            last = self.pieces[-1]
            if last.span is piece.span and last.end == piece.start:
                piece = Piece(last.span, last.start, piece.end)
                self.pieces.pop()
            elif self._belong_together(last, piece):
                piece = self._span(text_of((last, piece)))
                self.pieces.pop()
        self.pieces.append(piece)

    def _belong_together(self, last: Piece, piece: Piece) -> bool:
        return (
            last.span.author == piece.span.author == "writer"
            and not self._fresh.isdisjoint((last.span.id, piece.span.id))
            and len(last.span.text) + len(piece.span.text) <= _MERGED
        )

    def _span(self, text: str) -> Piece:
        span = Span(self._new_id(), text)
        self._fresh.add(span.id)
        return whole(span)
