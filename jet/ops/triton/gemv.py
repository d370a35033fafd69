# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Embedding, and matrix-vector products fused with the norm, activation or residual next to them.

A program computes a few outputs, from whole rows of the weight. It loads the rows into registers, as a tuple
of tiles along the columns, before it waits for the kernel that writes its input. With programmatic dependent
launch, most loads thus overlap with the end of the previous kernel. Sums are float32, in a fixed order. The
rows of a batch are processed in turn with the same loaded weights. The kernels in this file take unquantized
weights; those for quantized weights are in `jet.ops.triton.int_gemv`.

The functions take the arguments of their definitions in `jet.ops.reference`, and also `pdl` (whether to use
programmatic dependent launch, on both sides), `config`, and `prefetch`: the next kernel's weight, whose first
bytes this kernel prefetches.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.quantization import INT4, INT8, QuantizedTensor, Weight
from jet.ops.triton import int_gemv
from jet.ops.triton.common import (
    add_pairs,
    launch_dependents,
    launch_options,
    load_vector,
    prefetch_and_wait,
    silu,
)
from jet.ops.triton.gemv_config import GemvConfig, gemv_config_for
from jet.ops.triton.weight_tiles import SEGMENT, kernel_tensors, load_rows, row_layout, to_float32

MAX_TILES = 32  # longer tuples only make longer code, and whole numbers would leave 32 bits


def norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Weight,
    bias: Tensor | None,
    out: Tensor,
    num_activated: int = 0,
    pdl: bool = False,
    config: GemvConfig | None = None,
    prefetch: Tensor | None = None,
) -> None:
    """Compute the same as `norm_linear_reference`; fastest if both weights have the same type.

    SiLU is applied to the first `num_activated` outputs, once here instead of in every program that reads
    them.
    """
    n, c = _check(weight, x, out)
    config = config or gemv_config_for("norm_linear", n, weight)
    kernel, tensors, kernel_args = _choose_kernel(weight, _norm_linear, int_gemv.norm_linear)
    kernel[(triton.cdiv(n, config.block_n),)](
        x,
        norm_weight,
        eps,
        *tensors,
        norm_weight if bias is None else bias,
        out,
        N=n,
        C=c,
        BATCH=x.shape[0],
        BIAS=bias is not None,
        NUM_ACTIVATED=num_activated,
        BLOCK_N=config.block_n,
        BLOCK_K=_block_k(config, weight),
        **kernel_args,
        **launch_options(config.num_warps, pdl, prefetch),
    )


def norm_swiglu(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate_up: Weight,
    out: Tensor,
    pdl: bool = False,
    config: GemvConfig | None = None,
    prefetch: Tensor | None = None,
) -> None:
    """Compute the same as `norm_swiglu_reference`; fastest if both weights have the same type.

    For quantized weights, `out` may be packed int16, `[B, packed_mlp_columns]`.
    """
    n, c = _check(gate_up, x, out, parts=2)
    config = config or gemv_config_for("norm_swiglu", n, gate_up)
    kernel, tensors, kernel_args = _choose_kernel(gate_up, _norm_swiglu, int_gemv.norm_swiglu, out)
    if out.dtype == int_gemv.PACKED_INT16 and config.block_n % SEGMENT.value:
        raise ValueError(
            f"Between two products a program's rows are a multiple of {SEGMENT.value}: {config}."
        )
    kernel[(triton.cdiv(n, config.block_n),)](
        x,
        norm_weight,
        eps,
        *tensors,
        out,
        N=n,
        C=c,
        BATCH=x.shape[0],
        BLOCK_N=config.block_n,
        BLOCK_K=_block_k(config, gate_up),
        **kernel_args,
        **launch_options(config.num_warps, pdl, prefetch),
    )


def linear_add(
    h: Tensor,
    weight: Weight,
    x: Tensor,
    pdl: bool = False,
    config: GemvConfig | None = None,
    prefetch: Tensor | None = None,
) -> None:
    """Compute the same as `linear_add_reference`.

    For quantized weights, `h` may be packed int16, `[B, packed_mlp_columns]`.
    """
    n, c = _check(weight, h, x)
    config = config or gemv_config_for("linear_add", n, weight)
    kernel, tensors, kernel_args = _choose_kernel(weight, _linear_add, int_gemv.linear_add, h)
    kernel[(triton.cdiv(n, config.block_n),)](
        h,
        *tensors,
        x,
        N=n,
        C=c,
        BATCH=x.shape[0],
        BLOCK_N=config.block_n,
        BLOCK_K=_block_k(config, weight),
        **kernel_args,
        **launch_options(config.num_warps, pdl, prefetch),
    )


def heads_linear_add(
    o: Tensor,
    partial_squares: Tensor,
    eps: float,
    weight: Weight,
    x: Tensor,
    pdl: bool = False,
    config: GemvConfig | None = None,
    prefetch: Tensor | None = None,
) -> None:
    """Finish `gated_norm_linear_add_reference` after `jet_step`: divide by the norms, multiply, add.

    Args:
        o: the gated norm's inputs times its scale and the activated gate, `[B, H * V]` float32.
        partial_squares: S partial sums of the squares of each head's inputs, `[B, H, S]` float32.
        eps: the norm's epsilon. A head is divided by `sqrt(sum / V + eps)`, with the sum of its partial sums.
        weight: `[N, H * V]`.
        x: `[B, N]` float32, added to.
    """
    n, c = _check(weight, o, x)
    batch, heads, num_partials = partial_squares.shape
    if c % heads or batch != o.shape[0] or not partial_squares.is_contiguous():
        raise ValueError(f"squares {list(partial_squares.shape)} do not fit o {list(o.shape)}.")
    size = c // heads
    if isinstance(weight, QuantizedTensor) and (weight.row_bytes % SEGMENT.value or size % SEGMENT.value):
        # Heads that end within a part, which no real network has: the norm is taken first.
        normed = o.unflatten(1, (heads, size)) * torch.rsqrt(
            partial_squares.sum(2, keepdim=True) / size + eps
        )
        linear_add(normed.flatten(1), weight, x, pdl, config, prefetch)
        return
    config = config or gemv_config_for("heads_linear_add", n, weight)
    kernel, tensors, kernel_args = _choose_kernel(weight, _heads_linear_add, int_gemv.heads_linear_add)
    if kernel is int_gemv.heads_linear_add:
        kernel_args |= {"BLOCK_K": _block_k(config, weight), "HEADS_PADDED": triton.next_power_of_2(heads)}
    else:
        padded = triton.next_power_of_2(size)
        group = min(max(1, config.block_k // padded), triton.next_power_of_2(heads))
        kernel_args = {"PADDED": padded, "GROUP": group}
    kernel[(triton.cdiv(n, config.block_n),)](
        o,
        partial_squares,
        eps,
        *tensors,
        x,
        N=n,
        BATCH=batch,
        HEADS=heads,
        NUM_PARTIALS=num_partials,
        NUM_PARTIALS_PADDED=triton.next_power_of_2(num_partials),
        SIZE=size,
        BLOCK_N=config.block_n,
        **kernel_args,
        **launch_options(config.num_warps, pdl, prefetch),
    )


def embed(
    token: Tensor,
    embedding: Weight,
    position: Tensor,
    inv_freq: Tensor,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    pdl: bool = False,
    prefetch: Tensor | None = None,
) -> None:
    """Compute the same as `embed_reference`."""
    batch, c = x.shape
    kernel_args = row_layout(embedding)
    block = min(1024, triton.next_power_of_2(kernel_args["ROW_SIZE"]))
    _embed[(triton.cdiv(kernel_args["ROW_SIZE"], block), batch)](
        token,
        *kernel_tensors(embedding),
        position,
        inv_freq,
        x,
        cos,
        sin,
        C=c,
        **kernel_args,
        HALF=inv_freq.shape[0],
        BLOCK=block,
        HALF_BLOCK=triton.next_power_of_2(inv_freq.shape[0]),
        **launch_options(4, pdl, prefetch),
    )


def packed_mlp_columns(size: int, hidden: int, scheme: str | None) -> int | None:
    """Return the number of columns of an MLP's hidden values in packed int16; None if they cannot be packed.

    `size`: the number of hidden values. `hidden`: the number of the MLP's inputs. `scheme`: the quantization
    scheme of both weights.
    """
    halves = {INT8: 1, INT4: 2}.get(scheme or "")
    if halves is None or size % (halves * SEGMENT.value) or hidden % (halves * int_gemv.WORD):
        return None
    return int_gemv.packed_columns(size)


def _check(weight: Weight, given: Tensor, out: Tensor, parts: int = 1) -> tuple[int, int]:
    """Return the output and input size of a product.

    Raises ValueError if the tensors do not fit each other.
    """
    n, c = weight.shape[0] // parts, weight.shape[1]
    before, after = _vector_columns(given, c, row_layout(weight)["HALVES"]), _vector_columns(out, n)
    fits = (given.shape[1], *out.shape) == (before, len(given), after) and weight.shape[0] == n * parts
    if not (fits and weight.is_contiguous() and given.is_contiguous() and out.is_contiguous()):
        raise ValueError(
            f"weight {list(weight.shape)}, input {list(given.shape)} and output {list(out.shape)} "
            "must fit each other and be contiguous."
        )
    return n, c


def _vector_columns(vector: Tensor, size: int, halves: int = 1) -> int:
    """Return the number of columns of a vector of `size` values, which may be packed int16.

    Packed values must fill whole segments in each of the `halves`; raises ValueError if they do not.
    """
    if vector.dtype != int_gemv.PACKED_INT16:
        return size
    if size % (halves * int(SEGMENT.value)):
        raise ValueError(
            f"{size} numbers are no whole parts of {SEGMENT.value}, of which {halves} lie side by side."
        )
    return int_gemv.packed_columns(size)


def _choose_kernel(
    weight: Weight, float_kernel: Any, int_kernel: Any, hidden: Tensor | None = None
) -> tuple[Any, tuple[Tensor, ...], dict[str, Any]]:
    """Choose the kernel for a weight; return it, the weight's tensors for it, and its constant sizes.

    `hidden`: the MLP's hidden values, if the kernel reads or writes them; else None.

    Raises ValueError if the hidden values are packed int16 and the weight is not quantized.
    """
    packed = hidden is not None and hidden.dtype == int_gemv.PACKED_INT16
    if isinstance(weight, QuantizedTensor) and weight.row_bytes % int_gemv.WORD == 0:
        more = {} if hidden is None else {"PACKED": packed, "HIDDEN_COLUMNS": hidden.shape[1]}
        return int_kernel, (weight.qweight, weight.scales), row_layout(weight) | more
    if packed:
        raise ValueError("Packed int16 hidden values need quantized weights.")
    # No real network has codes that are no whole words.
    return float_kernel, (weight.float() if isinstance(weight, QuantizedTensor) else weight,), {}


def _block_k(config: GemvConfig, weight: Weight) -> int:
    span = int(row_layout(weight)["ROW_SIZE"])
    return max(config.block_k, int(SEGMENT.value), int(triton.next_power_of_2(triton.cdiv(span, MAX_TILES))))


@triton.jit
def _norm_linear(
    x,
    norm_weight,
    eps,
    weight,
    bias,
    out,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BIAS: tl.constexpr,
    NUM_ACTIVATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    launch_dependents(PDL)
    TILES: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weights = load_rows(weight, tl.minimum(row, N - 1), C, BLOCK_K)
    norm_weights = load_vector(norm_weight, C, BLOCK_K)
    added = tl.zeros([BLOCK_N], tl.float32)
    if BIAS:
        added += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        tiles = load_vector(x + b * C, C, BLOCK_K)
        squares = tl.zeros([BLOCK_K], tl.float32)
        products = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for i in tl.static_range(TILES):
            squares += tiles[i] * tiles[i]
            products += to_float32(weights[i], 0) * (tiles[i] * norm_weights[i].to(tl.float32))[None, :]
        # The norm's divisor comes last: its sum then need not be finished before the products begin.
        scale = tl.rsqrt(tl.sum(squares, 0) / C + eps)
        result = tl.sum(products, 1) * scale + added
        if NUM_ACTIVATED > 0:
            result = tl.where(row < NUM_ACTIVATED, silu(result), result)
        tl.store(out + b * N + row, result, mask=row < N)


@triton.jit
def _norm_swiglu(
    x,
    norm_weight,
    eps,
    gate_up,
    out,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    launch_dependents(PDL)
    TILES: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_row = tl.minimum(row, N - 1)
    gates = load_rows(gate_up, weight_row, C, BLOCK_K)
    ups = load_rows(gate_up, weight_row + N, C, BLOCK_K)
    norm_weights = load_vector(norm_weight, C, BLOCK_K)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        tiles = load_vector(x + b * C, C, BLOCK_K)
        squares = tl.zeros([BLOCK_K], tl.float32)
        gate = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        up = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for i in tl.static_range(TILES):
            squares += tiles[i] * tiles[i]
            scaled = (tiles[i] * norm_weights[i].to(tl.float32))[None, :]
            gate += to_float32(gates[i], 0) * scaled
            up += to_float32(ups[i], 0) * scaled
        scale = tl.rsqrt(tl.sum(squares, 0) / C + eps)
        gated, upped = tl.reduce((gate, up), 1, add_pairs)
        result = silu(gated * scale) * (upped * scale)
        tl.store(out + b * N + row, result.to(out.dtype.element_ty), mask=row < N)


@triton.jit
def _linear_add(
    h,
    weight,
    x,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    launch_dependents(PDL)
    TILES: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weights = load_rows(weight, tl.minimum(row, N - 1), C, BLOCK_K)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        inputs = ()
        for i in tl.static_range(TILES):
            # In the shape of the weights, for a few rows the same values repeatedly: as vectors they would
            # be spread over the threads in another way, and pass through shared memory tile by tile.
            column = i * BLOCK_K + tl.arange(0, BLOCK_K)[None, :] + tl.zeros([BLOCK_N, 1], tl.int32)
            one = tl.load(h + b * C + column, mask=column < C, other=0.0)
            inputs = inputs + (to_float32(one, 0),)  # noqa: RUF005
        products = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for i in tl.static_range(TILES):
            products += to_float32(weights[i], 0) * inputs[i]
        tl.store(x + b * N + row, before + tl.sum(products, 1), mask=row < N)


@triton.jit
def _heads_linear_add(
    o,
    partial_squares,
    eps,
    weight,
    x,
    N: tl.constexpr,
    BATCH: tl.constexpr,
    HEADS: tl.constexpr,
    NUM_PARTIALS: tl.constexpr,
    NUM_PARTIALS_PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    launch_dependents(PDL)
    # Tiles are [heads, channels] here, of one row of the weight: a head's divisor is then one of a row.
    TILES: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    head = tl.arange(0, GROUP)[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    partial = tl.arange(0, NUM_PARTIALS_PADDED)[None, :]
    first = tl.program_id(0) * BLOCK_N
    weights = ()
    for r in tl.static_range(BLOCK_N):
        row = tl.minimum(first + r, N - 1).to(tl.int64)
        for t in tl.static_range(TILES):
            inside = (t * GROUP + head < HEADS) & (channel < SIZE)
            place = weight + row * (HEADS * SIZE) + (t * GROUP + head) * SIZE + channel
            tile = tl.load(place, mask=inside, other=0, eviction_policy="evict_first")
            weights = weights + (tile,)  # noqa: RUF005
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        inputs = ()
        for t in tl.static_range(TILES):
            here = t * GROUP + head
            inside = (here < HEADS) & (channel < SIZE)
            values = tl.load(o + b * (HEADS * SIZE) + here * SIZE + channel, mask=inside, other=0.0)
            sums = partial_squares + (b * HEADS + here) * NUM_PARTIALS + partial
            total = tl.sum(tl.load(sums, mask=(here < HEADS) & (partial < NUM_PARTIALS), other=0.0), 1)
            inputs = inputs + (values * tl.rsqrt(total / SIZE + eps)[:, None],)  # noqa: RUF005
        for r in tl.static_range(BLOCK_N):
            place = x + b * N + first + r
            before = tl.load(place, mask=first + r < N, other=0.0)
            products = tl.zeros([GROUP, PADDED], tl.float32)
            for t in tl.static_range(TILES):
                products += to_float32(weights[r * TILES + t], 0) * inputs[t]
            tl.store(place, before + tl.sum(tl.sum(products, 1), 0), mask=first + r < N)


@triton.jit
def _embed(
    token,
    embedding,
    scales,
    position,
    inv_freq,
    x,
    cos,
    sin,
    C: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    launch_dependents(PDL)
    b = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.arange(0, HALF_BLOCK)
    frequency = tl.load(inv_freq + pair, mask=pair < HALF, other=0.0)
    blocks = tl.num_programs(0)
    prefetch_and_wait(
        b * blocks + tl.program_id(0), tl.num_programs(1) * blocks, prefetch, prefetch_bytes, PDL
    )
    row = tl.load(token + b).to(tl.int64)
    qweight = tl.load(embedding + row * ROW_SIZE + column, mask=column < ROW_SIZE, other=0)
    for half in tl.static_range(HALVES):
        values = to_float32(qweight, half)
        inside = (column < ROW_SIZE) & (half * ROW_SIZE + column < C)
        if GROUP_SIZE > 0:
            groups = (ROW_SIZE + GROUP_SIZE - 1) // GROUP_SIZE
            group = (row * HALVES + half) * groups + column // GROUP_SIZE
            values *= tl.load(scales + group, mask=inside, other=0.0).to(tl.float32)
        elif scales is not None:
            values *= tl.load(scales + row)
        tl.store(x + b * C + half * ROW_SIZE + column, values, mask=inside)
    if tl.program_id(0) == 0:
        angle = tl.load(position + b).to(tl.float32) * frequency
        for half in tl.static_range(2):
            place = b * 2 * HALF + half * HALF + pair
            tl.store(cos + place, tl.cos(angle), mask=pair < HALF)
            tl.store(sin + place, tl.sin(angle), mask=pair < HALF)
