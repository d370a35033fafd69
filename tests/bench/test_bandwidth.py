"""The device's ceiling: where it comes from, and that nothing may be above it."""

from __future__ import annotations

import pytest
import torch

from jet.bench import bandwidth as module
from jet.bench.bandwidth import Ceiling, copy_bandwidth, measure_ceiling
from jet.bench.options import BenchError
from jet.bench.samples import Spread
from jet.roofline import Floor

CPU = torch.device("cpu")
FLOOR = Floor(weights=90, recurrent=4, conv=3, window_kv=2, full_kv=1)


def test_a_share_is_of_the_best_copy() -> None:
    ceiling = Ceiling(FLOOR, Spread((800.0, 1000.0)), None)
    assert ceiling.bandwidth == 1000.0 and not ceiling.in_cache
    assert ceiling.seconds == 0.1
    assert ceiling.share(0.4) == 0.25


def test_more_than_everything_is_a_wrong_measurement() -> None:
    ceiling = Ceiling(FLOOR, Spread((1000.0,)), None)
    assert ceiling.share(0.1) == 1
    with pytest.raises(BenchError, match=r"measurement is wrong: it says 125\.0%"):
        ceiling.share(0.08)


def test_what_lives_in_a_cache_is_held_against_the_cache() -> None:
    ceiling = Ceiling(FLOOR, Spread((1000.0,)), Spread((3000.0,)))
    assert ceiling.in_cache and ceiling.bandwidth == 3000.0
    assert not Ceiling(FLOOR, Spread((1000.0,)), Spread((1010.0,))).in_cache


@pytest.mark.parametrize("size", [1, 2, 1001, 2**20])
def test_copies_of_any_size_take_time(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 2**20)
    spread = copy_bandwidth(size, CPU)
    assert len(spread.values) >= 5 and spread.least > 0


def test_a_large_network_needs_no_copy_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 2**16)
    threads = torch.get_num_threads()
    assert measure_ceiling(FLOOR, CPU, threads=1).own_size is not None
    assert measure_ceiling(Floor(2**17, 0, 0, 0, 0), CPU, threads=1).own_size is None
    assert torch.get_num_threads() == threads
