"""Measure this machine's read bandwidth of memory.

On a CPU, reading is faster than copying, and decoding mostly reads.
"""

from __future__ import annotations

import importlib.util

import torch


def read_rates(size: int, device: torch.device, threads: int, runs: int, least: int) -> tuple[float, ...]:
    """Measure the read bandwidth for `size` bytes, in bytes a second: one value for each of `runs` runs.

    A run repeats the read until it has read `least` bytes.
    Returns an empty tuple if the device is not a CPU or numba is missing.
    """
    if device.type != "cpu" or importlib.util.find_spec("numba") is None:
        return ()
    try:
        from jet.ops.numba import threaded_ops
    except Exception:  # `cpu_operations` says so
        return ()
    return threaded_ops.read_rates(size, threads, runs, least)
