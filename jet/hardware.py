"""Query this machine: device, dtype, threads and memory."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psutil
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# Weights that a single thread reads in a few milliseconds.
_SMALL_WEIGHTS = 2**28
# A quick copy touches no more than this: beyond all but the largest caches, and little beside a model.
_QUICK_COPY, _QUICK_RUNS = 2**28, 7


class HardwareError(ValueError):
    """A device or number format that was asked for and is not to be had. Says what there is."""


@dataclass(frozen=True)
class MemoryReading:
    """Bytes in use at one moment; None where there is nothing to measure, as on a CPU for the device's."""

    process_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    device_reserved_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_total_bytes: int | None = None


def choose_device(wanted: str = "auto") -> torch.device:
    """The device called `wanted` ("cpu", "cuda", "cuda:1"); "auto" takes CUDA where there is any."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise HardwareError(f"Unknown device {wanted!r}: choose auto, cpu, cuda or cuda:N.") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise HardwareError(f"The device {wanted!r} is not supported: choose auto, cpu, cuda or cuda:N.")
    if not torch.cuda.is_available():
        raise HardwareError("There is no CUDA device here that this PyTorch can use. Choose the device cpu.")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise HardwareError(f"There is no device cuda:{index}: this machine has {torch.cuda.device_count()}.")
    return torch.device("cuda", index)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The type called `wanted`; "auto" takes bfloat16 on CUDA from sm_80 on, float16 below, float32 on a CPU.

    A CPU gets float32 because few have fast bfloat16 products, and those that do not are slowed by it.
    """
    if wanted in DTYPES:
        return DTYPES[wanted]
    if wanted != "auto":
        raise HardwareError(f"Unknown dtype {wanted!r}: choose auto, {', '.join(DTYPES)}.")
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def device_name(device: torch.device) -> str:
    """Return the device's common name: "NVIDIA H100 80GB HBM3", "AMD EPYC 9654, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def limit_threads() -> int:
    """Make torch use no more threads than this process may run at once; returns how many it uses.

    In a container torch counts the processors of the host. Threads beyond its share only wait for each other.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _processors())))
    return torch.get_num_threads()


def decode_threads(weight_bytes: int) -> int:
    """How many threads should multiply one token by that many bytes of weights on a CPU.

    Small matrices are done before a second thread has heard of them, and where the page and the browser want
    a processor too, two threads waiting for each other are several times slower than one.
    """
    return 1 if weight_bytes < _SMALL_WEIGHTS else torch.get_num_threads()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Torch uses so many threads while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_device_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a CUDA device, within this process's limit; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    # Older versions of PyTorch can set such a limit, but do not tell it.
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    limit = int(fraction(device) * total)
    return max(0, min(free, limit - torch.cuda.memory_reserved(device)))


def free_bytes(device: torch.device) -> int:
    """Bytes for the memory of stories: what is free on a CUDA device, half of what is on a CPU."""
    free = free_device_bytes(device)
    return psutil.virtual_memory().available // 2 if free is None else free


def spare_host_bytes(device: torch.device) -> int:
    """Bytes of the host's memory for what has no room on a CUDA device; 0 where that is the host itself."""
    if device.type != "cuda":
        return 0
    left = container_memory()
    available = psutil.virtual_memory().available
    return (available if left is None else min(available, left)) // 4


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rates(size: int, device: torch.device, runs: int, moved: int) -> tuple[float, ...]:
    """Bytes a second, read and written together, of copies that touch `size` bytes, run after run.

    A run makes as many copies as move `moved` bytes, so that starting one costs nothing and the clock's grain
    does not show. What is smaller than a cache of the device is measured as the cache moves it.
    """
    half = max(size // 2, 1)
    source = torch.ones(half, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copies = min(max(1, moved // size), 1000)
    rates = []
    for _ in range(1 + runs):  # the first warms up
        synchronize(device)
        started = time.perf_counter()
        for _ in range(copies):
            target.copy_(source)
        synchronize(device)
        rates.append(2 * half * copies / (time.perf_counter() - started))
    return tuple(rates[1:])


def quick_bandwidth(size: int, device: torch.device, threads: int) -> float:
    """Bytes a second of the best of a few copies that touch `size` bytes, or fewer where those are very many.

    Takes a twentieth of a second or so. On a CPU that many threads copy. What it takes of the device's memory
    is free again afterwards.
    """
    size = min(size, _QUICK_COPY)
    try:
        with using_threads(threads):
            return max(copy_rates(size, device, _QUICK_RUNS, size))
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def read_process_memory() -> MemoryReading:
    """Memory of this process alone."""
    return MemoryReading(process_memory_bytes=_process(os.getpid()).memory_info().rss)


def read_memory(device: torch.device) -> MemoryReading:
    """Memory of this process and, on CUDA, of torch's allocator on `device`."""
    if device.type != "cuda":
        return read_process_memory()
    # Each of torch's functions for one of these numbers puts all of them in order first, for a millisecond.
    stats = torch.cuda.memory_stats_as_nested_dict(device)
    allocated, reserved = (
        stats.get(name, {}).get("all", {}) for name in ("allocated_bytes", "reserved_bytes")
    )
    return replace(
        read_process_memory(),
        device_memory_bytes=allocated.get("current", 0),
        device_reserved_bytes=reserved.get("current", 0),
        device_peak_bytes=allocated.get("peak", 0),
        device_total_bytes=torch.cuda.get_device_properties(device).total_memory,
    )


@cache
def _process(pid: int) -> psutil.Process:
    """Asked for by number, since a process that was forked is another one."""
    return psutil.Process(pid)


def _processors() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_quota()
    return available if quota is None else max(1, min(available, round(quota)))


def container_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Processors that the container may use, from control groups version 2 or 1; None if not limited."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            files = (root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
            quota, period = (file.read_text() for file in files)
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def container_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the container may still take, from control groups version 2 or 1; None if not limited."""
    names = ("memory.max", "memory.current")
    if not (root / names[0]).exists():
        root, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        limit, used = (int((root / name).read_text()) for name in names)  # "max" is no number
    except (OSError, ValueError):
        return None
    return max(0, limit - used)


@cache
def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"
