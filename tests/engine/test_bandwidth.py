"""Test that memory bandwidth is measured until it is certain, and that a busy moment is corrected."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.api import EngineInfo
from jet.engine.bandwidth import NEAR, Facts, MemoryBandwidth

INFO = EngineInfo("model", 1, "cpu", "CPU", None, None, {}, 100, "MIT", None, None)


@dataclass
class Idle:
    """An engine whose calls of `info()` report these numbers of running requests, one after the other."""

    busy: list[int] = field(default_factory=list)
    alive: bool = True
    told: EngineInfo = INFO

    def info(self) -> EngineInfo:
        return replace(self.told, active_requests=self.busy.pop(0) if self.busy else 0)

    def update_info(self, facts: Facts) -> None:
        self.told = replace(self.told, **facts)  # type: ignore[arg-type]


def measuring(*rates: float) -> MemoryBandwidth:
    left = list(rates)
    return MemoryBandwidth(lambda: left.pop(0))


def test_one_measurement_is_not_sure_and_a_second_one_near_it_is() -> None:
    bandwidth = measuring(40.0, 42.0)
    assert bandwidth.measure() == {"bandwidth": 40.0, "bandwidth_confirmed": False}
    assert bandwidth.measure() == {"bandwidth": 42.0, "bandwidth_confirmed": True}


def test_a_busy_start_does_not_stay_for_good() -> None:
    bandwidth, engine = measuring(2.0, 2.1, 40.0, 41.0), Idle()
    assert bandwidth.measure()["bandwidth"] == 2.0
    engine.update_info(bandwidth.measure())
    assert engine.told.bandwidth_confirmed  # two that agree, and both are wrong
    bandwidth.watch(engine, [0.0, 0.0], lambda seconds: None).join(10)
    assert (engine.told.bandwidth, engine.told.bandwidth_confirmed) == (41.0, True)


def test_nothing_is_measured_while_somebody_writes() -> None:
    pauses: list[float] = []
    bandwidth, engine = measuring(40.0), Idle(busy=[2, 1, 1])
    bandwidth.watch(engine, [5.0], pauses.append).join(10)
    assert engine.told.bandwidth == 40.0 and len(pauses) == 4


def test_a_closed_engine_is_not_measured_for_nor_kept() -> None:
    bandwidth = measuring()
    bandwidth.watch(Idle(alive=False), [0.0], lambda seconds: None).join(10)
    thread = bandwidth.watch(Idle(), [0.0], lambda seconds: gc.collect())
    thread.join(10)
    assert not thread.is_alive()


@given(st.lists(st.floats(1.0, 1e12), min_size=2, max_size=12))
def test_the_best_counts_and_is_sure_where_another_came_near(rates: list[float]) -> None:
    bandwidth = measuring(*rates)
    facts = [bandwidth.measure() for _ in rates][-1]
    best, second = sorted(rates)[-1], sorted(rates)[-2]
    assert facts == {"bandwidth": best, "bandwidth_confirmed": second >= NEAR * best}


@pytest.mark.parametrize("order", [(2.0, 40.0, 41.0), (40.0, 2.0, 41.0), (40.0, 41.0, 2.0)])
def test_the_order_of_measurements_does_not_matter(order: tuple[float, ...]) -> None:
    bandwidth = measuring(*order)
    assert [bandwidth.measure() for _ in order][-1] == {"bandwidth": 41.0, "bandwidth_confirmed": True}
