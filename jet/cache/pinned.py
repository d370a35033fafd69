"""Asynchronous copies between host and GPU through pinned memory.

Copies are queued on the current stream, in order with the GPU's other work. Neither side waits for them.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pinned(
    values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return values as a host tensor, pinned if `device` is a GPU so that it can be copied asynchronously."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(
    values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Copy values to `device` without blocking; they are valid for work launched afterwards."""
    return pinned(values, dtype, device).to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to pinned host memory without blocking; valid once the device has finished the copy."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return copy.copy_(tensor, non_blocking=True)


def untouched_zeros(*shape: int, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Return a tensor of zeros, which on a CPU takes no memory until it is written to."""
    if torch.device(device).type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    memory = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(memory).view(dtype).view(shape)


def release_memory(tensors: Iterable[torch.Tensor]) -> None:
    """Return the memory of CPU tensors to the system if possible; their values are lost.

    Each tensor must be contiguous in all dimensions but the first.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for part in (part for tensor in tensors if tensor.device.type == "cpu" for part in tensor.unbind()):
        begin = -(-part.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (part.data_ptr() + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
