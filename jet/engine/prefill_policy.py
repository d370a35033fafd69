"""ChunkedPrefillPolicy: how much of a prompt is read at once, and when. Plain data, as the scheduler."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import fmean, linear_regression

# Pieces of prompts are this many tokens at least: shorter ones cost more than they help.
_MIN_CHUNK = 16
_WINDOW = 16  # pieces
_WORTHWHILE = 1.5  # times as long as the shortest chunk


class ChunkedPrefillPolicy:
    """How much of a prompt is read at once, and when, so that those who write do not pause for long.

    Where nobody writes, the largest pieces are read one after the other. Otherwise a chunk takes `pause_s` at
    most, by what the last ones took, and a third more once in a while, when a longer one is tried. As much
    time or a step goes to writing before the next one.
    """

    def __init__(self, max_chunk: int, max_decode_stall_s: float) -> None:
        self._max_chunk, self._max_decode_stall_s = max_chunk, max_decode_stall_s
        self._cost = PrefillCostModel()
        self._next_prefill = 0.0
        self._prefilled_last = False

    def may_prefill(self, now: float, others_decode: bool) -> bool:
        """Whether it is the readers' turn."""
        return not others_decode or (not self._prefilled_last and now >= self._next_prefill)

    def chunk_size(self, others_decode: bool) -> int:
        """Tokens to read at once: the largest chunk, halved until it is short enough."""
        chunk = self._max_chunk
        if not others_decode or not self._cost.is_known:
            return chunk
        most_s, shortest_s = self._max_decode_stall_s, self._cost.seconds(_MIN_CHUNK)
        # Where even the quickest took too long, a chunk that takes little longer is the better bargain.
        if self._cost.quickest > most_s and math.isfinite(shortest_s):
            most_s = max(most_s, _WORTHWHILE * shortest_s)
        while chunk > _MIN_CHUNK and self._cost.seconds(chunk) > most_s:
            chunk = max(chunk // 2, _MIN_CHUNK)
        return chunk

    def record_chunk(self, tokens: int, seconds: float, now: float, synchronized: bool = True) -> None:
        """A chunk has been read, which ended now.

        Before it has `synchronized`, nobody knows what it costs.
        """
        if synchronized:
            self._cost.add(tokens, seconds)
        self._next_prefill = now + seconds
        self._prefilled_last = True

    def record_decode(self) -> None:
        """A step has been made."""
        self._prefilled_last = False


class PrefillCostModel:
    """How long a chunk of a prompt takes: so much in any case, and so much a token, by the last pieces.

    What is fixed is most of it for short ones, on a GPU and on a CPU. So the short end of a prompt must not
    be taken for the cost of its tokens. As much as the worst of the last pieces was off, the next may be.

    Attributes:
        quickest: what the quickest of the last pieces took, however short it was.
    """

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._fixed, self._per_token, self._margin = 0.0, 0.0, 1.0
        self.quickest = 0.0

    @property
    def is_known(self) -> bool:
        """Whether anything is."""
        return bool(self._chunks)

    def add(self, tokens: int, seconds: float) -> None:
        """A chunk has taken so long."""
        self._chunks.append((tokens, seconds))
        self._fixed, self._per_token = fit_affine(self._chunks)
        self.quickest = min(took for _, took in self._chunks)  # nothing takes less, whatever the line says
        self._margin = max(
            took / (max(self._affine(size), self.quickest) or 1.0) for size, took in self._chunks
        )

    def seconds(self, tokens: int) -> float:
        """What a chunk may take; infinity if it is more than twice as long as any that is known.

        Where all were of one length, nobody knows what is fixed; for a longer one that is taken to be half.
        """
        sizes = {size for size, _ in self._chunks}
        if tokens > 2 * max(sizes) + 1:  # halves are rounded down
            return math.inf
        took = self._margin * self._affine(tokens)
        if len(sizes) == 1 and tokens > max(sizes):
            took = (took + took * max(sizes) / tokens) / 2
        return took

    def _affine(self, tokens: int) -> float:
        return self._fixed + self._per_token * tokens


def fit_affine(points: Collection[tuple[float, float]]) -> tuple[float, float]:
    """`(a, b)` of the line a + b x through points of positive numbers, by least squares, neither negative."""
    xs, ys = zip(*points, strict=True)
    proportional = 0.0, fmean(ys) / fmean(xs)
    if min(xs) == max(xs):
        return proportional
    slope, intercept = linear_regression(xs, ys)
    return (intercept, slope) if min(slope, intercept) >= 0 else proportional
