"""Between a GPU and the host without waiting: from and to pinned memory, in the order of the GPU's work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pinned(
    values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Numbers in memory of the host from which they reach `device` without anybody waiting."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def to_device(
    values: Sequence[float] | npt.NDArray[np.generic], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Numbers on `device`, there once it has come so far."""
    return pinned(values, dtype, device).to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, which is there once the device has come so far."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return copy.copy_(tensor, non_blocking=True)
