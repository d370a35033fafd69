# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""What lies between the products of a chunk: norms, activations and the dynamic convolution, in one pass each.

Fast twins of `jet.ops.chunk`. All compute in float32 and read and write the network's own type.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.kernels.common import silu

COLUMNS = 1024  # of a program that has nothing to add up


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Twin of `norm_reference`."""
    size = x.shape[1]
    padded = triton.next_power_of_2(size)
    warps = max(1, min(8, padded // 256))
    _norm_kernel[(len(x),)](x, weight, eps, out, SIZE=size, PADDED=padded, num_warps=warps)


def swiglu(both: Tensor, out: Tensor) -> None:
    """Twin of `swiglu_reference`."""
    tokens, size = out.shape
    _swiglu_kernel[(triton.cdiv(size, COLUMNS), tokens)](both, out, SIZE=size, BLOCK=COLUMNS, num_warps=4)


def activate(x: Tensor, out: Tensor) -> None:
    """Twin of `activate_reference`."""
    tokens, size = out.shape
    block = min(COLUMNS, triton.next_power_of_2(size))
    grid = triton.cdiv(size, block), tokens
    _silu_kernel[grid](x, out, STRIDE=x.stride(0), SIZE=size, BLOCK=block, num_warps=max(1, block // 256))


def gated_norm(o: Tensor, gate: Tensor, weight: Tensor, eps: float, out: Tensor) -> None:
    """Twin of `gated_norm_reference`."""
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


def convolve(values: Tensor, kernels: Tensor, place: Tensor, conv_state: Tensor, out: Tensor) -> None:
    """Twin of `convolve_reference`."""
    tokens, channels = out.shape
    width = conv_state.shape[2]
    block = min(256, triton.next_power_of_2(channels))
    rows = 8
    _convolve_kernel[(triton.cdiv(channels, block), triton.cdiv(tokens, rows))](
        values,
        kernels,
        place,
        conv_state,
        out,
        STRIDE=values.stride(0),
        D=channels,
        W=width,
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
    """`count`: heads of all tokens, a row each."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, PADDED)
    inside = (row < count)[:, None] & (column < SIZE)[None, :]
    place = row.to(tl.int64)[:, None] * SIZE + column[None, :]
    beside = (row // HEADS).to(tl.int64)[:, None] * STRIDE + (row % HEADS)[:, None] * SIZE + column[None, :]
    values = tl.load(o + place, mask=inside, other=0.0).to(tl.float32)
    gates = tl.load(gate + beside, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=column < SIZE, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(values * values, 1) / SIZE + eps)
    normed = values * inverse[:, None] * scale[None, :] * silu(gates)
    tl.store(out + place, normed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _convolve_kernel(
    values, kernels, place, conv_state, out,
    STRIDE: tl.constexpr, D: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some channels of some tokens. Four taps are loaded as they lie, others one by one."""
    slot, count = tl.load(place).to(tl.int64), tl.load(place + 2)
    token = (tl.program_id(1) * ROWS + tl.arange(0, ROWS))[:, None]
    channel = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[None, :]
    mine = (token < count) & (channel < D)
    cell = token.to(tl.int64) * D + channel
    memory = conv_state + (slot * D + channel) * W
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    if W == 4:
        lane = (tl.program_id(0) * (BLOCK * W) + tl.arange(0, BLOCK * W))[None, :]
        inside = (token < count) & (lane < D * W)
        taps = tl.load(kernels + token.to(tl.int64) * (D * W) + lane, mask=inside, other=0.0)
        even, odd = tl.split(tl.reshape(taps, [ROWS, BLOCK * 2, 2]))
        first, third = tl.split(tl.reshape(even, [ROWS, BLOCK, 2]))
        second, fourth = tl.split(tl.reshape(odd, [ROWS, BLOCK, 2]))
        total += _input(values, memory, token, channel, mine, 3, STRIDE, W) * first.to(tl.float32)
        total += _input(values, memory, token, channel, mine, 2, STRIDE, W) * second.to(tl.float32)
        total += _input(values, memory, token, channel, mine, 1, STRIDE, W) * third.to(tl.float32)
        total += _input(values, memory, token, channel, mine, 0, STRIDE, W) * fourth.to(tl.float32)
    else:
        for w in tl.static_range(W):
            tap = tl.load(kernels + cell * W + w, mask=mine, other=0.0).to(tl.float32)
            total += _input(values, memory, token, channel, mine, W - 1 - w, STRIDE, W) * tap
    tl.store(out + cell, silu(total).to(out.dtype.element_ty), mask=mine)


@triton.jit
def _input(values, memory, token, channel, mine, back, STRIDE: tl.constexpr, W: tl.constexpr):
    """The input `back` tokens before each; before the chunk it stands in the state."""
    before = token - back
    given = tl.load(values + before.to(tl.int64) * STRIDE + channel, mask=mine & (before >= 0), other=0.0)
    kept = tl.load(memory + W + before, mask=mine & (before < 0), other=0.0)
    return tl.where(before < 0, kept.to(tl.float32), given.to(tl.float32))
