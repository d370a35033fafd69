# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Matrix-vector products of quantized weights in integer arithmetic: `dp4a`, four products per instruction.

Dequantizing would take several instructions for each weight, which all wait for the input. Instead, each
program quantizes the input once to 16 bits, in two bytes; `dp4a` multiplies four of these bytes by four codes
at once. The inputs of a part (`SEGMENT` columns of a tile) share a scale, set by the largest of them. The
rounding error is at most half of 1/32,767 of the largest value; bfloat16's is up to 1/256 of each value.

A tile has rows of `BLOCK_K` bytes, loaded as words of four bytes. They hold int8 codes, or int4 codes of two
halves of the row, with `BLOCK_K` input columns each. Sizes are those of `jet.ops.triton.weight_tiles`.

The hidden values of an MLP may be stored as packed integers, too (`PACKED_INT16`): the first product writes
them once, so the programs of the second need not quantize them. N values take N / 4 words of 64 bits, in
parts of 16 neighbors. The float32 scale of each part follows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from jet.ops.triton.common import add_pairs, launch_dependents, prefetch_and_wait, silu
from jet.ops.triton.weight_tiles import INTERPRETED, SEGMENT, load_rows

WORD = 4  # bytes
PACKED_INT16 = torch.int64
_WORDS_PER_SEGMENT = tl.constexpr(SEGMENT.value // WORD)  # of a part

# Of four numbers of 16 bits, each in the lower half of a register, the lower bytes and then the higher ones.
_BYTES = tl.constexpr("""
    {
        .reg .b32 first, second, low, high;
        prmt.b32 first, $1, $2, 0x5410;
        prmt.b32 second, $3, $4, 0x5410;
        prmt.b32 low, first, second, 0x6420;
        prmt.b32 high, first, second, 0x7531;
        mov.b64 $0, {low, high};
    }
""")
# Four signed codes times the higher bytes of four inputs, signed, and times the lower ones, added to sums.
_MULTIPLY = tl.constexpr("""
    {
        .reg .b32 low, high;
        mov.b64 {low, high}, $3;
        dp4a.s32.s32 $0, $2, high, $4;
        dp4a.s32.u32 $1, $2, low, $5;
    }
""")
# Codes in the higher four bits of bytes, without the 8 that was added to them.
_SIGN_EXTEND = tl.constexpr("""
    {
        .reg .b32 sign, mask;
        mov.b32 sign, 0x80808080;
        mov.b32 mask, 0xF0F0F0F0;
        lop3.b32 $0, $1, sign, mask, 0x28;
    }
""")
# As assembly, so that the compiler loads it where it is needed and not in an order of its own, from which it
# would have to pass through shared memory. So with what lies between two products.
_LOAD_INPUTS = tl.constexpr("ld.global.b64 $0, [$1];")
_LOAD_INPUT_SCALE = tl.constexpr("ld.global.f32 $0, [$1];")
_LOAD_SCALE = tl.constexpr("""
    {
        .reg .b16 scale;
        ld.global.nc.b16 scale, [$1];
        cvt.f32.f16 $0, scale;
    }
""")


def packed_columns(size: int) -> int:
    """Return the number of `PACKED_INT16` columns for `size` values, a multiple of `SEGMENT`."""
    parts: int = size // SEGMENT.value
    return size // 4 + (parts + 1) // 2


@triton.jit
def norm_linear(
    x,
    norm_weight,
    eps,
    weight,
    scales,
    bias,
    out,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BIAS: tl.constexpr,
    NUM_ACTIVATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    """Kernel of `jet.ops.triton.gemv.norm_linear`."""
    launch_dependents(PDL)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_row = tl.minimum(row, N - 1)
    tiles = _load_words(weight, weight_row, ROW_SIZE, BLOCK_K)
    row_scales = _load_scales(scales, weight_row, ROW_SIZE, HALVES, GROUP_SIZE, BLOCK_K)
    norms = _load_segments(norm_weight, C, ROW_SIZE, HALVES, BLOCK_K)
    added = tl.zeros([BLOCK_N], tl.float32)
    if BIAS:
        added += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        values, divisor = _normed(_load_segments(x + b * C, C, ROW_SIZE, HALVES, BLOCK_K), norms, C, eps)
        inputs, input_scales = _quantize_inputs(values)
        result = _product(tiles, row_scales, inputs, input_scales, HALVES) * divisor + added
        if NUM_ACTIVATED > 0:
            result = tl.where(row < NUM_ACTIVATED, silu(result), result)
        tl.store(out + b * N + row, result, mask=row < N)


@triton.jit
def norm_swiglu(
    x,
    norm_weight,
    eps,
    gate_up,
    scales,
    out,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PACKED: tl.constexpr,
    HIDDEN_COLUMNS: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    """Kernel of `jet.ops.triton.gemv.norm_swiglu`."""
    launch_dependents(PDL)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_row = tl.minimum(row, N - 1)
    gates = _load_words(gate_up, weight_row, ROW_SIZE, BLOCK_K)
    ups = _load_words(gate_up, weight_row + N, ROW_SIZE, BLOCK_K)
    gate_scales = _load_scales(scales, weight_row, ROW_SIZE, HALVES, GROUP_SIZE, BLOCK_K)
    up_scales = _load_scales(scales, weight_row + N, ROW_SIZE, HALVES, GROUP_SIZE, BLOCK_K)
    norms = _load_segments(norm_weight, C, ROW_SIZE, HALVES, BLOCK_K)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        values, divisor = _normed(_load_segments(x + b * C, C, ROW_SIZE, HALVES, BLOCK_K), norms, C, eps)
        inputs, input_scales = _quantize_inputs(values)
        gate = _multiply(gates, gate_scales, inputs, input_scales, HALVES)
        up = _multiply(ups, up_scales, inputs, input_scales, HALVES)
        gated, upped = tl.reduce((gate, up), 1, add_pairs)
        gated = _scale_rows(gated, gate_scales, HALVES) * divisor
        upped = _scale_rows(upped, up_scales, HALVES) * divisor
        result = silu(gated) * upped
        if PACKED:
            _store_packed(out + b * HIDDEN_COLUMNS, result, N)
        else:
            tl.store(out + b * N + row, result.to(out.dtype.element_ty), mask=row < N)


@triton.jit
def linear_add(
    h,
    weight,
    scales,
    x,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PACKED: tl.constexpr,
    HIDDEN_COLUMNS: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    """Kernel of `jet.ops.triton.gemv.linear_add`."""
    launch_dependents(PDL)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_row = tl.minimum(row, N - 1)
    tiles = _load_words(weight, weight_row, ROW_SIZE, BLOCK_K)
    row_scales = _load_scales(scales, weight_row, ROW_SIZE, HALVES, GROUP_SIZE, BLOCK_K)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        if PACKED:
            inputs, input_scales = _load_packed(h + b * HIDDEN_COLUMNS, C, ROW_SIZE, HALVES, BLOCK_K)
        else:
            inputs, input_scales = _quantize_inputs(_load_segments(h + b * C, C, ROW_SIZE, HALVES, BLOCK_K))
        result = _product(tiles, row_scales, inputs, input_scales, HALVES)
        tl.store(x + b * N + row, before + result, mask=row < N)


@triton.jit
def heads_linear_add(
    o,
    partial_squares,
    eps,
    weight,
    scales,
    x,
    N: tl.constexpr,
    BATCH: tl.constexpr,
    HEADS: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    NUM_PARTIALS: tl.constexpr,
    NUM_PARTIALS_PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ROW_SIZE: tl.constexpr,
    HALVES: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    prefetch,
    prefetch_bytes,
    PDL: tl.constexpr,
):
    """Kernel of `jet.ops.triton.gemv.heads_linear_add`."""
    launch_dependents(PDL)
    C: tl.constexpr = HEADS * SIZE
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_row = tl.minimum(row, N - 1)
    head = tl.arange(0, HEADS_PADDED)
    partial = tl.arange(0, NUM_PARTIALS_PADDED)
    there = (head < HEADS)[:, None] & (partial < NUM_PARTIALS)[None, :]
    tiles = _load_words(weight, weight_row, ROW_SIZE, BLOCK_K)
    row_scales = _load_scales(scales, weight_row, ROW_SIZE, HALVES, GROUP_SIZE, BLOCK_K)
    prefetch_and_wait(tl.program_id(0), tl.num_programs(0), prefetch, prefetch_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        place = partial_squares + (b * HEADS + head)[:, None] * NUM_PARTIALS + partial[None, :]
        divisors = tl.rsqrt(tl.sum(tl.load(place, mask=there, other=0.0), 1) / SIZE + eps)
        values = _divide_heads(
            _load_segments(o + b * C, C, ROW_SIZE, HALVES, BLOCK_K), divisors, SIZE, ROW_SIZE, HALVES
        )
        inputs, input_scales = _quantize_inputs(values)
        result = _product(tiles, row_scales, inputs, input_scales, HALVES)
        tl.store(x + b * N + row, before + result, mask=row < N)


@triton.jit
def _load_words(qweight, row, ROW_SIZE: tl.constexpr, BLOCK_K: tl.constexpr):
    """Load rows `[R]` as a tuple of tiles `[R, BLOCK_K / WORD]`, padded with zeros."""
    return load_rows(qweight.to(tl.pointer_type(tl.int32)), row, ROW_SIZE // 4, BLOCK_K // 4)


@triton.jit
def _load_scales(
    scales, row, ROW_SIZE: tl.constexpr, HALVES: tl.constexpr, GROUP_SIZE: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Load the scales of rows `[R]` as a tuple.

    int8: one tensor `[R]`. int4: a tensor `[R, BLOCK_K / SEGMENT]` for each tile of each half of the row.
    """
    loaded = ()
    if HALVES == 2:
        GROUPS: tl.constexpr = (ROW_SIZE + GROUP_SIZE - 1) // GROUP_SIZE
        start = row.to(tl.int64)[:, None] * (2 * GROUPS)
        for half in tl.static_range(2):
            for t in tl.static_range((ROW_SIZE + BLOCK_K - 1) // BLOCK_K):
                group = ((t * BLOCK_K + tl.arange(0, BLOCK_K // SEGMENT) * SEGMENT) // GROUP_SIZE)[None, :]
                place = scales + start + half * GROUPS + tl.minimum(group, GROUPS - 1)
                loaded = loaded + (_load_scale(place) * 0.0625,)  # noqa: RUF005 (codes come 16 times as large)
    else:
        loaded = loaded + (tl.load(scales + row),)  # noqa: RUF005
    return loaded


@triton.jit
def _load_scale(place):
    if INTERPRETED:
        return tl.load(place).to(tl.float32)
    else:  # noqa: RET505
        return tl.inline_asm_elementwise(
            _LOAD_SCALE, "=f,l", [place.to(tl.int64)], dtype=tl.float32, is_pure=False, pack=1
        )


@triton.jit
def _load_segments(x, C: tl.constexpr, ROW_SIZE: tl.constexpr, HALVES: tl.constexpr, BLOCK_K: tl.constexpr):
    """Load a vector `[C]` in float32 as tiles `[BLOCK_K / SEGMENT, SEGMENT]`, one half after the other."""
    tiles = ()
    part = tl.arange(0, BLOCK_K // SEGMENT)[:, None] * SEGMENT
    for half in tl.static_range(HALVES):
        for t in tl.static_range((ROW_SIZE + BLOCK_K - 1) // BLOCK_K):
            place = t * BLOCK_K + part + tl.arange(0, SEGMENT)[None, :]
            inside = (place < ROW_SIZE) & (half * ROW_SIZE + place < C)
            tile = tl.load(x + half * ROW_SIZE + place, mask=inside, other=0.0)
            tiles = tiles + (tile.to(tl.float32),)  # noqa: RUF005
    return tiles


@triton.jit
def _load_packed(h, C: tl.constexpr, ROW_SIZE: tl.constexpr, HALVES: tl.constexpr, BLOCK_K: tl.constexpr):
    """Load a vector `[C]` that `_store_packed` wrote: packed inputs, and their scales for every tile."""
    inputs = ()
    input_scales = ()
    scales = (h + C // 4).to(tl.pointer_type(tl.float32))
    for half in tl.static_range(HALVES):
        for t in tl.static_range((ROW_SIZE + BLOCK_K - 1) // BLOCK_K):
            word = t * (BLOCK_K // 4) + tl.arange(0, BLOCK_K // 4)
            part = t * (BLOCK_K // SEGMENT) + tl.arange(0, BLOCK_K // SEGMENT)
            words = h + half * (ROW_SIZE // 4) + tl.minimum(word, ROW_SIZE // 4 - 1)
            places = scales + half * (ROW_SIZE // SEGMENT) + tl.minimum(part, ROW_SIZE // SEGMENT - 1)
            if INTERPRETED:
                four, input_scale = tl.load(words), tl.load(places)
            else:
                four = tl.inline_asm_elementwise(
                    _LOAD_INPUTS, "=l,l", [words.to(tl.int64)], dtype=tl.int64, is_pure=False, pack=1
                )
                input_scale = tl.inline_asm_elementwise(
                    _LOAD_INPUT_SCALE, "=f,l", [places.to(tl.int64)], dtype=tl.float32, is_pure=False, pack=1
                )
            inputs = inputs + (four,)  # noqa: RUF005
            input_scales = input_scales + (tl.where(part < ROW_SIZE // SEGMENT, input_scale, 0.0),)  # noqa: RUF005
    return inputs, input_scales


@triton.jit
def _store_packed(out, result, N: tl.constexpr):
    """Store a program's R of N results as packed int16; R and N are multiples of `SEGMENT`."""
    BLOCK_N: tl.constexpr = result.shape[0]
    inputs, input_scales = _quantize_inputs((tl.reshape(result, [BLOCK_N // SEGMENT, SEGMENT]),))
    word = tl.program_id(0) * (BLOCK_N // 4) + tl.arange(0, BLOCK_N // 4)
    part = tl.program_id(0) * (BLOCK_N // SEGMENT) + tl.arange(0, BLOCK_N // SEGMENT)
    tl.store(out + word, inputs[0], mask=word < N // 4)
    tl.store((out + N // 4).to(tl.pointer_type(tl.float32)) + part, input_scales[0], mask=part < N // SEGMENT)


@triton.jit
def _normed(tiles, norms, C: tl.constexpr, eps):
    """Multiply the tiles of a vector by the tiles of the norm's weights.

    Returns the products, and the reciprocal root mean square of the vector.
    """
    squares = tl.zeros(tiles[0].shape, tl.float32)
    values = ()
    for i in tl.static_range(len(tiles)):
        squares += tiles[i] * tiles[i]
        values = values + (tiles[i] * norms[i],)  # noqa: RUF005
    return values, tl.rsqrt(tl.sum(squares) / C + eps)


@triton.jit
def _divide_heads(tiles, divisors, SIZE: tl.constexpr, ROW_SIZE: tl.constexpr, HALVES: tl.constexpr):
    """Multiply each segment of a vector by its head's value in `divisors` `[H]`.

    A head has `SIZE` channels.
    """
    TILES: tl.constexpr = len(tiles) // HALVES
    PARTS: tl.constexpr = tiles[0].shape[0]
    values = ()
    for i in tl.static_range(len(tiles)):
        part = (i // TILES) * (ROW_SIZE // SEGMENT) + (i % TILES) * PARTS + tl.arange(0, PARTS)
        weight_row = (part // (SIZE // SEGMENT))[:, None] == tl.arange(0, divisors.shape[0])[None, :]
        divisor = tl.sum(tl.where(weight_row, divisors[None, :], 0.0), 1)
        values = values + (tiles[i] * divisor[:, None],)  # noqa: RUF005
    return values


@triton.jit
def _quantize_inputs(tiles):
    """Quantize tiles `[P, SEGMENT]` to 16-bit integers; the same part of all tiles shares one scale.

    Returns a tuple of one tensor per tile, and the scales as a tuple of one tensor `[P]`. Four integers are
    packed into 64 bits, `[P * SEGMENT / WORD]`: the low bytes, and above them the high bytes. If a part
    contains infinities or NaN, its scale is infinite or NaN.
    """
    peak = tl.abs(tiles[0])
    for i in tl.static_range(1, len(tiles)):
        peak = _larger(peak, tl.abs(tiles[i]))
    peak = _larger(tl.reduce(peak, 1, _larger), 1e-30)
    factor = (32767.0 / peak)[:, None]
    inputs = ()
    for i in tl.static_range(len(tiles)):
        inputs = inputs + (_pack_int16(tiles[i] * factor),)  # noqa: RUF005
    return inputs, (peak * (1 / 32767),)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _pack_int16(values):
    """Round values `[P, SEGMENT]` to the nearest 16-bit integers, and pack four into 64 bits."""
    # Added to this number, they stand in its lower bits, in two's complement.
    whole = (values + 12582912.0).to(tl.int32, bitcast=True)
    even, odd = tl.split(tl.reshape(whole, [whole.shape[0], whole.shape[1] // 4, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    if INTERPRETED:
        low = (first & 255) | ((second & 255) << 8) | ((third & 255) << 16) | (fourth << 24)
        first, second, third = first >> 8, second >> 8, third >> 8
        high = (first & 255) | ((second & 255) << 8) | ((third & 255) << 16) | ((fourth >> 8) << 24)
        four = (high.to(tl.int64) << 32) | low.to(tl.uint32, bitcast=True).to(tl.int64)
    else:
        given = [first, second, third, fourth]
        four = tl.inline_asm_elementwise(_BYTES, "=l,r,r,r,r", given, dtype=tl.int64, is_pure=True, pack=1)
    return tl.reshape(four, [whole.shape[0] * whole.shape[1] // 4])


@triton.jit
def _multiply(tiles, scales, inputs, input_scales, HALVES: tl.constexpr):
    """Multiply rows, as tiles of words, by inputs; return products `[R, P]` to be summed over the parts P.

    `input_scales`: one for all tiles, or one for each.
    """
    TILES: tl.constexpr = len(tiles)
    PER_TILE_SCALES: tl.constexpr = len(input_scales) > 1
    zeros = tl.zeros(tiles[0].shape, tl.int32)
    products = tl.zeros([tiles[0].shape[0], tiles[0].shape[1] // _WORDS_PER_SEGMENT], tl.float32)
    high = zeros
    low = zeros
    for i in tl.static_range(HALVES * TILES):
        if HALVES == 2:
            qweight = _int4_half(tiles[i % TILES], i // TILES)
            high, low = _add_products(zeros, zeros, qweight, inputs[i][None, :])
            factor = scales[i]
            if PER_TILE_SCALES:
                factor = factor * input_scales[i][None, :]
            products += _sum_segments(high, low) * factor
        elif PER_TILE_SCALES:
            high, low = _add_products(zeros, zeros, tiles[i], inputs[i][None, :])
            products += _sum_segments(high, low) * input_scales[i][None, :]
        else:
            high, low = _add_products(high, low, tiles[i], inputs[i][None, :])
    if not PER_TILE_SCALES:
        if HALVES == 1:
            products = _sum_segments(high, low)
        products = products * input_scales[0][None, :]
    return products


@triton.jit
def _product(tiles, scales, inputs, input_scales, HALVES: tl.constexpr):
    """Multiply as `_multiply` does, sum over the parts, and scale the rows; return `[R]`."""
    return _scale_rows(tl.sum(_multiply(tiles, scales, inputs, input_scales, HALVES), 1), scales, HALVES)


@triton.jit
def _int4_half(tile, HALF: tl.constexpr):
    """Return the int4 codes of one half of a row as signed bytes, multiplied by 16."""
    if not HALF:
        tile = tile << 4
    if INTERPRETED:
        return (tile ^ -0x7F7F7F80) & -0x0F0F0F10
    else:  # noqa: RET505
        return tl.inline_asm_elementwise(_SIGN_EXTEND, "=r,r", [tile], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _add_products(high, low, qweight, inputs):
    """Add the products of four codes with the high and the low bytes of their inputs to two sums `[R, W]`."""
    if INTERPRETED:
        for k in tl.static_range(4):
            code = (qweight << (24 - 8 * k)) >> 24
            high += code * (((inputs >> 32).to(tl.int32) << (24 - 8 * k)) >> 24)
            low += code * ((inputs >> 8 * k).to(tl.int32) & 255)
        return high, low
    else:  # noqa: RET505
        return tl.inline_asm_elementwise(
            _MULTIPLY,
            "=&r,=r,r,l,r,r",
            [qweight, inputs, high, low],
            dtype=(tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )


@triton.jit
def _sum_segments(high, low):
    """Combine the sums of high and low bytes `[R, W]`, and sum the words of each part; return `[R, P]`.

    32 bits are enough: the sum over a part of 32 tiles is below 32 * 16 * 127 * 32,767.
    """
    sums = high * 256 + low
    return tl.sum(
        tl.reshape(sums, [sums.shape[0], sums.shape[1] // _WORDS_PER_SEGMENT, _WORDS_PER_SEGMENT]), 2
    ).to(tl.float32)


@triton.jit
def _scale_rows(result, scales, HALVES: tl.constexpr):
    """Multiply sums `[R]` by their rows' scales if there is one per row, as for int8."""
    return result * scales[0] if HALVES == 1 else result
