# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""How kernels hold weights, and how jet steps and the embedding turn codes into numbers.

To a kernel a weight is `weight`, numbers or codes, with `factors`, which are None for numbers, and three
sizes: `SPAN`, elements of a row of `weight`; `HALVES`, runs of columns in them, two for int4; and `SHARED`,
columns that share a factor, 0 where all of a row do. Tiles are of elements; of int4 each serves a tile of
inputs in either half.

Turning codes into numbers is written for the fewest instructions: four codes are taken from a register at
once, and int4 stays too large until `PART` products are summed, of which then a multiple of the sum of the
inputs is taken away. Where a whole product has codes it is done without (`jet.ops.triton.int_gemv`).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from jet.ops.quantization import GROUP_SIZE, INT4, QuantizedTensor, Weight

PART = tl.constexpr(16)  # columns of a tile of codes that a thread holds side by side, and sums first

# With these bits of an exponent, a small whole number is a float32 of 2 ** 23 more. To convert integers takes
# a card several times as long as this and a subtraction.
_EXPONENT = tl.constexpr(0x4B000000)
_INT8_SIGN = tl.constexpr(0x80)
_INT8_ZERO = tl.constexpr(float(2**23 + 128))
# With these and its four bits right behind them, half of it is 8 more: near enough to leave its last digits
# alone when it is multiplied first and the rest is taken away from the sum.
_NEAR_EXPONENT = tl.constexpr(0x41000000)
_NEAR_PLACE = tl.constexpr(19)
_INT4_ZERO = tl.constexpr(8.0 + 8 / 2)

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))  # knows no assembly
# `prmt` makes a word of any four bytes of two others: here one code and the exponent.
_FOUR_OF_INT8 = tl.constexpr("""
    {
        .reg .b32 codes;
        xor.b32 codes, $4, 0x80808080;
        prmt.b32 $0, codes, 0x4B000000, 0x7440;
        prmt.b32 $1, codes, 0x4B000000, 0x7441;
        prmt.b32 $2, codes, 0x4B000000, 0x7442;
        prmt.b32 $3, codes, 0x4B000000, 0x7443;
    }
""")
_FOUR_OF_INT4 = """
    {
        .reg .b32 codes;
        SHIFT.b32 codes, $4, PLACES;
        and.b32 codes, codes, 0x78787878;
        prmt.b32 $0, codes, 0x41000000, 0x7044;
        prmt.b32 $1, codes, 0x41000000, 0x7144;
        prmt.b32 $2, codes, 0x41000000, 0x7244;
        prmt.b32 $3, codes, 0x41000000, 0x7344;
    }
"""
# The upper half of a float32 is a bfloat16.
_TWO_OF_BFLOAT16 = tl.constexpr("""
    shl.b32 $0, $2, 16;
    and.b32 $1, $2, 0xFFFF0000;
""")
_FOUR_OF_LOW_INT4 = tl.constexpr(_FOUR_OF_INT4.replace("SHIFT", "shl").replace("PLACES", "3"))
_FOUR_OF_HIGH_INT4 = tl.constexpr(_FOUR_OF_INT4.replace("SHIFT", "shr").replace("PLACES", "1"))


def held(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """`weight` and `factors`."""
    return (weight.qweight, weight.scales) if isinstance(weight, QuantizedTensor) else (weight, None)


def sizes(weight: Weight) -> dict[str, Any]:
    """`SPAN`, `HALVES` and `SHARED`."""
    if isinstance(weight, QuantizedTensor) and weight.scheme == INT4:
        return {"SPAN": weight.row_bytes, "HALVES": 2, "SHARED": GROUP_SIZE}
    return {"SPAN": weight.shape[1], "HALVES": 1, "SHARED": 0}


@triton.jit
def load_rows(weight, row, SPAN: tl.constexpr, COLUMNS: tl.constexpr):
    """`weight[row]` `[SPAN]` for rows `[R]`, as a tuple of tiles `[R, COLUMNS]` with zeros behind the end."""
    tiles = ()
    start = row.to(tl.int64)[:, None] * SPAN
    for t in tl.static_range((SPAN + COLUMNS - 1) // COLUMNS):
        column = (t * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        # Read once a token and far larger than the cache, which the states need more.
        tile = tl.load(weight + start + column, mask=column < SPAN, other=0, eviction_policy="evict_first")
        tiles = tiles + (tile,)  # noqa: RUF005 (Triton knows no unpacking)
    return tiles


@triton.jit
def load_factors(
    factors, row, SPAN: tl.constexpr, HALVES: tl.constexpr, SHARED: tl.constexpr, COLUMNS: tl.constexpr
):
    """Of rows `[R]`: of int8 one `[R]`, of int4 one a tile and half, `[R, COLUMNS / PART]`."""
    found = ()
    if SHARED > 0:
        GROUPS: tl.constexpr = (SPAN + SHARED - 1) // SHARED
        start = row.to(tl.int64)[:, None] * (HALVES * GROUPS)
        for half in tl.static_range(HALVES):
            for t in tl.static_range((SPAN + COLUMNS - 1) // COLUMNS):
                group = ((t * COLUMNS + tl.arange(0, COLUMNS // PART) * PART) // SHARED)[None, :]
                factor = tl.load(factors + start + half * GROUPS + group, mask=group < GROUPS, other=0.0)
                found = found + (factor.to(tl.float32),)  # noqa: RUF005
    elif factors is not None:
        found = found + (tl.load(factors + row),)  # noqa: RUF005
    else:
        found = found + (row,)  # noqa: RUF005 (so that the tuple is not empty; nobody looks)
    return found


@triton.jit
def numbers(tile, HALF: tl.constexpr):
    """What a tile of weights stands for in float32, factors aside; of int4 that of one half."""
    if tile.dtype == tl.int8:
        return _with_exponent(tile, HALF) - _INT8_ZERO
    elif tile.dtype == tl.uint8:  # noqa: RET505 (of a return Triton only compiles what stands in a branch)
        return 2.0 * (_with_exponent(tile, HALF) - _INT4_ZERO)
    elif tile.dtype == tl.bfloat16 and not INTERPRETED:
        bits = tl.inline_asm_elementwise(
            _TWO_OF_BFLOAT16, "=&r,=r,r", [tile], dtype=tl.int32, is_pure=True, pack=2
        )
        return bits.to(tl.float32, bitcast=True)
    else:
        return tile.to(tl.float32)


@triton.jit
def _with_exponent(tile, HALF: tl.constexpr):
    """Codes, of int4 half of them, as float32, too large by `_INT8_ZERO` or `_INT4_ZERO`."""
    if tile.dtype == tl.int8:
        if INTERPRETED:
            bits = tile.to(tl.uint8, bitcast=True).to(tl.int32) ^ (_EXPONENT | _INT8_SIGN)
        else:
            bits = _four(_FOUR_OF_INT8, tile)
    elif INTERPRETED:
        bits = (((tile.to(tl.int32) >> (4 * HALF)) & 15) << _NEAR_PLACE) | _NEAR_EXPONENT
    else:
        bits = _four(_FOUR_OF_HIGH_INT4 if HALF else _FOUR_OF_LOW_INT4, tile)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _four(assembly: tl.constexpr, tile):
    """Of every four elements of 8 bits four of 32."""
    return tl.inline_asm_elementwise(assembly, "=r,=r,=r,=r,r", [tile], dtype=tl.int32, is_pure=True, pack=4)


@triton.jit
def no_products(ROWS: tl.constexpr, COLUMNS: tl.constexpr, SHARED: tl.constexpr):
    """What products are added to: of int4 by parts."""
    if SHARED > 0:
        return tl.zeros([ROWS, COLUMNS // PART], tl.float32)
    else:  # noqa: RET505
        return tl.zeros([ROWS, COLUMNS], tl.float32)


@triton.jit
def products_of_int4(tile, inputs, factors, at: tl.constexpr, HALF: tl.constexpr):
    """A tile's half times its inputs, still to be summed over parts; `at`: the place of its factors."""
    summed = _sum_parts(_with_exponent(tile, HALF) * inputs) - _INT4_ZERO * _sum_parts(inputs)
    return summed * (2.0 * factors[at])


@triton.jit
def _sum_parts(x):
    """`[R, C]` summed over each `PART` columns: `[R, C / PART]`."""
    return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // PART, PART]), 2)


@triton.jit
def by_row(result, tile, factor):
    """Numbers `[R]` times their rows' factors, where the tiles of those rows are int8 and have one a row."""
    if tile.dtype == tl.int8:
        return result * factor
    else:  # noqa: RET505
        return result
