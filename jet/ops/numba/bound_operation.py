"""From tensors to a compiled kernel's arrays, once for many calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Generic, ParamSpec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jet.ops.quantization import QuantizedTensor, Weight

P = ParamSpec("P")
Array = NDArray[Any]
BoundOp = Callable[[], None]


class BindableOp(Generic[P]):
    """An operation on tensors, made from a function that takes them and returns the prepared call.

    Called, it computes. `bind` takes the same arguments and returns the call without arguments: it computes
    the same again and again on the same memory, whatever that then holds, and keeps it alive. Constants,
    which are biases, scales and sizes, are those of the time it was bound.
    """

    def __init__(self, bind: Callable[P, BoundOp]) -> None:
        self.bind = bind
        update_wrapper(self, bind)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Compute once."""
        self.bind(*args, **kwargs)()


def array(tensor: Tensor) -> Array:
    """View a tensor's memory as an array: float32, integers, bfloat16 as uint16, float16 as int16.

    Raises:
        ValueError: it is not on the CPU or not contiguous.
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"A tensor of {list(tensor.shape)} must be contiguous and on the CPU.")
    if tensor.dtype not in (torch.bfloat16, torch.float16):
        return tensor.detach().numpy()
    stored: Array = tensor.detach().view(torch.int16).numpy()
    return stored.view(np.uint16) if tensor.dtype == torch.bfloat16 else stored


def matrix(weight: Weight) -> Array | tuple[Array, Array]:
    """View a weight's memory: its array, or those of its codes and scales."""
    if isinstance(weight, QuantizedTensor):
        return array(weight.qweight), array(weight.scales)
    return array(weight)


def constant(tensor: Tensor | None) -> Array:
    """Return a bias or scale in float32, copied if it is not; empty for None."""
    return np.empty(0, np.float32) if tensor is None else array(tensor.float().contiguous())
