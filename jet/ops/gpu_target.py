"""GpuTarget: the properties of a GPU that kernels and their configurations depend on.

Kernels can be compiled on a machine without a GPU. Tensors are then on the device "meta", for which
`assume_target` sets the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

# Bytes of shared memory that one program may ask for, by compute capability.
SHARED_MEMORY = {75: 65_536, 80: 166_912, 86: 101_376, 87: 166_912, 89: 101_376, 90: 232_448, 100: 232_448}
SMALL_SHARED_MEMORY = 101_376  # of capabilities that the table does not list, sm_120 among them
# Multiprocessors of the usual cards: some kernels are cut by their number.
PROCESSORS = {75: (40,), 80: (108,), 86: (84,), 89: (128,), 90: (132,), 100: (148,), 120: (188,)}


@dataclass(frozen=True)
class GpuTarget:
    """One kind of GPU.

    Attributes:
        capability: compute capability times ten: 90 for an H100 or H200, 120 for an RTX Pro 6000.
        processors: the number of streaming multiprocessors.
        shared_memory: the most bytes of shared memory of one program.
    """

    capability: int
    processors: int
    shared_memory: int

    @classmethod
    def named(cls, name: str, processors: int | None = None) -> GpuTarget:
        """Return the target for a name such as "sm_90". Raises ValueError for other names and before sm_75.

        `processors`: the number of multiprocessors; None for the usual GPU of this capability.
        """
        digits = name.removeprefix("sm_").removesuffix("a")
        if not name.startswith("sm_") or not digits.isdigit() or int(digits) < 75:
            raise ValueError(
                f"{name} is no GPU target: name one like sm_80, sm_90 or sm_120 (sm_75 or newer)."
            )
        capability = int(digits)
        shared = SHARED_MEMORY.get(capability, SMALL_SHARED_MEMORY)
        return cls(capability, processors or PROCESSORS.get(capability, (128,))[0], shared)

    @property
    def name(self) -> str:
        """Return the name that compilers use, such as "sm_90"."""
        return f"sm_{self.capability}"


_assumed: ContextVar[GpuTarget | None] = ContextVar("assumed GPU target", default=None)


@contextmanager
def assume_target(target: GpuTarget) -> Iterator[None]:
    """While the context is open, let `gpu_target` return `target` for "meta" in this thread."""
    token = _assumed.set(target)
    try:
        yield
    finally:
        _assumed.reset(token)


def gpu_target(device: torch.device | str) -> GpuTarget | None:
    """Return the target of a device; None for a CPU, and for "meta" outside of `assume_target`."""
    device = torch.device(device)
    if device.type == "meta":
        return _assumed.get()
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    capability = 10 * card.major + card.minor
    shared = getattr(
        card, "shared_memory_per_block_optin", SHARED_MEMORY.get(capability, SMALL_SHARED_MEMORY)
    )
    return GpuTarget(capability, card.multi_processor_count, int(shared))
