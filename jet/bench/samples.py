"""Interleaved repeated measurements and their statistics."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tqdm import tqdm

# One run of something: what it measured, by name.
Case = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one quantity, in the order they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return the first and third quartile."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    @property
    def minimum(self) -> float:
        """Return the smallest value."""
        return min(self.values)

    @property
    def maximum(self) -> float:
        """Return the largest value."""
        return max(self.values)

    def map(self, change: Callable[[float], float]) -> Samples:
        """Return samples with a function applied to every value, such as from times to rates."""
        return Samples(tuple(change(value) for value in self.values))

    def ratio_to(self, other: Samples) -> Samples:
        """Return the ratios to other samples, round by round.

        Both samples of a round have the same disturbances, which the ratio cancels.
        """
        return Samples(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))


def run_interleaved(cases: Sequence[Case], warm_up: int, runs: int) -> dict[str, Samples]:
    """Run all cases once in each round, so that changes of the machine's speed affect them alike.

    Returns name of a figure → its samples in `runs` rounds, which follow `warm_up` rounds without samples.
    """
    found: dict[str, list[float]] = {}
    for number in tqdm(range(warm_up + runs), unit="round", disable=None, leave=False):
        for case in cases:
            for name, value in case().items():
                if number >= warm_up:
                    found.setdefault(name, []).append(value)
    return {name: Samples(tuple(values)) for name, values in found.items()}


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is at least as large as `percent` percent of all values."""
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]
