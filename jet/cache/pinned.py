"""Copies between host and GPU through pinned memory, which neither side waits for.

Copies are queued on the current stream, in order with the GPU's other work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pinned(
    values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return values as a host tensor, pinned if `device` is a GPU, for an asynchronous copy to it."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(
    values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Copy values to `device` without blocking; they are valid for work launched afterwards."""
    return pinned(values, dtype, device).to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """Copy a tensor to pinned host memory without blocking; valid once the device has reached the copy."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return copy.copy_(tensor, non_blocking=True)


def untouched_zeros(*shape: int, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Return zeros that on a CPU take no memory before they are written to."""
    if torch.device(device).type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    memory = np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)
    return torch.from_numpy(memory).view(dtype).view(shape)
