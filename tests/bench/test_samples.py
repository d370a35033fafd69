"""Medians, spreads, and who runs when."""

from __future__ import annotations

import pytest

from jet.bench.samples import Spread, alternate, percentile


def test_a_spread_says_where_its_values_lie() -> None:
    spread = Spread((5.0, 1.0, 4.0, 2.0, 3.0))
    assert (spread.median, spread.quartiles, spread.least, spread.most) == (3.0, (2.0, 4.0), 1.0, 5.0)
    assert Spread((2.0,)).quartiles == (2.0, 2.0)


def test_spreads_are_compared_round_by_round() -> None:
    """A slow third round of both leaves their ratio alone."""
    ours, theirs = Spread((4.0, 4.0, 1.0)), Spread((2.0, 2.0, 0.5))
    assert ours.per(theirs).values == (2.0, 2.0, 2.0)
    assert ours.per(theirs).map(lambda ratio: 1 - ratio).values == (-1.0, -1.0, -1.0)


def test_contenders_take_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def contender(name: str) -> dict[str, float]:
        calls.append(name)
        return {name: float(len(calls)), f"{name}.twice": 2.0 * len(calls)}

    found = alternate([lambda: contender("a"), lambda: contender("b")], warm_up=2, runs=3)
    assert calls == ["a", "b"] * 5
    assert found == {
        "a": Spread((5.0, 7.0, 9.0)),
        "a.twice": Spread((10.0, 14.0, 18.0)),
        "b": Spread((6.0, 8.0, 10.0)),
        "b.twice": Spread((12.0, 16.0, 20.0)),
    }


@pytest.mark.parametrize(("percent", "value"), [(50, 5.0), (99, 10.0), (10, 1.0), (0, 1.0), (100, 10.0)])
def test_percentiles_are_values_that_occurred(percent: float, value: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], percent) == value
