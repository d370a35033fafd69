"""Operations for which rounding matters, in at least float32; float32 products on a CPU sum in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_EXACT_WEIGHTS = 65_536  # weights


def upcast(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 if it is float64: for states, gates and norms."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias`, `[B, T, out]` for x `[B, T, in]`.

    float32 on a CPU is the reference for all other implementations. There, a product that sums a row in order
    has errors of several roundings, which can grow a hundredfold at a badly conditioned position. So float32
    prompts on a CPU are summed in float64. For a single token, converting the weight to float64 would take
    longer than the product, so this is done only for weights of up to `MAX_EXACT_WEIGHTS` values. Under
    autocast, PyTorch's own product is used.
    """
    exact = x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if not exact or (x.shape[-2] == 1 and weight.numel() > MAX_EXACT_WEIGHTS):
        return F.linear(x, weight, bias)
    out = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return out.to(x.dtype)
