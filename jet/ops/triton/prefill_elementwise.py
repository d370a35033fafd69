# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Elementwise prefill kernels for `jet.ops.prefill_backends`: norms, activations, dynamic convolution.

Each takes one pass, computes in float32, and reads and writes the network's own type.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from jet.ops.triton.common import load_segment, segment_at, silu

COLUMNS = 1024  # of a program that has nothing to add up


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Compute the same as `norm_reference`."""
    size = x.shape[1]
    padded = triton.next_power_of_2(size)
    warps = max(1, min(8, padded // 256))
    _norm_kernel[(len(x),)](x, weight, eps, out, SIZE=size, PADDED=padded, num_warps=warps)


def swiglu(both: Tensor, out: Tensor) -> None:
    """Compute the same as `swiglu_reference`."""
    tokens, size = out.shape
    _swiglu_kernel[(triton.cdiv(size, COLUMNS), tokens)](both, out, SIZE=size, BLOCK=COLUMNS, num_warps=4)


def activate(x: Tensor, out: Tensor) -> None:
    """Compute the same as `activate_reference`."""
    tokens, size = out.shape
    block = min(COLUMNS, triton.next_power_of_2(size))
    grid = triton.cdiv(size, block), tokens
    _silu_kernel[grid](x, out, STRIDE=x.stride(0), SIZE=size, BLOCK=block, num_warps=max(1, block // 256))


def gated_norm(o: Tensor, gate: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Compute the same as `gated_norm_reference`."""
    tokens, columns = o.shape
    size = weight.shape[0]
    padded = triton.next_power_of_2(size)
    rows = max(1, 2048 // padded)
    grid = triton.cdiv(tokens * (columns // size), rows)
    _gated_norm_kernel[(grid,)](
        o,
        gate,
        weight,
        eps,
        out,
        tokens * (columns // size),
        STRIDE=gate.stride(0),
        HEADS=columns // size,
        SIZE=size,
        PADDED=padded,
        ROWS=rows,
        num_warps=4,
    )


def convolve(
    values: Tensor, kernels: Tensor, bias: Tensor, chunk_meta: Tensor, conv_state: Tensor, out: Tensor
) -> None:
    """Compute the same as `convolve_reference`."""
    tokens, channels = out.shape
    block = min(512, triton.next_power_of_2(channels))
    rows = max(4, triton.next_power_of_2(conv_state.shape[2] - 1))  # enough to hold all that see the state
    _convolve_kernel[(triton.cdiv(channels, block), triton.cdiv(tokens, rows))](
        values,
        kernels,
        bias,
        chunk_meta,
        conv_state,
        out,
        kernels.stride(0),
        STRIDE=values.stride(0),
        D=channels,
        W=conv_state.shape[2],
        ROWS=rows,
        BLOCK=block,
        num_warps=4,
    )


@triton.jit
def _norm_kernel(x, weight, eps, out, SIZE: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * SIZE
    column = tl.arange(0, PADDED)
    inside = column < SIZE
    values = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = values * tl.rsqrt(tl.sum(values * values, 0) / SIZE + eps) * scale
    tl.store(out + row + column, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_kernel(both, out, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    gate = tl.load(both + row * (2 * SIZE) + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(both + row * (2 * SIZE) + SIZE + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + column, (silu(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _silu_kernel(x, out, STRIDE: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < SIZE
    values = tl.load(x + row * STRIDE + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + column, silu(values).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_norm_kernel(
    o, gate, weight, eps, out, count,
    STRIDE: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Normalize and gate ROWS heads; `count`: the number of heads of all tokens."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = (row < count)[:, None] & (column < SIZE)[None, :]
    chunk_meta = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    gate_offset = (
        (row // HEADS).to(tl.int64)[:, None] * STRIDE + (row % HEADS)[:, None] * SIZE + column[None, :]
    )
    values = tl.load(o + chunk_meta, mask=inside, other=0.0).to(tl.float32)
    gates = tl.load(gate + gate_offset, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=column < SIZE, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values, 1) / SIZE + eps)
    normed = values * inverse[:, None] * scale[None, :] * silu(gates)
    tl.store(out + chunk_meta, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _convolve_kernel(
    values, kernels, bias, chunk_meta, conv_state, out, tap_stride,
    STRIDE: tl.constexpr, D: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolve some channels of some tokens; `tap_stride`: elements between the kernels of two taps."""
    first = tl.program_id(1) * ROWS
    slot, _, count, offset = load_segment(chunk_meta, segment_at(chunk_meta, first))
    state_ptr = conv_state + slot * D * W
    given = values, kernels, bias, state_ptr, out
    end = offset + count
    # A segment's first tokens also see the state, apart from the others, which read contiguous memory.
    if first == offset:
        last = tl.minimum(end, offset + W - 1)
        _convolve_tile(*given, offset, last, offset, tap_stride, True, STRIDE, D, W, ROWS, BLOCK)
    _convolve_tile(*given, first + W - 1, end, offset, tap_stride, False, STRIDE, D, W, ROWS, BLOCK)


@triton.jit
def _convolve_tile(
    values, kernels, bias, state_ptr, out, first, end, offset, tap_stride,
    STATE: tl.constexpr, STRIDE: tl.constexpr, D: tl.constexpr, W: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Convolve up to ROWS tokens from `first` to before `end`.

    `STATE`: whether these are the first tokens of a segment, which also read the convolution state.
    """
    token = (first + tl.arange(0, ROWS))[:, None]
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = (token < end) & (channel < D)[None, :]
    cell = token.to(tl.int64) * D + channel[None, :]
    source = token.to(tl.int64) * STRIDE + channel[None, :]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for w in tl.static_range(W):
        tap = tl.load(kernels + w * tap_stride + cell, mask=mask, other=0.0).to(tl.float32)
        tap += tl.load(bias + w * D + channel[None, :], mask=(channel < D)[None, :], other=0.0).to(tl.float32)
        back = w - (W - 1)  # of the token that this tap weighs
        if STATE:
            before = token - offset + back  # below 0 it lies in the state
            from_input = tl.load(values + source + back * STRIDE, mask=mask & (before >= 0), other=0.0)
            from_state = tl.load(
                state_ptr + channel[None, :] * W + W + before, mask=mask & (before < 0), other=0.0
            )
            value = from_input.to(tl.float32) + from_state.to(tl.float32)
        else:
            value = tl.load(values + source + back * STRIDE, mask=mask, other=0.0).to(tl.float32)
        total += value * tap
    tl.store(out + cell, silu(total).to(out.dtype.element_ty), mask=mask)
