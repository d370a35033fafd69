"""Measure a device's memory bandwidth, for the roofline.

Bandwidth is measured by copies on the device, as bytes read plus bytes written. One copy uses a buffer far
larger than any cache. If a run moves fewer bytes than that copy, they may fit in a cache, so a second copy of
the run's size is measured. On a CPU, reading is faster than copying, so reading is measured, too.
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
    """The measured bandwidth, and the least time to move a number of bytes at it.

    Attributes:
        bytes_moved: the bytes that a run must move.
        large_copy: bytes a second of the large copy.
        same_size_copy: bytes a second of a copy that moves as many bytes as the run; None if the run moves at
            least as many bytes as the large copy.
        read: bytes a second of reading; None if reading was not measured.
    """

    bytes_moved: BytesMoved
    large_copy: Samples
    same_size_copy: Samples | None
    read: Samples | None = None

    @property
    def in_cache(self) -> bool:
        """Return whether a cache of the device seems to hold part of the bytes that a run moves."""
        return (
            self.same_size_copy is not None
            and self.same_size_copy.median > _CACHE_SPEEDUP * self.large_copy.median
        )

    @property
    def best(self) -> float:
        """Return the highest measured bandwidth in bytes a second; slower copies and reads were disturbed."""
        measured = (self.large_copy, self.same_size_copy, self.read)
        return max(samples.maximum for samples in measured if samples is not None)

    @property
    def seconds(self) -> float:
        """Return the least time in seconds for moving `bytes_moved`."""
        return self.bytes_moved.total / self.best

    def utilization(self, seconds: float) -> float:
        """Return the bandwidth utilization of a run of `seconds`: the least time divided by `seconds`.

        Raises ImpossibleError if it is above 1.
        """
        reached = self.seconds / seconds
        if reached > 1:
            raise ImpossibleError(
                f"The measurement is wrong: it says {reached:.1%} of what moving "
                f"{self.bytes_moved.total:,} bytes at "
                f"{self.best / 1e9:,.1f} GB/s allows. Was the machine busy while that was timed?"
            )
        return reached


def measure_bandwidth(bytes_moved: BytesMoved, device: torch.device, threads: int) -> Bandwidth:
    """Measure the bandwidth of `device`, on a CPU with `threads` threads, and free the buffers."""
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
    """Measure copies that move `size` bytes, read and written bytes together; return bytes a second."""
    moved = LARGE_GPU_COPY_BYTES if device.type == "cuda" else LARGE_COPY_BYTES // 4
    return Samples(hardware.copy_rates(size, device, _RUNS, moved))


def large_copy_bytes(device: torch.device) -> int:
    """Return the number of bytes that a large copy moves; it is smaller if memory is nearly full."""
    most = LARGE_GPU_COPY_BYTES if device.type == "cuda" else LARGE_COPY_BYTES
    return min(most, hardware.free_bytes(device) // 4)
