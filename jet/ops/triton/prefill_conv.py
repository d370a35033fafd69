"""The dynamic convolution of a prompt in one pass: Triton kernel for `jet.ops.dynamic_conv`.

Plain torch needs several passes over the generated kernels, `W` numbers for each channel of each token. This
kernel reads them once.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator, unused-ignore"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.triton.common import silu

TOKENS, CHANNELS = 16, 128  # of a program


def convolve(x: Tensor, kernels: Tensor, state: Tensor) -> Tensor:
    """Sum each token and the W - 1 before it, weighted by the token's kernel, in float32; apply SiLU.

    Args:
        x: inputs, `[B, T, D]`.
        kernels: `[B, T, D, W]`; tap W - 1 weighs the current token.
        state: the last W inputs before `x`, `[B, D, W]`, newest last.

    Returns:
        `[B, T, D]` in x's type. Raises ValueError if the shapes do not fit each other.
    """
    batch, length, channels = x.shape
    width = kernels.shape[-1]
    if kernels.shape != (*x.shape, width) or state.shape != (batch, channels, width):
        raise ValueError(f"x {list(x.shape)}, kernels {list(kernels.shape)}, state {list(state.shape)}.")
    x, kernels, state = x.contiguous(), kernels.contiguous(), state.contiguous()
    out = torch.empty_like(x)
    grid = (triton.cdiv(channels, CHANNELS), triton.cdiv(length, TOKENS), batch)
    _convolve[grid](
        x, kernels, state, out, length, D=channels, W=width, TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=4
    )
    return out


@triton.jit
def _convolve(
    x, kernels, state, out, length,
    D: tl.constexpr, W: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Convolve each token with its own kernel of W taps, and apply SiLU.

    One program computes a tile of channels and tokens of one row; the grid is (channels, tokens, rows).
    """
    token = (tl.program_id(1) * TOKENS + tl.arange(0, TOKENS))[:, None]
    channel = (tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    row = tl.program_id(2).to(tl.int64)
    mask = (token < length) & (channel < D)
    place = (row * length + token) * D + channel
    total = tl.zeros([TOKENS, CHANNELS], tl.float32)
    for w in tl.static_range(W):
        before = token + (w - (W - 1))  # the token that this tap weighs; below 0 it stands in the state
        from_input = tl.load(x + place + (w - (W - 1)) * D, mask=mask & (before >= 0), other=0.0)
        state_ptr = state + (row * D + channel) * W + W + before
        from_state = tl.load(state_ptr, mask=mask & (before < 0), other=0.0)
        tap = tl.load(kernels + place * W + w, mask=mask, other=0.0)
        value = tl.where(before < 0, from_state.to(tl.float32), from_input.to(tl.float32))
        total += value * tap.to(tl.float32)
    tl.store(out + place, silu(total).to(out.dtype.element_ty), mask=mask)
