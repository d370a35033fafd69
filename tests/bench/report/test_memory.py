"""Test a device that runs out of memory in a sweep: larger points are skipped, the other network goes on."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from jet.bench.report.sweeps import run_networks

SPEEDS = {"decode": 10.0, "prefill": 20.0}


class Case:
    """A case that counts its runs, and raises `error` in each of them if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.runs = 0

    def __call__(self) -> dict[str, float]:
        self.runs += 1
        if self._error is not None:
            raise self._error
        return SPEEDS


@pytest.fixture
def ctx() -> Any:
    return SimpleNamespace(failed={}, plan=SimpleNamespace(runs=5), device=torch.device("cpu"))


def test_everyone_runs_once_to_warm_up_and_then_in_turn(ctx: Any) -> None:
    ours, full = Case(), Case()
    figures, failed = run_networks(ctx, "context", {"ours": ours, "full": full})
    assert set(figures) == {"ours.decode", "ours.prefill", "full.decode", "full.prefill"}
    assert figures["full.prefill"].samples.values == (20.0,) * 5
    assert (ours.runs, full.runs, failed) == (6, 6, {})


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("the device ran out of memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried 17 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 17 bytes"),
    ],
)
def test_a_full_memory_leaves_the_other_network_and_is_remembered(ctx: Any, error: Exception) -> None:
    ours, full = Case(), Case(error)
    figures, failed = run_networks(ctx, "context", {"ours": ours, "full": full})
    assert set(figures) == {"ours.decode", "ours.prefill"}
    assert list(failed) == ["full"] and "memory" in failed["full"]

    again: Callable[[], dict[str, float]] = Case()
    _, failed = run_networks(ctx, "context", {"ours": Case(), "full": again})
    assert list(failed) == ["full"] and again.runs == 0

    _, failed = run_networks(ctx, "batch", {"ours": Case(), "full": Case()})
    assert failed == {}  # another sweep, which begins small


def test_an_empty_run_is_an_error_that_says_so(ctx: Any) -> None:
    both_fail = {"ours": Case(MemoryError()), "full": Case(MemoryError())}
    with pytest.raises(MemoryError, match="both"):
        run_networks(ctx, "batch", both_fail)
    with pytest.raises(MemoryError, match="both"):
        run_networks(ctx, "batch", {"ours": Case(), "full": Case()})


def test_other_errors_are_not_taken_for_a_full_memory(ctx: Any) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        run_networks(ctx, "context", {"ours": Case(RuntimeError("broken")), "full": Case()})
