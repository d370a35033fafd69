# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Matrix-vector products of weights in codes, in whole numbers: four products an instruction.

To turn codes into numbers takes several instructions a weight, all of which have to wait for the input.
So the input is turned into whole numbers instead, once a program: 16 bits each, as two bytes, by which
`dp4a` multiplies four codes at once. Those of a part, `PART` columns of every tile, have one scale, that
of the largest of them. A rounding is half of 1/32,767 of that, where bfloat16's is up to 1/256 of the
number.

A tile has rows of `COLUMNS` bytes, loaded as words of four: codes of int8, or of int4 in two halves, whose
inputs are `COLUMNS` columns each. Sizes are those of `jet.ops.triton.weight_tiles`.

Between the products of an MLP there may be whole numbers as well, written once by those who have the results
instead of by everybody who needs them (`BETWEEN`): of N numbers N / 4 words of 64 bits, whose parts are 16
neighbours each, and then what a one of each part stands for, in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from jet.ops.triton.common import add_pairs, launch_next, silu, wait
from jet.ops.triton.weight_tiles import INTERPRETED, PART, load_rows

WORD = 4  # bytes
BETWEEN = torch.int64
_WORDS = tl.constexpr(PART.value // WORD)  # of a part

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
_SIGNED = tl.constexpr("""
    {
        .reg .b32 sign, mask;
        mov.b32 sign, 0x80808080;
        mov.b32 mask, 0xF0F0F0F0;
        lop3.b32 $0, $1, sign, mask, 0x28;
    }
""")
# As assembly, so that the compiler loads it where it is needed and not in an order of its own, from which it
# would have to pass through shared memory. So with what lies between two products.
_FOUR_INPUTS = tl.constexpr("ld.global.b64 $0, [$1];")
_ONE = tl.constexpr("ld.global.f32 $0, [$1];")
_SCALE = tl.constexpr("""
    {
        .reg .b16 scale;
        ld.global.nc.b16 scale, [$1];
        cvt.f32.f16 $0, scale;
    }
""")


def columns_between(size: int) -> int:
    """Of `BETWEEN`, for `size` numbers: a multiple of `PART`."""
    parts: int = size // PART.value
    return size // 4 + (parts + 1) // 2


@triton.jit
def norm_linear(
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
    """For `jet.ops.triton.gemv.norm_linear`."""
    launch_next(PDL)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    tiles = _load_words(weight, mine, SPAN, COLUMNS)
    scales = _load_scales(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    norms = _load_parts(norm_weight, C, SPAN, HALVES, COLUMNS)
    added = tl.zeros([ROWS], tl.float32)
    if BIAS:
        added += tl.load(bias + row, mask=row < N, other=0.0).to(tl.float32)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        numbers, divisor = _normed(_load_parts(x + b * C, C, SPAN, HALVES, COLUMNS), norms, C, eps)
        inputs, ones = _in_bytes(numbers)
        result = _product(tiles, scales, inputs, ones, HALVES) * divisor + added
        if ACTIVATED > 0:
            result = tl.where(row < ACTIVATED, silu(result), result)
        tl.store(out + b * N + row, result, mask=row < N)


@triton.jit
def norm_swiglu(
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
    IN_BYTES: tl.constexpr,
    HELD: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    """For `jet.ops.triton.gemv.norm_swiglu`."""
    launch_next(PDL)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    gates = _load_words(gate_up, mine, SPAN, COLUMNS)
    ups = _load_words(gate_up, mine + N, SPAN, COLUMNS)
    gate_scales = _load_scales(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    up_scales = _load_scales(factors, mine + N, SPAN, HALVES, SHARED, COLUMNS)
    norms = _load_parts(norm_weight, C, SPAN, HALVES, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        numbers, divisor = _normed(_load_parts(x + b * C, C, SPAN, HALVES, COLUMNS), norms, C, eps)
        inputs, ones = _in_bytes(numbers)
        gate = _multiply(gates, gate_scales, inputs, ones, HALVES)
        up = _multiply(ups, up_scales, inputs, ones, HALVES)
        gated, upped = tl.reduce((gate, up), 1, add_pairs)
        gated = _by_row(gated, gate_scales, HALVES) * divisor
        upped = _by_row(upped, up_scales, HALVES) * divisor
        result = silu(gated) * upped
        if IN_BYTES:
            _store_in_bytes(out + b * HELD, result, N)
        else:
            tl.store(out + b * N + row, result.to(out.dtype.element_ty), mask=row < N)


@triton.jit
def linear_add(
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
    IN_BYTES: tl.constexpr,
    HELD: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    """For `jet.ops.triton.gemv.linear_add`."""
    launch_next(PDL)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    tiles = _load_words(weight, mine, SPAN, COLUMNS)
    scales = _load_scales(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        if IN_BYTES:
            inputs, ones = _load_in_bytes(h + b * HELD, C, SPAN, HALVES, COLUMNS)
        else:
            inputs, ones = _in_bytes(_load_parts(h + b * C, C, SPAN, HALVES, COLUMNS))
        result = _product(tiles, scales, inputs, ones, HALVES)
        tl.store(x + b * N + row, before + result, mask=row < N)


@triton.jit
def heads_linear_add(
    o,
    squares,
    eps,
    weight,
    factors,
    x,
    N: tl.constexpr,
    BATCH: tl.constexpr,
    HEADS: tl.constexpr,
    HEADS_PADDED: tl.constexpr,
    SHARES: tl.constexpr,
    SHARES_PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPAN: tl.constexpr,
    HALVES: tl.constexpr,
    SHARED: tl.constexpr,
    ahead,
    ahead_bytes,
    PDL: tl.constexpr,
):
    """For `jet.ops.triton.gemv.heads_linear_add`."""
    launch_next(PDL)
    C: tl.constexpr = HEADS * SIZE
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mine = tl.minimum(row, N - 1)
    head = tl.arange(0, HEADS_PADDED)
    share = tl.arange(0, SHARES_PADDED)
    there = (head < HEADS)[:, None] & (share < SHARES)[None, :]
    tiles = _load_words(weight, mine, SPAN, COLUMNS)
    scales = _load_scales(factors, mine, SPAN, HALVES, SHARED, COLUMNS)
    wait(tl.program_id(0), tl.num_programs(0), ahead, ahead_bytes, PDL)
    for b in tl.static_range(BATCH):
        before = tl.load(x + b * N + row, mask=row < N, other=0.0)
        place = squares + (b * HEADS + head)[:, None] * SHARES + share[None, :]
        divisors = tl.rsqrt(tl.sum(tl.load(place, mask=there, other=0.0), 1) / SIZE + eps)
        numbers = _by_head(_load_parts(o + b * C, C, SPAN, HALVES, COLUMNS), divisors, SIZE, SPAN, HALVES)
        inputs, ones = _in_bytes(numbers)
        result = _product(tiles, scales, inputs, ones, HALVES)
        tl.store(x + b * N + row, before + result, mask=row < N)


@triton.jit
def _load_words(codes, row, SPAN: tl.constexpr, COLUMNS: tl.constexpr):
    """Rows `[R]` as a tuple of tiles `[R, COLUMNS / WORD]` with zeros behind the end."""
    return load_rows(codes.to(tl.pointer_type(tl.int32)), row, SPAN // 4, COLUMNS // 4)


@triton.jit
def _load_scales(
    scales, row, SPAN: tl.constexpr, HALVES: tl.constexpr, SHARED: tl.constexpr, COLUMNS: tl.constexpr
):
    """Of rows `[R]`: of int8 one `[R]`; of int4 those of parts, `[R, COLUMNS / PART]`, half after half."""
    found = ()
    if HALVES == 2:
        GROUPS: tl.constexpr = (SPAN + SHARED - 1) // SHARED
        start = row.to(tl.int64)[:, None] * (2 * GROUPS)
        for half in tl.static_range(2):
            for t in tl.static_range((SPAN + COLUMNS - 1) // COLUMNS):
                group = ((t * COLUMNS + tl.arange(0, COLUMNS // PART) * PART) // SHARED)[None, :]
                place = scales + start + half * GROUPS + tl.minimum(group, GROUPS - 1)
                found = found + (_load_scale(place) * 0.0625,)  # noqa: RUF005 (codes come 16 times as large)
    else:
        found = found + (tl.load(scales + row),)  # noqa: RUF005
    return found


@triton.jit
def _load_scale(place):
    if INTERPRETED:
        return tl.load(place).to(tl.float32)
    else:  # noqa: RET505
        return tl.inline_asm_elementwise(
            _SCALE, "=f,l", [place.to(tl.int64)], dtype=tl.float32, is_pure=False, pack=1
        )


@triton.jit
def _load_parts(x, C: tl.constexpr, SPAN: tl.constexpr, HALVES: tl.constexpr, COLUMNS: tl.constexpr):
    """A vector `[C]` in float32 as a tuple of tiles `[COLUMNS / PART, PART]`, half after half."""
    tiles = ()
    part = tl.arange(0, COLUMNS // PART)[:, None] * PART
    for half in tl.static_range(HALVES):
        for t in tl.static_range((SPAN + COLUMNS - 1) // COLUMNS):
            place = t * COLUMNS + part + tl.arange(0, PART)[None, :]
            inside = (place < SPAN) & (half * SPAN + place < C)
            tile = tl.load(x + half * SPAN + place, mask=inside, other=0.0)
            tiles = tiles + (tile.to(tl.float32),)  # noqa: RUF005
    return tiles


@triton.jit
def _load_in_bytes(h, C: tl.constexpr, SPAN: tl.constexpr, HALVES: tl.constexpr, COLUMNS: tl.constexpr):
    """What `_store_in_bytes` has written of `[C]`, as `_in_bytes` gives it, with ones for every tile."""
    inputs = ()
    ones = ()
    scales = (h + C // 4).to(tl.pointer_type(tl.float32))
    for half in tl.static_range(HALVES):
        for t in tl.static_range((SPAN + COLUMNS - 1) // COLUMNS):
            word = t * (COLUMNS // 4) + tl.arange(0, COLUMNS // 4)
            part = t * (COLUMNS // PART) + tl.arange(0, COLUMNS // PART)
            words = h + half * (SPAN // 4) + tl.minimum(word, SPAN // 4 - 1)
            places = scales + half * (SPAN // PART) + tl.minimum(part, SPAN // PART - 1)
            if INTERPRETED:
                four, one = tl.load(words), tl.load(places)
            else:
                four = tl.inline_asm_elementwise(
                    _FOUR_INPUTS, "=l,l", [words.to(tl.int64)], dtype=tl.int64, is_pure=False, pack=1
                )
                one = tl.inline_asm_elementwise(
                    _ONE, "=f,l", [places.to(tl.int64)], dtype=tl.float32, is_pure=False, pack=1
                )
            inputs = inputs + (four,)  # noqa: RUF005
            ones = ones + (tl.where(part < SPAN // PART, one, 0.0),)  # noqa: RUF005
    return inputs, ones


@triton.jit
def _store_in_bytes(out, result, N: tl.constexpr):
    """A program's results `[R]`, of N, in whole numbers; R and N are multiples of `PART`."""
    ROWS: tl.constexpr = result.shape[0]
    inputs, ones = _in_bytes((tl.reshape(result, [ROWS // PART, PART]),))
    word = tl.program_id(0) * (ROWS // 4) + tl.arange(0, ROWS // 4)
    part = tl.program_id(0) * (ROWS // PART) + tl.arange(0, ROWS // PART)
    tl.store(out + word, inputs[0], mask=word < N // 4)
    tl.store((out + N // 4).to(tl.pointer_type(tl.float32)) + part, ones[0], mask=part < N // PART)


@triton.jit
def _normed(tiles, norms, C: tl.constexpr, eps):
    """A vector's parts times the norm's weights, and the norm's factor, which comes last."""
    squares = tl.zeros(tiles[0].shape, tl.float32)
    numbers = ()
    for i in tl.static_range(len(tiles)):
        squares += tiles[i] * tiles[i]
        numbers = numbers + (tiles[i] * norms[i],)  # noqa: RUF005
    return numbers, tl.rsqrt(tl.sum(squares) / C + eps)


@triton.jit
def _by_head(tiles, divisors, SIZE: tl.constexpr, SPAN: tl.constexpr, HALVES: tl.constexpr):
    """A vector's parts times the one of `divisors` `[H]` that belongs to their head, of `SIZE` channels."""
    TILES: tl.constexpr = len(tiles) // HALVES
    PARTS: tl.constexpr = tiles[0].shape[0]
    numbers = ()
    for i in tl.static_range(len(tiles)):
        part = (i // TILES) * (SPAN // PART) + (i % TILES) * PARTS + tl.arange(0, PARTS)
        mine = (part // (SIZE // PART))[:, None] == tl.arange(0, divisors.shape[0])[None, :]
        divisor = tl.sum(tl.where(mine, divisors[None, :], 0.0), 1)
        numbers = numbers + (tiles[i] * divisor[:, None],)  # noqa: RUF005
    return numbers


@triton.jit
def _in_bytes(tiles):
    """Tiles `[P, PART]` in whole numbers, and what a one of each part stands for, a tuple of `[P]` for all.

    Four whole numbers are one of 64 bits, `[P * PART / WORD]`: their lower bytes, and above them their higher
    ones. What is not finite makes its part's one so.
    """
    peak = tl.abs(tiles[0])
    for i in tl.static_range(1, len(tiles)):
        peak = _larger(peak, tl.abs(tiles[i]))
    peak = _larger(tl.reduce(peak, 1, _larger), 1e-30)
    factor = (32767.0 / peak)[:, None]
    inputs = ()
    for i in tl.static_range(len(tiles)):
        inputs = inputs + (_bytes_of(tiles[i] * factor),)  # noqa: RUF005
    return inputs, (peak * (1 / 32767),)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _bytes_of(numbers):
    """The nearest whole numbers to `[P, PART]`, which are of 16 bits."""
    # Added to this number, they stand in its lower bits, in two's complement.
    whole = (numbers + 12582912.0).to(tl.int32, bitcast=True)
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
def _multiply(tiles, scales, inputs, ones, HALVES: tl.constexpr):
    """Rows in tiles of words times inputs, still to be summed over parts: `[R, P]`.

    `ones`: of all tiles, or of each its own.
    """
    TILES: tl.constexpr = len(tiles)
    OWN: tl.constexpr = len(ones) > 1
    zeros = tl.zeros(tiles[0].shape, tl.int32)
    products = tl.zeros([tiles[0].shape[0], tiles[0].shape[1] // _WORDS], tl.float32)
    high = zeros
    low = zeros
    for i in tl.static_range(HALVES * TILES):
        if HALVES == 2:
            codes = _codes_of_half(tiles[i % TILES], i // TILES)
            high, low = _add_products(zeros, zeros, codes, inputs[i][None, :])
            factor = scales[i]
            if OWN:
                factor = factor * ones[i][None, :]
            products += _by_parts(high, low) * factor
        elif OWN:
            high, low = _add_products(zeros, zeros, tiles[i], inputs[i][None, :])
            products += _by_parts(high, low) * ones[i][None, :]
        else:
            high, low = _add_products(high, low, tiles[i], inputs[i][None, :])
    if not OWN:
        if HALVES == 1:
            products = _by_parts(high, low)
        products = products * ones[0][None, :]
    return products


@triton.jit
def _product(tiles, scales, inputs, ones, HALVES: tl.constexpr):
    """The same summed, and times the scales of rows: `[R]`."""
    return _by_row(tl.sum(_multiply(tiles, scales, inputs, ones, HALVES), 1), scales, HALVES)


@triton.jit
def _codes_of_half(tile, HALF: tl.constexpr):
    """Codes of int4 in one half of a row, signed and times 16, as bytes."""
    if not HALF:
        tile = tile << 4
    if INTERPRETED:
        return (tile ^ -0x7F7F7F80) & -0x0F0F0F10
    else:  # noqa: RET505
        return tl.inline_asm_elementwise(_SIGNED, "=r,r", [tile], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _add_products(high, low, codes, inputs):
    """To sums `[R, W]` products of four codes: with their inputs' higher bytes, and with the lower ones."""
    if INTERPRETED:
        for k in tl.static_range(4):
            code = (codes << (24 - 8 * k)) >> 24
            high += code * (((inputs >> 32).to(tl.int32) << (24 - 8 * k)) >> 24)
            low += code * ((inputs >> 8 * k).to(tl.int32) & 255)
        return high, low
    else:  # noqa: RET505
        return tl.inline_asm_elementwise(
            _MULTIPLY,
            "=&r,=r,r,l,r,r",
            [codes, inputs, high, low],
            dtype=(tl.int32, tl.int32),
            is_pure=True,
            pack=1,
        )


@triton.jit
def _by_parts(high, low):
    """Sums with higher and lower bytes, `[R, W]`, as one, over the words of a part: `[R, P]`.

    32 bits are enough: of 32 tiles, products of a part are less than 32 * 16 * 127 * 32,767.
    """
    sums = high * 256 + low
    return tl.sum(tl.reshape(sums, [sums.shape[0], sums.shape[1] // _WORDS, _WORDS]), 2).to(tl.float32)


@triton.jit
def _by_row(result, scales, HALVES: tl.constexpr):
    """Sums `[R]` times their rows' scales, if those are of rows."""
    return result * scales[0] if HALVES == 1 else result
