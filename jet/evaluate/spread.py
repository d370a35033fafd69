"""Estimate means with intervals by a bootstrap over openings, since stories of one opening are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

DRAWS = 1_000
INTERVAL = 0.9


@dataclass(frozen=True)
class Estimate:
    """A mean over stories, with an interval that contains 90 % of the means of resampled sets of openings.

    Attributes:
        mean: the mean over all stories.
        low, high: bounds of the interval.
        stories: the number of stories.
    """

    mean: float
    low: float
    high: float
    stories: int


def estimate(values: Mapping[str, Sequence[float]]) -> Estimate | None:
    """Estimate a mean from values, which are given by opening; None if there are no values."""
    groups = [list(group) for group in values.values() if group]
    if not groups:
        return None
    chance = Random(0)
    means = sorted(_mean(chance.choices(groups, k=len(groups))) for _ in range(DRAWS))
    rest = int(DRAWS * (1 - INTERVAL) / 2)
    return Estimate(_mean(groups), means[rest], means[-1 - rest], sum(map(len, groups)))


def _mean(groups: Sequence[Sequence[float]]) -> float:
    return fmean(value for group in groups for value in group)
