"""BindableOp: converts tensors to the arrays of a compiled kernel once, for many calls."""

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
    """An operation on tensors that can be bound to them once and then computed many times.

    `bind` takes the operation's arguments and returns a function without arguments. This function computes
    with the present contents of the same memory, and keeps that memory alive. Biases, scales and sizes are
    read only when binding. Calling the operation itself binds it and computes once.
    """

    def __init__(self, bind: Callable[P, BoundOp]) -> None:
        self.bind = bind
        update_wrapper(self, bind)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Bind the operation to these arguments and compute once."""
        self.bind(*args, **kwargs)()


def array(tensor: Tensor) -> Array:
    """View a tensor's memory as a numpy array of its dtype; bfloat16 becomes uint16, and float16 int16.

    Raises:
        ValueError: the tensor is not on the CPU or not contiguous.
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"A tensor of {list(tensor.shape)} must be contiguous and on the CPU.")
    if tensor.dtype not in (torch.bfloat16, torch.float16):
        return tensor.detach().numpy()
    stored: Array = tensor.detach().view(torch.int16).numpy()
    return stored.view(np.uint16) if tensor.dtype == torch.bfloat16 else stored


def matrix(weight: Weight) -> Array | tuple[Array, Array]:
    """View a weight's memory as an array, or as the two arrays of its quantized values and scales."""
    if isinstance(weight, QuantizedTensor):
        return array(weight.qweight), array(weight.scales)
    return array(weight)


def constant(tensor: Tensor | None) -> Array:
    """Return a bias or scale as a float32 array, converted if necessary; an empty one for None."""
    return np.empty(0, np.float32) if tensor is None else array(tensor.float().contiguous())
