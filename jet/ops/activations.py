"""Define linear layers whose weights and activations are quantized.

Each row of activations is quantized to int8 by its own values alone, 32 columns to a scale, so a row's result
depends neither on the batch nor on how a prompt is cut into chunks. The int8 codes are multiplied by the
weight's codes and summed exactly in int32 within each group; the sums are then scaled and added in float32.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from jet.ops.quantization import GROUP_SIZE, INT4, QuantizedTensor

ACTIVATION_GROUP_SIZE = 32  # columns to a scale
_SMALLEST = 2.0**-100  # a group whose largest number is not above this is quantized to zeros


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize float32 `[…, C]`, C a multiple of `ACTIVATION_GROUP_SIZE`, to int8.

    Returns codes `[…, C]` and scales `[…, C / 32]` in float32. The scale of a group with infinities or NaN is
    NaN.
    """
    groups = x.float().unflatten(-1, (-1, ACTIVATION_GROUP_SIZE))
    peak, zero = groups.abs().amax(-1), (groups * 0).sum(-1)
    large = peak > _SMALLEST
    inverse = torch.where(large, 127 / peak, 0)
    scales = torch.where(large, peak * (1 / 127) + zero, zero)
    codes = (groups * inverse[..., None]).round().nan_to_num(0, 0, 0).clamp(-127, 127).to(torch.int8)
    return codes.flatten(-2), scales


def round_activations(x: Tensor, weight: QuantizedTensor) -> Tensor:
    """Return float32 activations `[…, C]`, quantized for a product with `weight` and dequantized again.

    An int4 row is stored as two halves of columns, see `jet.ops.quantization`. Activation groups restart at
    the second half.
    """
    span = weight.row_bytes if weight.scheme == INT4 else weight.columns
    rounded = []
    for run in x.split(span, dim=-1):
        codes, scales = quantize_activations(F.pad(run.float(), (0, -run.shape[-1] % GROUP_SIZE)))
        numbers = codes.unflatten(-1, (-1, ACTIVATION_GROUP_SIZE)) * scales[..., None]
        rounded.append(numbers.flatten(-2)[..., : run.shape[-1]])
    return torch.cat(rounded, -1)


def linear_reference(x: Tensor, weight: QuantizedTensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias` `[…, N]` in float32 for x `[…, C]`, with quantized activations."""
    numbers = round_activations(x, weight).double()
    out = F.linear(numbers, weight.dequantize(torch.float64), None if bias is None else bias.double())
    return out.float()


def compiled_linear(x: Tensor) -> Callable[[Tensor, QuantizedTensor, Tensor | None], Tensor] | None:
    """Return the compiled version of `linear_reference`; None unless x is on the CPU and numba works."""
    return _pooled_multiply() if x.device.type == "cpu" else None


@cache
def _pooled_multiply() -> Callable[[Tensor, QuantizedTensor, Tensor | None], Tensor] | None:
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        from jet.ops.numba import threaded_ops
    except Exception:  # `numba_backend` says so
        return None
    return threaded_ops.multiply
