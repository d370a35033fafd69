"""Section 1: the machine, its memory bandwidth, and its speed of matrix products."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import psutil
import torch

from jet.bench.bandwidth import copy_bandwidth, large_copy_bytes
from jet.bench.report.context import RunContext
from jet.bench.result import Metric
from jet.bench.samples import Samples
from jet.bench.system import describe_machine
from jet.hardware import synchronize

_ACCELERATORS = ("numba", "triton", "flash-linear-attention", "flash-attn", "matplotlib")
_RUNS = 25  # a ceiling is the best of them, and must be seen on a busy machine too
_MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
_NUM_PRODUCTS = {"cpu": 2, "cuda": 10}  # in one measurement


def describe(device: torch.device) -> dict[str, Any]:
    """Return the machine's description for the report's JSON."""
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


def measure(ctx: RunContext) -> dict[str, Any]:
    """Measure large copies and square matrix products."""
    copy = copy_bandwidth(large_copy_bytes(ctx.device), ctx.device)
    metrics = {"copy": Metric("copy on the device, read and write", "B/s", copy)}
    for dtype in {torch.float32: None, ctx.dtype: None}:
        name = str(dtype).removeprefix("torch.")
        samples = product_throughput(ctx.device, dtype)
        metrics[f"product_{name}"] = Metric(f"matrix product, {name}", "FLOP/s", samples)
    return {"figures": {name: metric.as_json() for name, metric in metrics.items()}}


def product_throughput(device: torch.device, dtype: torch.dtype) -> Samples:
    """Measure a large square matrix product, in floating-point operations a second."""
    side, times = _MATRIX_SIZE[device.type], _NUM_PRODUCTS[device.type]
    left = torch.randn(side, side, device=device).to(dtype)
    right = torch.randn(side, side, device=device).to(dtype)
    out = torch.empty_like(left)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(left, right, out=out)
        synchronize(device)

    return rate(multiply, 2 * side**3 * times)


def rate(
    run: Callable[[], object], quantity: float, clock: Callable[[], float] = time.perf_counter
) -> Samples:
    """Time several runs after a warm-up; return `quantity` per second, one value for each run.

    `quantity`: the amount of bytes or operations that one run processes.
    """
    run()
    values = []
    for _ in range(_RUNS):
        started = clock()
        run()
        values.append(quantity / (clock() - started))
    return Samples(tuple(values))
