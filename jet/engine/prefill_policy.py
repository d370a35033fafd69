"""Pace: how much of a prompt is read at once, and when. Plain data, as the scheduler."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import fmean, linear_regression

# Pieces of prompts are this many tokens at least: shorter ones cost more than they help.
_SHORTEST_PIECE = 16
_REMEMBERED = 16  # pieces
_BARGAIN = 1.5  # times as long as the shortest piece


class Pace:
    """How much of a prompt is read at once, and when, so that those who write do not pause for long.

    Where nobody writes, the largest pieces are read one after the other. Otherwise a piece takes `pause_s` at
    most, by what the last ones took, and a third more once in a while, when a longer one is tried. As much
    time or a step goes to writing before the next one.
    """

    def __init__(self, largest: int, pause_s: float) -> None:
        self._largest, self._pause_s = largest, pause_s
        self._cost = PieceCost()
        self._next_read = 0.0
        self._read_last = False

    def may_read(self, now: float, others_write: bool) -> bool:
        """Whether it is the readers' turn."""
        return not others_write or (not self._read_last and now >= self._next_read)

    def piece(self, others_write: bool) -> int:
        """Tokens to read at once: the largest piece, halved until it is short enough."""
        piece = self._largest
        if not others_write or not self._cost.known:
            return piece
        most_s, shortest_s = self._pause_s, self._cost.seconds(_SHORTEST_PIECE)
        # Where even the quickest took too long, a piece that takes little longer is the better bargain.
        if self._cost.quickest > most_s and math.isfinite(shortest_s):
            most_s = max(most_s, _BARGAIN * shortest_s)
        while piece > _SHORTEST_PIECE and self._cost.seconds(piece) > most_s:
            piece = max(piece // 2, _SHORTEST_PIECE)
        return piece

    def have_read(self, tokens: int, seconds: float, now: float, settled: bool = True) -> None:
        """A piece has been read, which ended now. Before it has `settled`, nobody knows what it costs."""
        if settled:
            self._cost.add(tokens, seconds)
        self._next_read = now + seconds
        self._read_last = True

    def have_written(self) -> None:
        """A step has been made."""
        self._read_last = False


class PieceCost:
    """How long a piece of a prompt takes: so much in any case, and so much a token, by the last pieces.

    What is fixed is most of it for short ones, on a GPU and on a CPU. So the short end of a prompt must not
    be taken for the cost of its tokens. As much as the worst of the last pieces was off, the next may be.

    Attributes:
        quickest: what the quickest of the last pieces took, however short it was.
    """

    def __init__(self) -> None:
        self._pieces: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
        self._fixed, self._each, self._off = 0.0, 0.0, 1.0
        self.quickest = 0.0

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self._pieces)

    def add(self, tokens: int, seconds: float) -> None:
        """A piece has taken so long."""
        self._pieces.append((tokens, seconds))
        self._fixed, self._each = fit_line(self._pieces)
        self.quickest = min(took for _, took in self._pieces)  # nothing takes less, whatever the line says
        self._off = max(took / (max(self._line(size), self.quickest) or 1.0) for size, took in self._pieces)

    def seconds(self, tokens: int) -> float:
        """What a piece may take; infinity if it is more than twice as long as any that is known.

        Where all were of one length, nobody knows what is fixed; for a longer one that is taken to be half.
        """
        sizes = {size for size, _ in self._pieces}
        if tokens > 2 * max(sizes) + 1:  # halves are rounded down
            return math.inf
        took = self._off * self._line(tokens)
        if len(sizes) == 1 and tokens > max(sizes):
            took = (took + took * max(sizes) / tokens) / 2
        return took

    def _line(self, tokens: int) -> float:
        return self._fixed + self._each * tokens


def fit_line(points: Collection[tuple[float, float]]) -> tuple[float, float]:
    """`(a, b)` of the line a + b x through points of positive numbers, by least squares, neither negative."""
    xs, ys = zip(*points, strict=True)
    proportional = 0.0, fmean(ys) / fmean(xs)
    if min(xs) == max(xs):
        return proportional
    slope, intercept = linear_regression(xs, ys)
    return (intercept, slope) if min(slope, intercept) >= 0 else proportional
