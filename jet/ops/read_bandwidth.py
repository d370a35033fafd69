"""How fast memory can be read here: on a CPU, reading is faster than copying, and decoding mostly reads."""

from __future__ import annotations

import importlib.util

import torch


def read_rates(size: int, device: torch.device, threads: int, runs: int, least: int) -> tuple[float, ...]:
    """Measure bytes a second of reading `size` bytes, in runs of `least` bytes or more in all.

    Nothing where there is no kernel for it: on other devices than a CPU, or without numba.
    """
    if device.type != "cpu" or importlib.util.find_spec("numba") is None:
        return ()
    try:
        from jet.ops.numba import threaded_ops
    except Exception:  # `cpu_operations` says so
        return ()
    return threaded_ops.read_rates(size, threads, runs, least)
