# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Load tiles of weights in kernels, and dequantize them.

A kernel gets a weight as `weight` (values or quantized codes), `scales` (None for values) and three sizes:
`ROW_SIZE`, the elements of a row of `weight`; `HALVES`, the runs of columns in a row, two for int4; and
`GROUP_SIZE`, the columns that share a scale, 0 if all of a row do. A tile of int4 codes serves a tile of
inputs in each half.

Dequantizing takes as few instructions as possible: four codes are expanded from a register at once, and the
offset of int4 codes is subtracted only after `SEGMENT` products are summed, as a multiple of the sum of the
inputs. Products of whole quantized weights need no dequantizing (`jet.ops.triton.int_gemv`).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from jet.ops.quantization import GROUP_SIZE, INT4, QuantizedTensor, Weight

SEGMENT = tl.constexpr(16)  # columns of a tile of codes that a thread holds side by side, and sums first

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


def kernel_tensors(weight: Weight) -> tuple[Tensor, Tensor | None]:
    """Return a weight's kernel arguments `weight` and `scales`."""
    return (weight.qweight, weight.scales) if isinstance(weight, QuantizedTensor) else (weight, None)


def row_layout(weight: Weight) -> dict[str, Any]:
    """Return a weight's constant kernel arguments `ROW_SIZE`, `HALVES` and `GROUP_SIZE`."""
    if isinstance(weight, QuantizedTensor) and weight.scheme == INT4:
        return {"ROW_SIZE": weight.row_bytes, "HALVES": 2, "GROUP_SIZE": GROUP_SIZE}
    return {"ROW_SIZE": weight.shape[1], "HALVES": 1, "GROUP_SIZE": 0}


@triton.jit
def load_rows(weight, row, ROW_SIZE: tl.constexpr, BLOCK_K: tl.constexpr):
    """Load `weight[row]` for rows `[R]` as a tuple of tiles `[R, BLOCK_K]`, padded with zeros."""
    tiles = ()
    start = row.to(tl.int64)[:, None] * ROW_SIZE
    for t in tl.static_range((ROW_SIZE + BLOCK_K - 1) // BLOCK_K):
        column = (t * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        # Read once a token and far larger than the cache, which the states need more.
        tile = tl.load(
            weight + start + column, mask=column < ROW_SIZE, other=0, eviction_policy="evict_first"
        )
        tiles = tiles + (tile,)  # noqa: RUF005 (Triton knows no unpacking)
    return tiles


@triton.jit
def load_scales(
    scales, row, ROW_SIZE: tl.constexpr, HALVES: tl.constexpr, GROUP_SIZE: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Load the scales of rows `[R]` as a tuple.

    int8: one tensor `[R]`. int4: a tensor `[R, BLOCK_K / SEGMENT]` for each tile of each half of the row.
    """
    loaded = ()
    if GROUP_SIZE > 0:
        GROUPS: tl.constexpr = (ROW_SIZE + GROUP_SIZE - 1) // GROUP_SIZE
        start = row.to(tl.int64)[:, None] * (HALVES * GROUPS)
        for half in tl.static_range(HALVES):
            for t in tl.static_range((ROW_SIZE + BLOCK_K - 1) // BLOCK_K):
                group = ((t * BLOCK_K + tl.arange(0, BLOCK_K // SEGMENT) * SEGMENT) // GROUP_SIZE)[None, :]
                scale = tl.load(scales + start + half * GROUPS + group, mask=group < GROUPS, other=0.0)
                loaded = loaded + (scale.to(tl.float32),)  # noqa: RUF005
    elif scales is not None:
        loaded = loaded + (tl.load(scales + row),)  # noqa: RUF005
    else:
        loaded = loaded + (row,)  # noqa: RUF005 (so that the tuple is not empty; it is unused)
    return loaded


@triton.jit
def to_float32(tile, HALF: tl.constexpr):
    """Convert a tile of weights to float32, without its scales; for int4, one half of it."""
    if tile.dtype == tl.int8:
        return _biased_float32(tile, HALF) - _INT8_ZERO
    elif tile.dtype == tl.uint8:  # noqa: RET505 (of a return Triton only compiles what stands in a branch)
        return 2.0 * (_biased_float32(tile, HALF) - _INT4_ZERO)
    elif tile.dtype == tl.bfloat16 and not INTERPRETED:
        bits = tl.inline_asm_elementwise(
            _TWO_OF_BFLOAT16, "=&r,=r,r", [tile], dtype=tl.int32, is_pure=True, pack=2
        )
        return bits.to(tl.float32, bitcast=True)
    else:
        return tile.to(tl.float32)


@triton.jit
def _biased_float32(tile, HALF: tl.constexpr):
    """Convert codes to float32 with an offset, in few instructions.

    An int8 code becomes `code + _INT8_ZERO`. An int4 code becomes `code / 2 + _INT4_ZERO`; only the half with
    the number `HALF` is converted.
    """
    if tile.dtype == tl.int8:
        if INTERPRETED:
            bits = tile.to(tl.uint8, bitcast=True).to(tl.int32) ^ (_EXPONENT | _INT8_SIGN)
        else:
            bits = _expand_four(_FOUR_OF_INT8, tile)
    elif INTERPRETED:
        bits = (((tile.to(tl.int32) >> (4 * HALF)) & 15) << _NEAR_PLACE) | _NEAR_EXPONENT
    else:
        bits = _expand_four(_FOUR_OF_HIGH_INT4 if HALF else _FOUR_OF_LOW_INT4, tile)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _expand_four(assembly: tl.constexpr, tile):
    """Expand every four 8-bit elements of a tile to four 32-bit elements, by inline assembly."""
    return tl.inline_asm_elementwise(assembly, "=r,=r,=r,=r,r", [tile], dtype=tl.int32, is_pure=True, pack=4)


@triton.jit
def zero_accumulator(ROWS: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_SIZE: tl.constexpr):
    """Return an accumulator of zeros: `[R, BLOCK_K]`, or `[R, BLOCK_K / SEGMENT]` for int4."""
    if GROUP_SIZE > 0:
        return tl.zeros([ROWS, BLOCK_K // SEGMENT], tl.float32)
    else:  # noqa: RET505
        return tl.zeros([ROWS, BLOCK_K], tl.float32)


@triton.jit
def int4_products(tile, inputs, scales, index: tl.constexpr, HALF: tl.constexpr):
    """Multiply one half of an int4 tile by its inputs; return scaled products, summed by segments.

    `index`: the index of the tile's scales in `scales`.
    """
    summed = _sum_parts(_biased_float32(tile, HALF) * inputs) - _INT4_ZERO * _sum_parts(inputs)
    return summed * (2.0 * scales[index])


@triton.jit
def _sum_parts(x):
    """Sum each `SEGMENT` columns of x `[R, C]`; return `[R, C / SEGMENT]`."""
    return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // SEGMENT, SEGMENT]), 2)


@triton.jit
def scale_rows(result, tile, scale):
    """Multiply sums `[R]` by their rows' scales if `tile` is int8, which has one scale per row."""
    if tile.dtype == tl.int8:
        return result * scale
    else:  # noqa: RET505
        return result
