"""Measure how fast this device moves bytes, as the basis of the roofline.

The measure is a copy on the device: bytes read plus bytes written. One copy uses a buffer far larger than any
cache. For a network that may fit into a cache, a second copy uses a buffer of exactly the network's size. On
a CPU, reading is faster than copying, so pure reads of as many bytes are measured, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jet import hardware
from jet.bench.options import ImpossibleError
from jet.bench.samples import Samples
from jet.ops.read_bandwidth import read_rates
from jet.roofline import BytesMoved

# Bytes moved by one large copy: the caches of the largest processors hold less than half. A GPU reaches its
# speed only with more of them.
LARGE_COPY_BYTES, LARGE_GPU_COPY_BYTES = 2**30, 2**32
_RUNS = 15
# A copy of the network's size that is this much quicker than a large one did not go through memory.
_CACHE_SPEEDUP = 1.15


@dataclass(frozen=True)
class Bandwidth:
    """Measured copy bandwidth, and the least time that a number of bytes takes at it.

    Attributes:
        bytes_moved: the bytes.
        large_copy: bytes a second of the large copy.
        same_size_copy: of a copy that touches as many bytes as the floor; None where the large one does.
        read: of reading alone; None where that is not measured.
    """

    bytes_moved: BytesMoved
    large_copy: Samples
    same_size_copy: Samples | None
    read: Samples | None = None

    @property
    def in_cache(self) -> bool:
        """Whether a cache of this device holds what one token touches, at least in part."""
        return (
            self.same_size_copy is not None
            and self.same_size_copy.median > _CACHE_SPEEDUP * self.large_copy.median
        )

    @property
    def best(self) -> float:
        """Bytes a second of the best copy or read: the slower ones were disturbed."""
        measured = (self.large_copy, self.same_size_copy, self.read)
        return max(samples.maximum for samples in measured if samples is not None)

    @property
    def seconds(self) -> float:
        """Time to move the floor's bytes."""
        return self.bytes_moved.total / self.best

    def utilization(self, seconds: float) -> float:
        """Return the floor's share of `seconds`. Raises ImpossibleError if it is above 1."""
        reached = self.seconds / seconds
        if reached > 1:
            raise ImpossibleError(
                f"The measurement is wrong: it says {reached:.1%} of what moving "
                f"{self.bytes_moved.total:,} bytes at "
                f"{self.best / 1e9:,.1f} GB/s allows. Was the machine busy while that was timed?"
            )
        return reached


def measure_bandwidth(bytes_moved: BytesMoved, device: torch.device, threads: int) -> Bandwidth:
    """Time copies on `device`, on a CPU with that many threads, and free the buffers again."""
    try:
        with hardware.using_threads(threads):
            size = large_copy_bytes(device)
            large_copy = copy_bandwidth(size, device)
            same_size_copy = copy_bandwidth(bytes_moved.total, device) if bytes_moved.total < size else None
            reads = read_rates(min(bytes_moved.total, size), device, threads, _RUNS, LARGE_COPY_BYTES // 4)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Bandwidth(bytes_moved, large_copy, same_size_copy, Samples(reads) if reads else None)


def copy_bandwidth(size: int, device: torch.device) -> Samples:
    """Measure bytes a second, read and written together, of copies that touch `size` bytes."""
    moved = LARGE_GPU_COPY_BYTES if device.type == "cuda" else LARGE_COPY_BYTES // 4
    return Samples(hardware.copy_rates(size, device, _RUNS, moved))


def large_copy_bytes(device: torch.device) -> int:
    """Return bytes of a large copy: fewer where the network has nearly filled the memory."""
    most = LARGE_GPU_COPY_BYTES if device.type == "cuda" else LARGE_COPY_BYTES
    return min(most, hardware.free_bytes(device) // 4)
