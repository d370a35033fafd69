"""ChunkedPrefillPolicy: chooses the size and the time of prefill chunks. Uses no torch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection
from statistics import fmean, linear_regression

_MIN_CHUNK = 16  # tokens; shorter chunks take about as long
_WINDOW = 16  # chunks that the cost model remembers
_WORTHWHILE = 1.5  # times the seconds of the shortest chunk


class ChunkedPrefillPolicy:
    """Chooses size and time of prefill chunks, so that decoding requests do not stall for long.

    While no request decodes, chunks of the largest size run one after the other. Otherwise the size of a
    chunk is limited, so that its expected time is at most `max_decode_stall_s` seconds. If even the shortest
    chunk takes longer, `_WORTHWHILE` times the time of the shortest one is allowed. The first chunk of a
    larger size may take about a third longer than expected. After a chunk, decoding gets as much time as the
    chunk took, and at least one step.
    """

    def __init__(self, max_chunk: int, max_decode_stall_s: float) -> None:
        self._max_chunk, self._max_decode_stall_s = max_chunk, max_decode_stall_s
        self._cost = PrefillCostModel()
        self._next_prefill = 0.0
        self._prefilled_last = False

    def may_prefill(self, now: float, others_decode: bool) -> bool:
        """Return whether a prefill chunk may run at `now` (in seconds), rather than a decode step."""
        return not others_decode or (not self._prefilled_last and now >= self._next_prefill)

    def chunk_size(self, others_decode: bool) -> int:
        """Return the most tokens of the next chunk: the largest size, halved until its expected time fits."""
        chunk = self._max_chunk
        if not others_decode or not self._cost.is_known:
            return chunk
        most_s, shortest_s = self._max_decode_stall_s, self._cost.seconds(_MIN_CHUNK)
        # If even the shortest chunk exceeds the limit, allow a longer one that takes little more time.
        if self._cost.quickest > most_s and math.isfinite(shortest_s):
            most_s = max(most_s, _WORTHWHILE * shortest_s)
        while chunk > _MIN_CHUNK and self._cost.seconds(chunk) > most_s:
            chunk = max(chunk // 2, _MIN_CHUNK)
        return chunk

    def record_chunk(self, tokens: int, seconds: float, now: float, synchronized: bool = True) -> None:
        """Record a chunk that took `seconds` and ended at `now`.

        `synchronized`: whether the device had finished the chunk; only then do the seconds count as its cost.
        """
        if synchronized:
            self._cost.add(tokens, seconds)
        self._next_prefill = now + seconds
        self._prefilled_last = True

    def record_decode(self) -> None:
        """Record a decode step."""
        self._prefilled_last = False


class PrefillCostModel:
    """Predicts the seconds of a prefill chunk: a fixed cost plus a cost per token, fitted to the last chunks.

    The fixed cost dominates short chunks, on GPUs and on CPUs; a purely proportional model would overrate
    tokens after the short last chunk of a prompt. Predictions include the largest error of the last chunks.

    Attributes:
        quickest: the seconds of the fastest of the last chunks, whatever its size.
    """

    def __init__(self) -> None:
        self._chunks: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self._fixed, self._per_token, self._margin = 0.0, 0.0, 1.0
        self.quickest = 0.0

    @property
    def is_known(self) -> bool:
        """Return whether any chunk has been recorded."""
        return bool(self._chunks)

    def add(self, tokens: int, seconds: float) -> None:
        """Record the seconds of a chunk."""
        self._chunks.append((tokens, seconds))
        self._fixed, self._per_token = fit_affine(self._chunks)
        self.quickest = min(took for _, took in self._chunks)  # a lower bound for predictions
        self._margin = max(
            took / (max(self._affine(size), self.quickest) or 1.0) for size, took in self._chunks
        )

    def seconds(self, tokens: int) -> float:
        """Predict the seconds of a chunk; infinity if it is over twice as long as the longest recorded one.

        If all recorded chunks have one size, the fixed cost is unknown. It is then assumed to be half of the
        total for longer chunks.
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
    """Fit y = a + b x to points of positive numbers by least squares; return (a, b), neither negative."""
    xs, ys = zip(*points, strict=True)
    proportional = 0.0, fmean(ys) / fmean(xs)
    if min(xs) == max(xs):
        return proportional
    slope, intercept = linear_regression(xs, ys)
    return (intercept, slope) if min(slope, intercept) >= 0 else proportional
