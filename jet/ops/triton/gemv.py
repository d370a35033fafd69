# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Matrix-vector products that take in the norm before and the activation or residual after them; embedding.

One program owns a few whole rows of the weight. It holds them in registers, as a tuple of tiles along the
columns, and reads them before it waits for the kernel that writes its input: under programmatic dependent
launch that hides most of the memory time of one kernel behind the end of another. Everything is summed in
float32 and in a fixed order. Rows of a batch take turns on the same loaded weights. The kernels here are of
weights that are numbers; for those in codes `jet.ops.triton.int_gemv` has others of the same shape.

The functions and their torch twins in `jet.ops.reference` take the same arguments, and here also `pdl` (the
launch is programmatic dependent, on both sides), `tiling`, and `ahead`: what the next kernel will read of its
weight, of which this one fetches the beginning.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.quantization import INT4, INT8, QuantizedTensor, Weight
from jet.ops.triton import int_gemv
from jet.ops.triton.common import add_pairs, chain_options, launch_next, load_vector, silu, wait
from jet.ops.triton.gemv_config import Tiling, tiling_of
from jet.ops.triton.weight_tiles import PART, held, load_rows, numbers, sizes

MAX_TILES = 32  # longer tuples only make longer code, and whole numbers would leave 32 bits


def norm_linear(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: Weight,
    bias: Tensor | None,
    out: Tensor,
    activated: int = 0,
    pdl: bool = False,
    tiling: Tiling | None = None,
    ahead: Tensor | None = None,
) -> None:
    """Twin of `norm_linear_reference`; fastest where the norm's weight has the type of the other weight.

    The first `activated` outputs are written through `silu`: once here instead of in every program that
    reads them.
    """
    n, c = _check(weight, x, out)
    tiling = tiling or tiling_of("norm_linear", n, weight)
    kernel, tensors, cut = _for(weight, _norm_linear, int_gemv.norm_linear)
    kernel[(triton.cdiv(n, tiling.rows),)](
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
        ACTIVATED=activated,
        ROWS=tiling.rows,
        COLUMNS=_columns(tiling, weight),
        **cut,
        **chain_options(tiling.warps, pdl, ahead),
    )


def norm_swiglu(
    x: Tensor,
    norm_weight: Tensor,
    eps: float,
    gate_up: Weight,
    out: Tensor,
    pdl: bool = False,
    tiling: Tiling | None = None,
    ahead: Tensor | None = None,
) -> None:
    """Twin of `norm_swiglu_reference`; fastest where the norm's weight has the type of the other weight.

    `out` may be `packed_mlp_columns` two products of weights in codes.
    """
    n, c = _check(gate_up, x, out, parts=2)
    tiling = tiling or tiling_of("norm_swiglu", n, gate_up)
    kernel, tensors, cut = _for(gate_up, _norm_swiglu, int_gemv.norm_swiglu, out)
    if out.dtype == int_gemv.BETWEEN and tiling.rows % PART.value:
        raise ValueError(f"Between two products a program's rows are a multiple of {PART.value}: {tiling}.")
    kernel[(triton.cdiv(n, tiling.rows),)](
        x,
        norm_weight,
        eps,
        *tensors,
        out,
        N=n,
        C=c,
        BATCH=x.shape[0],
        ROWS=tiling.rows,
        COLUMNS=_columns(tiling, gate_up),
        **cut,
        **chain_options(tiling.warps, pdl, ahead),
    )


def linear_add(
    h: Tensor,
    weight: Weight,
    x: Tensor,
    pdl: bool = False,
    tiling: Tiling | None = None,
    ahead: Tensor | None = None,
) -> None:
    """Twin of `linear_add_reference`. `h` may be `packed_mlp_columns` two products of weights in codes."""
    n, c = _check(weight, h, x)
    tiling = tiling or tiling_of("linear_add", n, weight)
    kernel, tensors, cut = _for(weight, _linear_add, int_gemv.linear_add, h)
    kernel[(triton.cdiv(n, tiling.rows),)](
        h,
        *tensors,
        x,
        N=n,
        C=c,
        BATCH=x.shape[0],
        ROWS=tiling.rows,
        COLUMNS=_columns(tiling, weight),
        **cut,
        **chain_options(tiling.warps, pdl, ahead),
    )


def heads_linear_add(
    o: Tensor,
    squares: Tensor,
    eps: float,
    weight: Weight,
    x: Tensor,
    pdl: bool = False,
    tiling: Tiling | None = None,
    ahead: Tensor | None = None,
) -> None:
    """What is left of `gated_norm_linear_add_reference` behind `jet_step`: divisors, product, residual.

    Args:
        o: a norm's inputs times its scale and the gate, `[B, H * V]` float32.
        squares: shares of the sums of the inputs' squares, `[B, H, S]` float32: each head's norm divides by
            the root of their sum over V.
        eps: the norm's epsilon.
        weight: `[N, H * V]`.
        x: `[B, N]` float32, added to.
    """
    n, c = _check(weight, o, x)
    batch, heads, shares = squares.shape
    if c % heads or batch != o.shape[0] or not squares.is_contiguous():
        raise ValueError(f"squares {list(squares.shape)} do not fit o {list(o.shape)}.")
    size = c // heads
    if isinstance(weight, QuantizedTensor) and (weight.row_bytes % PART.value or size % PART.value):
        # Heads that end within a part, which no real network has: the norm is taken first.
        normed = o.unflatten(1, (heads, size)) * torch.rsqrt(squares.sum(2, keepdim=True) / size + eps)
        linear_add(normed.flatten(1), weight, x, pdl, tiling, ahead)
        return
    tiling = tiling or tiling_of("heads_linear_add", n, weight)
    kernel, tensors, cut = _for(weight, _heads_linear_add, int_gemv.heads_linear_add)
    if kernel is int_gemv.heads_linear_add:
        cut |= {"COLUMNS": _columns(tiling, weight), "HEADS_PADDED": triton.next_power_of_2(heads)}
    else:
        padded = triton.next_power_of_2(size)
        group = min(max(1, tiling.columns // padded), triton.next_power_of_2(heads))
        cut = {"PADDED": padded, "GROUP": group}
    kernel[(triton.cdiv(n, tiling.rows),)](
        o,
        squares,
        eps,
        *tensors,
        x,
        N=n,
        BATCH=batch,
        HEADS=heads,
        SHARES=shares,
        SHARES_PADDED=triton.next_power_of_2(shares),
        SIZE=size,
        ROWS=tiling.rows,
        **cut,
        **chain_options(tiling.warps, pdl, ahead),
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
    ahead: Tensor | None = None,
) -> None:
    """Twin of `embed_reference`."""
    batch, c = x.shape
    cut = sizes(embedding)
    block = min(1024, triton.next_power_of_2(cut["SPAN"]))
    _embed[(triton.cdiv(cut["SPAN"], block), batch)](
        token,
        *held(embedding),
        position,
        inv_freq,
        x,
        cos,
        sin,
        C=c,
        **cut,
        HALF=inv_freq.shape[0],
        BLOCK=block,
        HALF_BLOCK=triton.next_power_of_2(inv_freq.shape[0]),
        **chain_options(4, pdl, ahead),
    )


def packed_mlp_columns(size: int, hidden: int, scheme: str | None) -> int | None:
    """Columns of what lies between the products of an MLP, if it can be whole numbers (`coded.BETWEEN`).

    `size` numbers are between them and `hidden` before; their weights are in `scheme`.
    """
    halves = {INT8: 1, INT4: 2}.get(scheme or "")
    if halves is None or size % (halves * PART.value) or hidden % (halves * int_gemv.WORD):
        return None
    return int_gemv.columns_between(size)


def _check(weight: Weight, given: Tensor, out: Tensor, parts: int = 1) -> tuple[int, int]:
    """Output and input size of a product whose tensors fit each other; ValueError otherwise."""
    n, c = weight.shape[0] // parts, weight.shape[1]
    before, after = _held(given, c, sizes(weight)["HALVES"]), _held(out, n)
    fits = (given.shape[1], *out.shape) == (before, len(given), after) and weight.shape[0] == n * parts
    if not (fits and weight.is_contiguous() and given.is_contiguous() and out.is_contiguous()):
        raise ValueError(
            f"weight {list(weight.shape)}, input {list(given.shape)} and output {list(out.shape)} "
            "must fit each other and be contiguous."
        )
    return n, c


def _held(vector: Tensor, size: int, halves: int = 1) -> int:
    """Columns that hold `size` numbers; in whole numbers each half of them has to be whole parts."""
    if vector.dtype != int_gemv.BETWEEN:
        return size
    if size % (halves * int(PART.value)):
        raise ValueError(
            f"{size} numbers are no whole parts of {PART.value}, of which {halves} lie side by side."
        )
    return int_gemv.columns_between(size)


def _for(
    weight: Weight, of_numbers: Any, of_codes: Any, hidden: Tensor | None = None
) -> tuple[Any, tuple[Tensor, ...], dict[str, Any]]:
    """The kernel for a weight, what it is given of it, and the sizes it has to know.

    `hidden`: what lies between two products, if that is the kernel's input or output.
    """
    in_bytes = hidden is not None and hidden.dtype == int_gemv.BETWEEN
    if isinstance(weight, QuantizedTensor) and weight.row_bytes % int_gemv.WORD == 0:
        more = {} if hidden is None else {"IN_BYTES": in_bytes, "HELD": hidden.shape[1]}
        return of_codes, (weight.qweight, weight.scales), sizes(weight) | more
    if in_bytes:
        raise ValueError("Whole numbers can lie between products of weights in codes only.")
    # No real network has codes that are no whole words.
    return of_numbers, (weight.float() if isinstance(weight, QuantizedTensor) else weight,), {}


def _columns(tiling: Tiling, weight: Weight) -> int:
    span = int(sizes(weight)["SPAN"])
    return max(tiling.columns, int(PART.value), int(triton.next_power_of_2(triton.cdiv(span, MAX_TILES))))


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
    ACTIVATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (C + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    weights = load_rows(weight, tl.minimum(row, N - 1), C, COLUMNS)
    scales = load_vector(norm_weight, C, COLUMNS)
    added = tl.zeros([ROWS], tl.float32)
    if BIAS:
        added += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        tiles = load_vector(x + b * C, C, COLUMNS)
        squares = tl.zeros([COLUMNS], tl.float32)
        products = tl.zeros([ROWS, COLUMNS], tl.float32)
        for i in tl.static_range(TILES):
            squares += tiles[i] * tiles[i]
            products += numbers(weights[i], 0) * (tiles[i] * scales[i].to(tl.float32))[None, :]
        # The norm's divisor comes last: its sum then need not be finished before the products begin.
        scale = tl.rsqrt(tl.sum(squares, 0) / C + eps)
        result = tl.sum(products, 1) * scale + added
        if ACTIVATED > 0:
            result = tl.where(row < ACTIVATED, silu(result), result)
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (C + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    gates = load_rows(gate_up, mine, C, COLUMNS)
    ups = load_rows(gate_up, mine + N, C, COLUMNS)
    scales = load_vector(norm_weight, C, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        tiles = load_vector(x + b * C, C, COLUMNS)
        squares = tl.zeros([COLUMNS], tl.float32)
        gate = tl.zeros([ROWS, COLUMNS], tl.float32)
        up = tl.zeros([ROWS, COLUMNS], tl.float32)
        for i in tl.static_range(TILES):
            squares += tiles[i] * tiles[i]
            scaled = (tiles[i] * scales[i].to(tl.float32))[None, :]
            gate += numbers(gates[i], 0) * scaled
            up += numbers(ups[i], 0) * scaled
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (C + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    weights = load_rows(weight, tl.minimum(row, N - 1), C, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        inputs = ()
        for i in tl.static_range(TILES):
            # In the shape of the weights, for a few rows the same values repeatedly: as vectors they would
            # be spread over the threads in another way, and pass through shared memory tile by tile.
            column = i * COLUMNS + tl.arange(0, COLUMNS)[None, :] + tl.zeros([ROWS, 1], tl.int32)
            one = tl.load(h + b * C + column, mask=column < C, other=0.0)
            inputs = inputs + (numbers(one, 0),)  # noqa: RUF005
        products = tl.zeros([ROWS, COLUMNS], tl.float32)
        for i in tl.static_range(TILES):
            products += numbers(weights[i], 0) * inputs[i]
        tl.store(x + b * N + row, before + tl.sum(products, 1), mask=row < N)


@triton.jit
def _heads_linear_add(
    o,
    squares,
    eps,
    weight,
    x,
    N: tl.constexpr,
    BATCH: tl.constexpr,
    HEADS: tl.constexpr,
    SHARES: tl.constexpr,
    SHARES_PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    # Tiles are [heads, channels] here, of one row of the weight: a head's divisor is then one of a row.
    TILES: tl.constexpr = (HEADS + GROUP - 1) // GROUP
    head = tl.arange(0, GROUP)[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    share = tl.arange(0, SHARES_PADDED)[None, :]
    first = tl.program_id(0) * ROWS
    weights = ()
    for r in tl.static_range(ROWS):
        row = tl.minimum(first + r, N - 1).to(tl.int64)
        for t in tl.static_range(TILES):
            inside = (t * GROUP + head < HEADS) & (channel < SIZE)
            place = weight + row * (HEADS * SIZE) + (t * GROUP + head) * SIZE + channel
            tile = tl.load(place, mask=inside, other=0, eviction_policy="evict_first")
            weights = weights + (tile,)  # noqa: RUF005
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        inputs = ()
        for t in tl.static_range(TILES):
            here = t * GROUP + head
            inside = (here < HEADS) & (channel < SIZE)
            values = tl.load(o + b * (HEADS * SIZE) + here * SIZE + channel, mask=inside, other=0.0)
            sums = squares + (b * HEADS + here) * SHARES + share
            total = tl.sum(tl.load(sums, mask=(here < HEADS) & (share < SHARES), other=0.0), 1)
            inputs = inputs + (values * tl.rsqrt(total / SIZE + eps)[:, None],)  # noqa: RUF005
        for r in tl.static_range(ROWS):
            place = x + b * N + first + r
            before = tl.load(place, mask=first + r < N, other=0.0)
            products = tl.zeros([GROUP, PADDED], tl.float32)
            for t in tl.static_range(TILES):
                products += numbers(weights[r * TILES + t], 0) * inputs[t]
            tl.store(place, before + tl.sum(tl.sum(products, 1), 0), mask=first + r < N)


@triton.jit
def _embed(
    token,
    embedding,
    factors,
    position,
    inv_freq,
    x,
    cos,
    sin,
    C: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    b = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pair = tl.arange(0, HALF_BLOCK)
    frequency = tl.load(inv_freq + pair, mask=pair < HALF, other=0.0)
    blocks = tl.num_programs(0)
    wait(b * blocks + tl.program_id(0), tl.num_programs(1) * blocks, ahead, ahead_bytes, PDL)
    row = tl.load(token + b).to(tl.int64)
    codes = tl.load(embedding + row * SPAN + column, mask=column < SPAN, other=0)
    for half in tl.static_range(HALVES):
        values = numbers(codes, half)
        inside = (column < SPAN) & (half * SPAN + column < C)
        if SHARED > 0:
            groups = (SPAN + SHARED - 1) // SHARED
            group = (row * HALVES + half) * groups + column // SHARED
            values *= tl.load(factors + group, mask=inside, other=0.0).to(tl.float32)
        elif factors is not None:
            values *= tl.load(factors + row)
        tl.store(x + b * C + half * SPAN + column, values, mask=inside)
    if tl.program_id(0) == 0:
        angle = tl.load(position + b).to(tl.float32) * frequency
        for half in tl.static_range(2):
            place = b * 2 * HALF + half * HALF + pair
            tl.store(cos + place, tl.cos(angle), mask=pair < HALF)
            tl.store(sin + place, tl.sin(angle), mask=pair < HALF)
