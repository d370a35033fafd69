"""Test medians, spreads, and the interleaving of cases."""

from __future__ import annotations

import pytest

from jet.bench.samples import Samples, percentile, run_interleaved


def test_a_spread_says_where_its_values_lie() -> None:
    samples = Samples((5.0, 1.0, 4.0, 2.0, 3.0))
    assert (samples.median, samples.quartiles, samples.minimum, samples.maximum) == (
        3.0,
        (2.0, 4.0),
        1.0,
        5.0,
    )
    assert Samples((2.0,)).quartiles == (2.0, 2.0)


def test_spreads_are_compared_round_by_round() -> None:
    """Check that a third round that is slow for both does not change their ratio."""
    ours, theirs = Samples((4.0, 4.0, 1.0)), Samples((2.0, 2.0, 0.5))
    assert ours.ratio_to(theirs).values == (2.0, 2.0, 2.0)
    assert ours.ratio_to(theirs).map(lambda ratio: 1 - ratio).values == (-1.0, -1.0, -1.0)


def test_contenders_take_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[str] = []

    def case(name: str) -> dict[str, float]:
        calls.append(name)
        return {name: float(len(calls)), f"{name}.twice": 2.0 * len(calls)}

    found = run_interleaved([lambda: case("a"), lambda: case("b")], warm_up=2, runs=3)
    assert calls == ["a", "b"] * 5
    assert found == {
        "a": Samples((5.0, 7.0, 9.0)),
        "a.twice": Samples((10.0, 14.0, 18.0)),
        "b": Samples((6.0, 8.0, 10.0)),
        "b.twice": Samples((12.0, 16.0, 20.0)),
    }


@pytest.mark.parametrize(("percent", "value"), [(50, 5.0), (99, 10.0), (10, 1.0), (0, 1.0), (100, 10.0)])
def test_percentiles_are_values_that_occurred(percent: float, value: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], percent) == value
