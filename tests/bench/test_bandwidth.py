"""Test the device's bandwidth: its source, and that no figure may exceed it."""

from __future__ import annotations

import pytest
import torch

from jet.bench import bandwidth as module
from jet.bench.bandwidth import Bandwidth, copy_bandwidth, measure_bandwidth
from jet.bench.options import BenchError
from jet.bench.samples import Samples
from jet.roofline import BytesMoved

CPU = torch.device("cpu")
FLOOR = BytesMoved(weights=90, recurrent=4, conv=3, window_kv=2, full_kv=1)


def test_a_share_is_of_the_best_copy() -> None:
    bandwidth = Bandwidth(FLOOR, Samples((800.0, 1000.0)), None)
    assert bandwidth.best == 1000.0 and not bandwidth.in_cache
    assert bandwidth.seconds == 0.1
    assert bandwidth.utilization(0.4) == 0.25


def test_more_than_everything_is_a_wrong_measurement() -> None:
    bandwidth = Bandwidth(FLOOR, Samples((1000.0,)), None)
    assert bandwidth.utilization(0.1) == 1
    with pytest.raises(BenchError, match=r"measurement is wrong: it says 125\.0%"):
        bandwidth.utilization(0.08)


def test_what_lives_in_a_cache_is_held_against_the_cache() -> None:
    bandwidth = Bandwidth(FLOOR, Samples((1000.0,)), Samples((3000.0,)))
    assert bandwidth.in_cache and bandwidth.best == 3000.0
    assert not Bandwidth(FLOOR, Samples((1000.0,)), Samples((1010.0,))).in_cache


@pytest.mark.parametrize("size", [1, 2, 1001, 2**20])
def test_copies_of_any_size_take_time(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_COPY_BYTES", 2**20)
    samples = copy_bandwidth(size, CPU)
    assert len(samples.values) >= 5 and samples.minimum > 0


def test_a_large_network_needs_no_copy_of_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_COPY_BYTES", 2**16)
    threads = torch.get_num_threads()
    assert measure_bandwidth(FLOOR, CPU, threads=1).same_size_copy is not None
    assert measure_bandwidth(BytesMoved(2**17, 0, 0, 0, 0), CPU, threads=1).same_size_copy is None
    assert torch.get_num_threads() == threads
