"""How fast this device moves bytes, and so how fast the floor allows a network to be.

The measure is a copy on the device, bytes read and bytes written together: from one half of a buffer to the
other, once in a buffer far larger than any cache, and for what is smaller than that, once in one of exactly
its size. A small network may live in a cache, where only the second is an honest bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jet import hardware
from jet.bench.options import ImpossibleError
from jet.bench.samples import Spread
from jet.roofline import Floor

# Bytes moved by one large copy: the caches of the largest processors hold less than half. A GPU reaches its
# speed only with more of them.
LARGE, LARGE_ON_GPU = 2**30, 2**32
_RUNS = 15
# A copy of the network's size that is this much quicker than a large one did not go through memory.
_IN_CACHE = 1.15


@dataclass(frozen=True)
class Ceiling:
    """What moving a floor's bytes takes here, at best.

    Attributes:
        floor: the bytes.
        large: bytes a second of the large copy.
        own_size: of a copy that touches as many bytes as the floor; None where the large one does.
    """

    floor: Floor
    large: Spread
    own_size: Spread | None

    @property
    def in_cache(self) -> bool:
        """Whether a cache of this device holds what one token touches, at least in part."""
        return self.own_size is not None and self.own_size.median > _IN_CACHE * self.large.median

    @property
    def bandwidth(self) -> float:
        """Bytes a second of the best copy: the slower ones were disturbed."""
        return max(self.large.most, 0.0 if self.own_size is None else self.own_size.most)

    @property
    def seconds(self) -> float:
        """Time to move the floor's bytes."""
        return self.floor.total / self.bandwidth

    def share(self, seconds: float) -> float:
        """The floor's time in `seconds`. Raises ImpossibleError above 1, which nothing can be."""
        share = self.seconds / seconds
        if share > 1:
            raise ImpossibleError(
                f"The measurement is wrong: it says {share:.1%} of what moving {self.floor.total:,} bytes at "
                f"{self.bandwidth / 1e9:,.1f} GB/s allows. Was the machine busy while the copy was timed?"
            )
        return share


def measure_ceiling(floor: Floor, device: torch.device, threads: int) -> Ceiling:
    """Time copies on `device`, on a CPU with that many threads, and free the buffers again."""
    try:
        with hardware.using_threads(threads):
            size = large_copy(device)
            large = copy_bandwidth(size, device)
            own_size = copy_bandwidth(floor.total, device) if floor.total < size else None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Ceiling(floor, large, own_size)


def copy_bandwidth(size: int, device: torch.device) -> Spread:
    """Bytes a second, read and written together, of copies that touch `size` bytes."""
    moved = LARGE_ON_GPU if device.type == "cuda" else LARGE // 4
    return Spread(hardware.copy_rates(size, device, _RUNS, moved))


def large_copy(device: torch.device) -> int:
    """Bytes of a large copy: fewer where the network has nearly filled the memory."""
    most = LARGE_ON_GPU if device.type == "cuda" else LARGE
    return min(most, hardware.free_bytes(device) // 4)
