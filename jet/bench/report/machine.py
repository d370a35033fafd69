"""Section 1: what this machine is, and how fast it moves bytes and multiplies matrices."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import psutil
import torch

from jet.bench.bandwidth import copy_bandwidth, large_copy
from jet.bench.report.context import Bench
from jet.bench.result import Figure
from jet.bench.samples import Spread
from jet.bench.system import describe_machine
from jet.hardware import synchronize

_ACCELERATORS = ("numba", "triton", "flash-linear-attention", "flash-attn", "matplotlib")
_RUNS = 25  # a ceiling is the best of them, and must be seen on a busy machine too
_SIDE = {"cpu": 1024, "cuda": 8192}
_PRODUCTS = {"cpu": 2, "cuda": 10}  # in one measurement


def describe(device: torch.device) -> dict[str, Any]:
    """The machine as the report's JSON has it."""
    found = describe_machine(device) | {
        "memory": psutil.virtual_memory().total,
        "device_memory": None,
        "capability": None,
        "driver": None,
        "accelerators": _accelerators(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device_memory"] = properties.total_memory
        found["capability"] = f"{properties.major}.{properties.minor}"
        found["driver"] = _driver()
    return found


def _accelerators() -> dict[str, str]:
    # A name may have been built with "_" in it where its package index has "-".
    found = {found.metadata["Name"].replace("_", "-"): found.version for found in metadata.distributions()}
    return {name: found[name] for name in _ACCELERATORS if name in found}


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.split() else None


def measure(bench: Bench) -> dict[str, Any]:
    """Time large copies and square matrix products."""
    copy = copy_bandwidth(large_copy(bench.device), bench.device)
    figures = {"copy": Figure("copy on the device, read and write", "B/s", copy)}
    for dtype in {torch.float32: None, bench.dtype: None}:
        name = str(dtype).removeprefix("torch.")
        spread = product_throughput(bench.device, dtype)
        figures[f"product_{name}"] = Figure(f"matrix product, {name}", "FLOP/s", spread)
    return {"figures": {name: figure.as_json() for name, figure in figures.items()}}


def product_throughput(device: torch.device, dtype: torch.dtype) -> Spread:
    """Floating-point operations a second of a large square product."""
    side, times = _SIDE[device.type], _PRODUCTS[device.type]
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(left)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)
        synchronize(device)

    return rate(multiply, 2 * side**3 * times)


def rate(run: Callable[[], object], amount: float, clock: Callable[[], float] = time.perf_counter) -> Spread:
    """How much a second, where each run does `amount`; the first run warms up."""
    run()
    values = []
    for _ in range(_RUNS):
        started = clock()
        run()
        values.append(amount / (clock() - started))
    return Spread(tuple(values))
