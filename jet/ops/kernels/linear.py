# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Matrix-vector products that take in the norm before and the activation or residual after them; embedding.

One program owns a few whole rows of the weight. It holds them in registers, as a tuple of tiles along the
columns, and reads them before it waits for the kernel that writes its input: under programmatic dependent
launch that hides most of the memory time of one kernel behind the end of another. Everything is summed in
float32 and in a fixed order. Rows of a batch take turns on the same loaded weights.

The functions and their torch twins in `jet.ops.fused` take the same arguments, and here also `pdl` (the
launch is programmatic dependent, on both sides), `tiling`, and `ahead`: what the next kernel will read of its
weight. Its beginning is fetched into the L2 cache before this kernel waits for its input, so that the memory
does not stand still while one kernel ends and the next begins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.kernels.weights import (
    PART,
    add_products,
    by_row,
    held,
    load_factors,
    load_halves,
    load_rows,
    no_products,
    numbers,
    sizes,
)
from jet.ops.quantized import INT4, INT8, Quantized, Weight

Kind = Literal["norm_linear", "norm_swiglu", "linear_add", "heads_linear_add", "jet_step"]

VECTOR = 16  # bytes a thread loads at once
# Of 4 bytes, that a thread may spend on weights. With few, more programs fit beside each other; with many, a
# program has fewer threads to add up.
REGISTERS = {"heads_linear_add": 48, "linear_add": 88, "jet_step": 64, "norm_linear": 96, "norm_swiglu": 96}
MAX_TILES = 32  # longer tuples only make longer code
LEAST_COLUMNS = 64  # of a tile of codes
MANY_ROWS = 2**31
MOST_AHEAD = 2**20  # bytes of the next weight: with more, the memory has no more to do but the cache has


@dataclass(frozen=True)
class Tiling:
    """How a product is cut: weight rows a program, columns a tile (both powers of two), warps a program.

    For `norm_swiglu`, `rows` counts gate rows, with as many up rows. For `heads_linear_add`, `columns`
    is a bound for the heads in a tile. For `jet_step`, `rows` counts value channels, with `width` rows each.
    """

    rows: int
    columns: int
    warps: int


# Of codes: rows up to which it holds, and the tiling with which a step was fastest on one H100
# (scripts/tune_step.py). The fewer bytes a weight has, the more its inputs count, which rows share.
OF_CODES: dict[tuple[str, Kind], list[tuple[int, Tiling]]] = {
    (INT8, "norm_linear"): [
        (4096, Tiling(2, 256, 1)),
        (65536, Tiling(8, 512, 4)),
        (MANY_ROWS, Tiling(8, 256, 2)),
    ],
    (INT8, "norm_swiglu"): [(MANY_ROWS, Tiling(16, 512, 8))],
    (INT8, "linear_add"): [(MANY_ROWS, Tiling(2, 512, 4))],
    (INT8, "heads_linear_add"): [(MANY_ROWS, Tiling(2, 1024, 8))],
    (INT4, "norm_linear"): [(4096, Tiling(4, 128, 1)), (MANY_ROWS, Tiling(16, 256, 4))],
    (INT4, "norm_swiglu"): [(MANY_ROWS, Tiling(4, 256, 1))],
    (INT4, "linear_add"): [(MANY_ROWS, Tiling(4, 512, 8))],
    (INT4, "heads_linear_add"): [(MANY_ROWS, Tiling(4, 512, 4))],
}


def default_tiling(kind: Kind, n: int, c: int, itemsize: int) -> Tiling:
    """A tiling for a weight of `n` rows of `c` values; for `jet_step`, `n` is the number of value channels.

    Few rows a program where the weight is small, so that every multiprocessor has several programs; then
    enough warps to hold them, and tiles that a program loads with a few instructions a row and thread. Where
    the input is a few values a column, narrower tiles let a thread have those of several side by side.
    """
    # Rows that a program holds, and tiles that make up what all its threads load at once.
    if kind == "jet_step":
        held, parts = 32, 2  # 8 channels of about 4
    elif kind == "heads_linear_add":
        held, parts = 2, 2
    elif n < 8192:
        held, parts = 2, 1
    elif kind == "linear_add":
        held, parts = 8, 1
    elif n < 65536:
        held, parts = 16, 4
    else:
        held, parts = 8, 2
    rows = {"jet_step": 8, "norm_swiglu": held // 2}.get(kind, held)
    warps = 1
    while warps < 8 and held * c * itemsize > 4 * REGISTERS[kind] * 32 * warps:
        warps *= 2
    # In a jet step, threads are spread over the rows first: then every sum stays within a warp.
    lanes = max(4, 32 * warps // rows) if kind == "jet_step" else 32 * warps
    columns = min(VECTOR // itemsize * lanes // parts, triton.next_power_of_2(c))
    return Tiling(rows, columns, warps)


def tiling_of(kind: Kind, n: int, weight: Weight) -> Tiling:
    """A tiling for a weight; `n` as for `default_tiling`.

    Codes that nothing was measured for take as many threads as half precision would, since it is inputs that
    fill their registers. Their tiles are made narrower where much of the last one would lie behind the end.
    """
    if not isinstance(weight, Quantized):
        return default_tiling(kind, n, weight.shape[1], weight.element_size())
    for most, tiling in OF_CODES.get((weight.scheme, kind), []):
        if n <= most:
            return replace(tiling, columns=min(tiling.columns, triton.next_power_of_2(weight.span)))
    tiling = default_tiling(kind, n, weight.shape[1], 2)
    columns = min(tiling.columns, triton.next_power_of_2(weight.span))
    while columns > LEAST_COLUMNS and -weight.span % columns > weight.span // 8:
        columns //= 2
    return replace(tiling, columns=columns)


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
    _norm_linear[(triton.cdiv(n, tiling.rows),)](
        x,
        norm_weight,
        eps,
        *held(weight),
        norm_weight if bias is None else bias,
        out,
        N=n,
        C=c,
        BATCH=x.shape[0],
        BIAS=bias is not None,
        ACTIVATED=activated,
        **_cut(tiling, weight),
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
    """Twin of `norm_swiglu_reference`; fastest where the norm's weight has the type of the other weight."""
    n, c = _check(gate_up, x, out, parts=2)
    tiling = tiling or tiling_of("norm_swiglu", n, gate_up)
    _norm_swiglu[(triton.cdiv(n, tiling.rows),)](
        x,
        norm_weight,
        eps,
        *held(gate_up),
        out,
        N=n,
        C=c,
        BATCH=x.shape[0],
        **_cut(tiling, gate_up),
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
    """Twin of `linear_add_reference`."""
    n, c = _check(weight, h, x)
    tiling = tiling or tiling_of("linear_add", n, weight)
    _linear_add[(triton.cdiv(n, tiling.rows),)](
        h,
        *held(weight),
        x,
        N=n,
        C=c,
        BATCH=x.shape[0],
        **_cut(tiling, weight),
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
    size, cut = c // heads, sizes(weight)
    if cut["SHARED"] and (heads % cut["HALVES"] or size % cut["SHARED"]):
        # Halves or groups that end within a head, which no real network has: the norm is taken first.
        o.unflatten(1, (heads, size)).mul_(torch.rsqrt(squares.sum(2, keepdim=True) / size + eps))
        linear_add(o, weight, x, pdl, tiling, ahead)
        return
    tiling = tiling or tiling_of("heads_linear_add", n, weight)
    padded = triton.next_power_of_2(size)
    _heads_linear_add[(triton.cdiv(n, tiling.rows),)](
        o,
        squares,
        eps,
        *held(weight),
        x,
        N=n,
        BATCH=batch,
        HEADS=heads,
        SHARES=shares,
        SHARES_PADDED=triton.next_power_of_2(shares),
        SIZE=size,
        PADDED=padded,
        ROWS=tiling.rows,
        GROUP=min(max(1, tiling.columns // padded), triton.next_power_of_2(heads // cut["HALVES"])),
        HALVES=cut["HALVES"],
        SHARED=cut["SHARED"],
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


def chain_options(warps: int, pdl: bool, ahead: Tensor | None = None) -> dict[str, Any]:
    """Keyword arguments of a launch whose kernel uses `launch_next` and `wait`.

    Nothing is fetched without `pdl`. `launch_pdl` is there only where it is used: older cards refuse it.
    """
    size = 0 if ahead is None or not pdl else min(ahead.nbytes, MOST_AHEAD) // VECTOR * VECTOR
    options = {"ahead": ahead if size else None, "ahead_bytes": size, "PDL": pdl, "num_warps": warps}
    return options | ({"launch_pdl": True} if pdl else {})


def _check(weight: Weight, given: Tensor, out: Tensor, parts: int = 1) -> tuple[int, int]:
    """Output and input size of a product whose tensors fit each other; ValueError otherwise."""
    n, c = weight.shape[0] // parts, weight.shape[1]
    fits = given.shape[1] == c and out.shape == (given.shape[0], n) and weight.shape[0] == n * parts
    if not (fits and weight.is_contiguous() and given.is_contiguous() and out.is_contiguous()):
        raise ValueError(
            f"weight {list(weight.shape)}, input {list(given.shape)} and output {list(out.shape)} "
            "must fit each other and be contiguous."
        )
    return n, c


def _cut(tiling: Tiling, weight: Weight) -> dict[str, Any]:
    cut = sizes(weight)
    least = max(cut["SHARED"], triton.next_power_of_2(triton.cdiv(cut["SPAN"], MAX_TILES)))
    return {"ROWS": tiling.rows, "COLUMNS": max(tiling.columns, least), **cut}


@triton.jit
def launch_next(PDL: tl.constexpr):
    """Let the next kernel's programs start wherever there is room beside these."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def wait(program, programs, ahead, ahead_bytes, PDL: tl.constexpr):
    """Wait for the kernels before; first fetch this program's share of `ahead` into the cache (sm_90 on)."""
    if ahead is not None:
        THREADS: tl.constexpr = tl.extra.cuda.num_threads()
        share = tl.cdiv(ahead_bytes, programs * 128) * 128
        each = tl.cdiv(share, THREADS * 128) * 128  # a thread's part, in whole cache lines
        begin = tl.arange(0, THREADS) * each
        size = tl.minimum(tl.minimum(share - begin, each), ahead_bytes - program * share - begin)
        tl.inline_asm_elementwise(
            """
            {
                .reg .pred some;
                setp.gt.s32 some, $2, 0;
                @some cp.async.bulk.prefetch.L2.global [$1], $2;
                mov.u32 $0, 0;
            }
            """,
            "=r,l,r",
            [ahead.to(tl.int64) + program * share + begin, size],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def silu(x):
    """`x * sigmoid(x)`."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _norm_linear(
    x,
    norm_weight,
    eps,
    weight,
    factors,
    bias,
    out,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BIAS: tl.constexpr,
    ACTIVATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (SPAN + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    weights = load_rows(weight, mine, SPAN, SPAN, COLUMNS)
    shares = load_factors(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    scales = load_halves(norm_weight, C, SPAN, HALVES, COLUMNS)
    added = tl.zeros([ROWS], tl.float32)
    if BIAS:
        added += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        tiles = load_halves(x + b * C, C, SPAN, HALVES, COLUMNS)
        squares = tl.zeros([COLUMNS], tl.float32)
        products = no_products(ROWS, COLUMNS, SHARED)
        for i in tl.static_range(HALVES * TILES):
            squares += tiles[i] * tiles[i]
            scaled = (tiles[i] * scales[i].to(tl.float32))[None, :]
            products = add_products(products, weights[i % TILES], scaled, shares, i, i // TILES, SHARED)
        # The norm's divisor comes last: its sum then need not be finished before the products begin.
        scale = tl.rsqrt(tl.sum(squares, 0) / C + eps)
        result = by_row(tl.sum(products, 1), weights[0], shares[0]) * scale + added
        if ACTIVATED > 0:
            result = tl.where(row < ACTIVATED, silu(result), result)
        tl.store(out + b * N + row, result, mask=row < N)


@triton.jit
def _norm_swiglu(
    x,
    norm_weight,
    eps,
    gate_up,
    factors,
    out,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (SPAN + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    gates = load_rows(gate_up, mine, SPAN, SPAN, COLUMNS)
    ups = load_rows(gate_up, mine + N, SPAN, SPAN, COLUMNS)
    gate_shares = load_factors(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    up_shares = load_factors(factors, mine + N, SPAN, HALVES, SHARED, COLUMNS)
    scales = load_halves(norm_weight, C, SPAN, HALVES, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        tiles = load_halves(x + b * C, C, SPAN, HALVES, COLUMNS)
        squares = tl.zeros([COLUMNS], tl.float32)
        gate = no_products(ROWS, COLUMNS, SHARED)
        up = no_products(ROWS, COLUMNS, SHARED)
        for i in tl.static_range(HALVES * TILES):
            squares += tiles[i] * tiles[i]
            scaled = (tiles[i] * scales[i].to(tl.float32))[None, :]
            gate = add_products(gate, gates[i % TILES], scaled, gate_shares, i, i // TILES, SHARED)
            up = add_products(up, ups[i % TILES], scaled, up_shares, i, i // TILES, SHARED)
        scale = tl.rsqrt(tl.sum(squares, 0) / C + eps)
        gated, upped = tl.reduce((gate, up), 1, add_pairs)
        gated = by_row(gated, gates[0], gate_shares[0]) * scale
        upped = by_row(upped, ups[0], up_shares[0]) * scale
        result = silu(gated) * upped
        tl.store(out + b * N + row, result.to(out.dtype.element_ty), mask=row < N)


@triton.jit
def add_pairs(a, b, c, d):
    """For `tl.reduce`: two sums in one pass."""
    return a + c, b + d


@triton.jit
def _linear_add(
    h,
    weight,
    factors,
    x,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    TILES: tl.constexpr = (SPAN + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    weights = load_rows(weight, mine, SPAN, SPAN, COLUMNS)
    shares = load_factors(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        inputs = ()
        for i in tl.static_range(HALVES * TILES):
            # In the shape of the weights, for a few rows the same values repeatedly: as vectors they would
            # be spread over the threads in another way, and pass through shared memory tile by tile.
            place = (i % TILES) * COLUMNS + tl.arange(0, COLUMNS)[None, :] + tl.zeros([ROWS, 1], tl.int32)
            column = (i // TILES) * SPAN + place
            one = tl.load(h + b * C + column, mask=(place < SPAN) & (column < C), other=0.0)
            inputs = inputs + (numbers(one, 0),)  # noqa: RUF005
        products = no_products(ROWS, COLUMNS, SHARED)
        for i in tl.static_range(HALVES * TILES):
            products = add_products(products, weights[i % TILES], inputs[i], shares, i, i // TILES, SHARED)
        result = by_row(tl.sum(products, 1), weights[0], shares[0])
        tl.store(x + b * N + row, before + result, mask=row < N)


@triton.jit
def _heads_linear_add(
    o,
    squares,
    eps,
    weight,
    factors,
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
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    launch_next(PDL)
    # Tiles are [heads, channels] here, of one row of the weight: a head's divisor is then one of a row.
    MINE: tl.constexpr = HEADS // HALVES  # heads of a half
    TILES: tl.constexpr = (MINE + GROUP - 1) // GROUP
    head = tl.arange(0, GROUP)[:, None]
    channel = tl.arange(0, PADDED)[None, :]
    share = tl.arange(0, SHARES_PADDED)[None, :]
    first = tl.program_id(0) * ROWS
    weights = ()
    shares = ()
    for r in tl.static_range(ROWS):
        row = tl.minimum(first + r, N - 1).to(tl.int64)
        for t in tl.static_range(TILES):
            inside = (t * GROUP + head < MINE) & (channel < SIZE)
            place = weight + row * (MINE * SIZE) + (t * GROUP + head) * SIZE + channel
            tile = tl.load(place, mask=inside, other=0, eviction_policy="evict_first")
            weights = weights + (tile,)  # noqa: RUF005
        shares = shares + _load_head_factors(factors, row, MINE, SIZE, PADDED, GROUP, HALVES, SHARED)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        inputs = ()
        for i in tl.static_range(HALVES * TILES):
            other = (i % TILES) * GROUP + head
            here = (i // TILES) * MINE + other
            inside = (other < MINE) & (channel < SIZE)
            values = tl.load(o + b * (HEADS * SIZE) + here * SIZE + channel, mask=inside, other=0.0)
            sums = squares + (b * HEADS + here) * SHARES + share
            total = tl.sum(tl.load(sums, mask=(other < MINE) & (share < SHARES), other=0.0), 1)
            inputs = inputs + (values * tl.rsqrt(total / SIZE + eps)[:, None],)  # noqa: RUF005
        for r in tl.static_range(ROWS):
            place = x + b * N + first + r
            before = tl.load(place, mask=first + r < N, other=0.0)
            products = no_products(GROUP, PADDED, SHARED)
            for i in tl.static_range(HALVES * TILES):
                tile = weights[r * TILES + i % TILES]
                products = add_products(
                    products, tile, inputs[i], shares, r * HALVES * TILES + i, i // TILES, SHARED
                )
            result = tl.sum(tl.sum(products, 1), 0)
            if factors is not None and SHARED == 0:
                result *= shares[r]
            tl.store(place, before + result, mask=first + r < N)


@triton.jit
def _load_head_factors(
    factors,
    row,
    MINE: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUP: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Of one row as `load_factors`: of int8 its own, of int4 `[GROUP, PADDED / PART]` a tile and half."""
    found = ()
    if SHARED > 0:
        OF_HEAD: tl.constexpr = SIZE // SHARED
        head = tl.arange(0, GROUP)[:, None]
        group = (tl.arange(0, PADDED // PART) * PART // SHARED)[None, :]
        for i in tl.static_range(HALVES * ((MINE + GROUP - 1) // GROUP)):
            other = (i % ((MINE + GROUP - 1) // GROUP)) * GROUP + head
            here = (i // ((MINE + GROUP - 1) // GROUP)) * MINE + other
            place = factors + row * (HALVES * MINE * OF_HEAD) + here * OF_HEAD + group
            factor = tl.load(place, mask=(other < MINE) & (group < OF_HEAD), other=0.0)
            found = found + (factor.to(tl.float32),)  # noqa: RUF005
    elif factors is not None:
        found = found + (tl.load(factors + row),)  # noqa: RUF005
    else:
        found = found + (row,)  # noqa: RUF005
    return found


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
