"""Query this machine: device, dtype, threads and memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import psutil
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# Bytes of weights that a single thread reads in a few milliseconds.
_SMALL_WEIGHTS = 2**28
# Bytes of a quick copy at most, and its runs: more than all but the largest caches, little beside a model.
_QUICK_COPY, _QUICK_RUNS = 2**28, 7


class HardwareError(ValueError):
    """Raised for a device or dtype that is not available; the message names those that are."""


@dataclass(frozen=True)
class MemoryReading:
    """Bytes in use at one moment. A value that cannot be measured is None, such as device memory on a CPU."""

    process_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    device_reserved_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_total_bytes: int | None = None


def choose_device(wanted: str = "auto") -> torch.device:
    """Return the device `wanted`: "cpu", "cuda", "cuda:1", or "auto" for CUDA if available, else the CPU.

    Raises HardwareError if this machine does not have it.
    """
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
    """Return the dtype `wanted`; "auto" is bfloat16 on CUDA from sm_80 on, float16 below, float32 on a CPU.

    "auto" is float32 on a CPU because few CPUs multiply bfloat16 fast, and the others are slower with it.
    Raises HardwareError for an unknown dtype.
    """
    if wanted in DTYPES:
        return DTYPES[wanted]
    if wanted != "auto":
        raise HardwareError(f"Unknown dtype {wanted!r}: choose auto, {', '.join(DTYPES)}.")
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def device_name(device: torch.device) -> str:
    """Return the device's name, such as "NVIDIA H100 80GB HBM3" or "AMD EPYC 9654, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def limit_threads() -> int:
    """Limit torch's threads to the processors that this process may use; return their number.

    In a container torch counts the processors of the host, and surplus threads only wait for each other.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), _processors())))
    return torch.get_num_threads()


def decode_threads(weight_bytes: int) -> int:
    """Return the number of threads that should decode on a CPU with this many bytes of weights.

    With small weights one thread is enough: a matrix product ends before a second thread starts. If the page
    and the browser also need a processor, two threads that wait for each other are several times slower than
    one.
    """
    return 1 if weight_bytes < _SMALL_WEIGHTS else torch.get_num_threads()


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads while the context is open."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_device_bytes(device: torch.device) -> int | None:
    """Return the bytes still allocatable on a CUDA device, within this process's limit; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    # Older versions of PyTorch can set such a limit, but have no getter.
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)
    limit = int(fraction(device) * total)
    return max(0, min(free, limit - torch.cuda.memory_reserved(device)))


def free_bytes(device: torch.device) -> int:
    """Return the bytes for caches: all free memory of a CUDA device; on a CPU half of what is available."""
    free = free_device_bytes(device)
    return psutil.virtual_memory().available // 2 if free is None else free


def return_free_memory() -> None:
    """Return freed memory to the system, if the C library has a call for it."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


def spare_host_bytes(device: torch.device) -> int:
    """Return the bytes of host memory for states evicted from a CUDA device; 0 on a CPU.

    It is a quarter of the memory that is available, within the container's limit.
    """
    if device.type != "cuda":
        return 0
    left = container_memory()
    available = psutil.virtual_memory().available
    return (available if left is None else min(available, left)) // 4


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all submitted work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rates(size: int, device: torch.device, runs: int, moved: int) -> tuple[float, ...]:
    """Measure copies that touch `size` bytes; return bytes per second, read and written, of each run.

    A run repeats the copy until `moved` bytes are moved, so that launch overhead and the clock's resolution
    do not matter. A size smaller than a cache of the device gives the bandwidth of that cache.
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
    """Estimate the bandwidth in bytes per second: the best of a few copies that touch `size` bytes.

    At most 256 MiB are touched, which takes about 50 ms. On a CPU, `threads` threads copy. Device memory is
    freed afterwards.
    """
    size = min(size, _QUICK_COPY)
    try:
        with using_threads(threads):
            return max(copy_rates(size, device, _QUICK_RUNS, size))
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def read_process_memory() -> MemoryReading:
    """Read the resident memory of this process."""
    return MemoryReading(process_memory_bytes=_process(os.getpid()).memory_info().rss)


def read_memory(device: torch.device) -> MemoryReading:
    """Read the memory of this process and, on CUDA, of torch's allocator on `device`."""
    if device.type != "cuda":
        return read_process_memory()
    # Read once, because each of torch's functions for a single number collects all, which takes a
    # millisecond.
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
    """Return psutil's handle of a process. Handles are cached by id, since a forked process needs its own."""
    return psutil.Process(pid)


def _processors() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_quota()
    return available if quota is None else max(1, min(available, round(quota)))


def container_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many processors the container may use, perhaps a fraction; None if there is no limit.

    Reads cgroup v2 or v1 in `root`.
    """
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
    """Return the bytes that the container may still allocate, from cgroup v2 or v1; None without a limit."""
    names = ("memory.max", "memory.current")
    if not (root / names[0]).exists():
        root, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        limit, used = (int((root / name).read_text()) for name in names)  # ValueError for "max"
    except (OSError, ValueError):
        return None
    return max(0, limit - used)


def available_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of host memory that this process can still allocate, within its container's limit.

    A container's cached files count as its used memory, but can be dropped, so they count as available here.
    """
    available = psutil.virtual_memory().available
    left = container_memory(root)
    if left is None:
        return available
    stat = root / "memory.stat"
    if not stat.exists():
        stat = root / "memory" / "memory.stat"
    try:
        fields = dict(line.split() for line in stat.read_text().splitlines())
        left += int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
    except (OSError, ValueError):
        pass
    return min(available, left)


@cache
def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"
