"""Where rounding matters: sums and states in at least float32, float32 products on a CPU in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_EXACT_WEIGHTS = 65_536  # weights


def upcast(x: Tensor) -> Tensor:
    """x in float32, or float64 if it already is: for states, gates and norms of half-precision networks."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, `[B, T, in]` → `[B, T, out]`; float32 prompts on a CPU accumulate in float64.

    There, float32 is what other forms are compared with, and a float32 matrix product that sums a row in
    order is off by several roundings, which a badly conditioned position multiplies by a hundred. For a
    single token converting the weights would cost more than the product, and its sums are shorter: only small
    matrices, where it takes microseconds, are treated alike. Under autocast all is as usual.
    """
    exact = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not exact or (x.shape[-2] == 1 and weight.numel() > MAX_EXACT_WEIGHTS):
        return F.linear(x, weight, bias)
    out = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return out.to(x.dtype)
