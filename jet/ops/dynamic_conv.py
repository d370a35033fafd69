"""The dynamic causal convolution: each token has a kernel of its own for each channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from jet.ops.availability import has_triton
from jet.ops.precision import upcast


def dynamic_conv(
    x: Tensor,
    kernels: Tensor,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    trailing: bool = False,
) -> tuple[Tensor, Tensor]:
    """Convolve: sum each token and the W - 1 before it, weighted by the token's kernel, and apply SiLU.

    Args:
        x: inputs, `[B, T, D]`.
        kernels: `[B, T, D, W]`; tap W - 1 weighs the current token, tap 0 the oldest.
        state: the last W inputs before `x`, `[B, D, W]`, newest last; None for zeros.
        mask: `[B, T]`, False at padding, which is skipped as if the row did not contain it; None if there is
            no padding.
        trailing: whether padding stands at the end of rows only.

    Returns:
        The outputs `[B, T, D]` in x's type, summed in at least float32, and the new state `[B, D, W]`.
    """
    batch, length, channels = x.shape
    width = kernels.shape[-1]
    if state is None:
        state = x.new_zeros(batch, channels, width)
    if length == 1 and mask is None:
        state = torch.cat([state[..., 1:], x.transpose(1, 2)], dim=-1)
        out = (upcast(state) * upcast(kernels[:, 0])).sum(-1)
        return F.silu(out)[:, None].to(x.dtype), state

    inputs = torch.cat([state.transpose(1, 2), x], dim=1)  # [B, W + T, D]
    if mask is None or trailing:
        end = _last_inputs(inputs, mask, width).transpose(1, 2).contiguous()
        if _kernel_applies(x, kernels):
            from jet.ops.triton.prefill_conv import convolve

            return convolve(x, kernels, state), end
        windows = [inputs[:, 1 + w : 1 + w + length] for w in range(width)]
    else:
        inputs, oldest = _without_gaps(inputs, mask, width)
        windows = [_rows(inputs, oldest + w) for w in range(width)]
        end = inputs[:, -width:].transpose(1, 2).contiguous()
    out = upcast(windows[0]) * upcast(kernels[..., 0])
    for w in range(1, width):
        out = out + upcast(windows[w]) * upcast(kernels[..., w])
    return F.silu(out).to(x.dtype), end


def _last_inputs(inputs: Tensor, mask: Tensor | None, width: int) -> Tensor:
    """Return the last inputs before trailing padding, `[B, width, D]`."""
    if mask is None:
        return inputs[:, -width:]
    places = mask.sum(dim=1, keepdim=True) + torch.arange(width, device=mask.device)
    return _rows(inputs, places)


def _kernel_applies(x: Tensor, kernels: Tensor) -> bool:
    """Return whether the Triton kernel applies: CUDA, no float64, no gradient."""
    trains = torch.is_grad_enabled() and (x.requires_grad or kernels.requires_grad)
    return x.is_cuda and x.dtype != torch.float64 and not trains and has_triton()


def _without_gaps(inputs: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Move padding to the front of each row, so that real tokens are neighbors.

    Returns the moved inputs, and for each token the index of its oldest tap in them.
    """
    keep = torch.cat([mask.new_ones(mask.shape[0], width), mask], dim=1)
    order = keep.long().argsort(dim=1, stable=True)  # padding first, the rest in its order
    place = order.argsort(dim=1)  # where each input went
    return _rows(inputs, order), (place[:, width:] - (width - 1)).clamp(min=0)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Return `x[b, index[b, t]]` `[B, T, D]` for x `[B, N, D]` and index `[B, T]`."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
