# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
"""Draw a token on a CPU: the compiled version of `jet.ops.sampling.sample`, with the repetition penalty.

The filters keep a prefix of the tokens sorted by probability. Instead of sorting all of them, tokens are
counted and their weights summed in bins of equal width, the likeliest first. Only the bin in which top-p ends
and the bin in which the random number falls are sorted, each some dozens of tokens.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jet.ops.numba.bound_operation import array
from jet.ops.numba.kernels import EXP_LOWEST, exact, exp, inlined, kernel
from jet.ops.sampling import NOT_A_NUMBER

_BINS = 2048
_MINUS_INFINITY = np.float32(-np.inf)
_TINY = float(torch.finfo(torch.float32).tiny)
# Part of the kernel's key on disk, where numba notices no change in another file.
_STAMP = -1 - zlib.crc32(Path(__file__).with_name("kernels.py").read_bytes())


@inlined
def _bin_of(scaled, factor):
    place = -scaled * factor
    return np.int64(place) if place < np.float32(_BINS - 1) else np.int64(_BINS - 1)


@exact
def _penalize(logits, seen, penalty, out):
    """Write the logits to `out`, with the repetition penalty for the tokens in the mask `seen`.

    An empty mask penalizes no token.
    """
    if seen.shape[0] == 0:
        for token in range(logits.shape[0]):
            out[token] = logits[token]
        return
    for token in range(logits.shape[0]):
        number = logits[token]
        more, less = number * penalty, number / penalty
        low, high = (more if more < less else less), (less if more < less else more)
        chosen = low if penalty > np.float32(1) else high
        out[token] = chosen if seen[token] and number == number else number


@inlined
def _gather(scaled, floor, factor, wanted, members):
    """Write the tokens of the bin `wanted` that are not below `floor` to `members`; return their number.

    They are sorted by descending logit, equal ones by ascending id.
    """
    count = 0
    for token in range(scaled.shape[0]):
        number = scaled[token]
        if number >= floor and number > _MINUS_INFINITY and _bin_of(number, factor) == wanted:
            members[count] = token
            count += 1
    gap = count // 2
    while gap > 0:  # Shell's sort
        for place in range(gap, count):
            moved = members[place]
            to = place
            while to >= gap:
                other = members[to - gap]
                ahead = scaled[moved] > scaled[other] or (scaled[moved] == scaled[other] and moved < other)
                if not ahead:
                    break
                members[to] = other
                to -= gap
            members[to] = moved
        gap = gap // 2 if gap != 2 else 1
    return count


@inlined
def _edge_of(scaled, wanted, counts, members):
    """Return the `wanted`-th largest of the numbers `scaled`, all of which are at most 0.

    `counts`, `members`: scratch memory.
    """
    low = np.float32(0)
    for number in scaled:
        low = number if number < low and number >= EXP_LOWEST else low
    factor = np.float32(_BINS) / -low if low < 0 else np.float32(0)
    counts[:] = 0
    for number in scaled:
        counts[_bin_of(number, factor)] += 1
    before, place = 0, 0
    while before + counts[place] < wanted:
        before += counts[place]
        place += 1
    count = _gather(scaled, _MINUS_INFINITY, factor, place, members)
    return scaled[members[wanted - before - 1]] if wanted - before <= count else _MINUS_INFINITY


def _drawing(stamp):  # noqa: C901
    """Return the kernel as a Python function.

    It compares the vocabulary's size with `stamp`. They are never equal; the comparison only makes the stamp
    a part of the cache's key.
    """

    def draw(logits, seen, settings, scaled, weights, sums, counts, members):  # noqa: C901
        penalty, temperature, min_p = np.float32(settings[0]), np.float32(settings[1]), settings[2]
        top_p, top_k, chance = settings[3], np.int64(settings[4]), settings[5]
        size = logits.shape[0]
        if size == stamp:
            return -1
        _penalize(logits, seen, penalty, scaled)
        peak, broken = _MINUS_INFINITY, 0
        for token in range(size):
            peak = scaled[token] if scaled[token] > peak else peak
            broken += 1 if scaled[token] != scaled[token] else 0
        if broken > 0 or not math.isfinite(peak):
            return -1
        if temperature == 0:
            for token in range(size):
                if scaled[token] == peak:
                    return token
        temperature = max(temperature, np.float32(_TINY))
        for token in range(size):
            scaled[token] = (scaled[token] - peak) / temperature
        floor = _MINUS_INFINITY
        if 0 < top_k < size:
            floor = _edge_of(scaled, top_k, counts, members)
        mass = 0.0
        for token in range(size):
            possible = scaled[token] >= floor and scaled[token] > _MINUS_INFINITY
            weights[token] = exp(scaled[token]) if possible else np.float32(0)
            mass += np.float64(weights[token])
        if min_p > 0:
            floor = max(floor, np.float32(math.log(min_p)))
        if top_p < 1:  # as many tokens below this as there are do not reach what top-p leaves out
            floor = max(floor, np.float32(math.log(mass * (1 - top_p) / size)))
        lowest = max(floor, EXP_LOWEST)
        factor = np.float32(_BINS) / -lowest if lowest < 0 else np.float32(0)
        sums[:] = 0
        for token in range(size):
            if scaled[token] >= floor:
                sums[_bin_of(scaled[token], factor)] += np.float64(weights[token])
        # Where top-p ends: in the bin `last`, of which the first `kept` members stay.
        last, kept, total = 0, size, 0.0
        for place in range(_BINS):
            if top_p < 1 and (total + sums[place]) / mass >= top_p:
                count, kept, before = _gather(scaled, floor, factor, place, members), 0, total
                while kept < count and total / mass < top_p:
                    total += np.float64(weights[members[kept]])
                    kept += 1
                last, sums[place] = place, total - before
                break
            total += sums[place]
            last = place if sums[place] > 0 else last
        target, passed = chance * total, 0.0
        place = 0
        while place < last and passed + sums[place] <= target:
            passed += sums[place]
            place += 1
        count = _gather(scaled, floor, factor, place, members)
        count = min(count, kept) if place == last else count
        for number in range(count - 1):
            passed += np.float64(weights[members[number]])
            if passed > target:
                return members[number]
        return members[count - 1]  # also where rounding has carried the target to the very end

    return draw


_draw = kernel(_drawing(_STAMP))


class TokenDrawer:
    """Draws tokens from a vocabulary of `size`, in buffers of its own: one thread at a time may use it."""

    def __init__(self, size: int) -> None:
        self._scaled, self._weights = np.empty(size, np.float32), np.empty(size, np.float32)
        self._sums, self._counts = np.empty(_BINS), np.empty(_BINS, np.int64)
        self._members = np.empty(size, np.int64)

    def draw(
        self,
        logits: Tensor,
        seen: Tensor | None,
        chance: float,
        *,
        penalty: float,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
    ) -> int:
        """Draw a token from float32 logits `[V]` by a uniform number `chance` in [0, 1); return its id.

        The result is that of `penalize_repetition` and `sample`, except that rounding may decide near ties
        differently. Raises FloatingPointError as `sample` does.

        `seen`: bool `[V]`, the tokens to penalize; None to penalize none.
        """
        settings = np.array([penalty, temperature, min_p, top_p, top_k, chance])
        mask = _NONE if seen is None else array(seen)
        buffers = self._scaled, self._weights, self._sums, self._counts, self._members
        token = int(_draw(array(logits), mask, settings, *buffers))
        if token < 0:
            raise FloatingPointError(NOT_A_NUMBER)
        return token


_NONE = np.empty(0, np.bool_)
