"""A device that is full in mid-sweep: the other network goes on, the larger points do not try again."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jet.bench.report.sweeps import compare

SPEEDS = {"decode": 10.0, "prefill": 20.0}


class Contender:
    """Runs until its memory is full, and counts how often it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.runs = 0

    def __call__(self) -> dict[str, float]:
        self.runs += 1
        if self._error is not None:
            raise self._error
        return SPEEDS


@pytest.fixture
def bench() -> Any:
    return SimpleNamespace(failed={}, plan=SimpleNamespace(runs=5), device=torch.device("cpu"))


def test_everyone_runs_once_to_warm_up_and_then_in_turn(bench: Any) -> None:
    ours, full = Contender(), Contender()
    figures, failed = compare(bench, "context", {"ours": ours, "full": full})
    assert set(figures) == {"ours.decode", "ours.prefill", "full.decode", "full.prefill"}
    assert figures["full.prefill"].spread.values == (20.0,) * 5
    assert (ours.runs, full.runs, failed) == (6, 6, {})


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("the device ran out of memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried 17 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 17 bytes"),
    ],
)
def test_a_full_memory_leaves_the_other_network_and_is_remembered(bench: Any, error: Exception) -> None:
    ours, full = Contender(), Contender(error)
    figures, failed = compare(bench, "context", {"ours": ours, "full": full})
    assert set(figures) == {"ours.decode", "ours.prefill"}
    assert list(failed) == ["full"] and "memory" in failed["full"]

    again: Callable[[], dict[str, float]] = Contender()
    _, failed = compare(bench, "context", {"ours": Contender(), "full": again})
    assert list(failed) == ["full"] and again.runs == 0

    _, failed = compare(bench, "batch", {"ours": Contender(), "full": Contender()})
    assert failed == {}  # another sweep, which begins small


def test_nobody_left_is_an_error_that_says_so(bench: Any) -> None:
    nobody = {"ours": Contender(MemoryError()), "full": Contender(MemoryError())}
    with pytest.raises(MemoryError, match="both"):
        compare(bench, "batch", nobody)
    with pytest.raises(MemoryError, match="both"):
        compare(bench, "batch", {"ours": Contender(), "full": Contender()})


def test_other_errors_are_not_taken_for_a_full_memory(bench: Any) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        compare(bench, "context", {"ours": Contender(RuntimeError("broken")), "full": Contender()})
