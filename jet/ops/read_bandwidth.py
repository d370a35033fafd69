"""Measure the bandwidth with which this machine reads its memory.

On a CPU, reading is faster than copying, and decoding mostly reads.
"""

from __future__ import annotations

import importlib.util

import torch


def read_rates(size: int, device: torch.device, threads: int, runs: int, least: int) -> tuple[float, ...]:
    """Return the read bandwidth of memory in bytes per second, one value for each of `runs` runs.

    A run reads a buffer repeatedly. Returns an empty tuple if the device is not a CPU or numba is missing or
    fails.

    Args:
        size: the bytes of the buffer.
        device: the device to measure.
        threads: the most threads that read.
        runs: the number of runs.
        least: the bytes after which a run ends; it also ends after reading the buffer 1000 times.
    """
    if device.type != "cpu" or importlib.util.find_spec("numba") is None:
        return ()
    try:
        from jet.ops.numba import threaded_ops
    except Exception:  # `cpu_operations` says so
        return ()
    return threaded_ops.read_rates(size, threads, runs, least)
