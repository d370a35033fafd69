"""How the products of a step are cut into programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import triton

from jet.ops.quantization import INT4, INT8, QuantizedTensor, Weight
from jet.ops.triton.common import VECTOR

Kind = Literal["norm_linear", "norm_swiglu", "linear_add", "heads_linear_add", "jet_step"]

# Of 4 bytes, that a thread may spend on weights. With few, more programs fit beside each other; with many, a
# program has fewer threads to add up.
REGISTERS = {"heads_linear_add": 48, "linear_add": 88, "jet_step": 64, "norm_linear": 96, "norm_swiglu": 96}
LEAST_COLUMNS = 64  # of a tile of codes
MANY_ROWS = 2**31


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
        (4096, Tiling(32, 512, 4)),
        (65536, Tiling(16, 256, 2)),
        (MANY_ROWS, Tiling(16, 512, 4)),
    ],
    (INT8, "norm_swiglu"): [(MANY_ROWS, Tiling(16, 256, 2))],
    (INT8, "linear_add"): [(MANY_ROWS, Tiling(4, 2048, 4))],
    (INT8, "heads_linear_add"): [(MANY_ROWS, Tiling(16, 512, 4))],
    (INT4, "norm_linear"): [(4096, Tiling(16, 256, 2)), (MANY_ROWS, Tiling(8, 256, 2))],
    (INT4, "norm_swiglu"): [(MANY_ROWS, Tiling(16, 256, 2))],
    (INT4, "linear_add"): [(MANY_ROWS, Tiling(4, 2048, 4))],
    (INT4, "heads_linear_add"): [(MANY_ROWS, Tiling(8, 512, 4))],
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
    if not isinstance(weight, QuantizedTensor):
        return default_tiling(kind, n, weight.shape[1], weight.element_size())
    for most, tiling in OF_CODES.get((weight.scheme, kind), []):
        if n <= most:
            return replace(tiling, columns=min(tiling.columns, triton.next_power_of_2(weight.row_bytes)))
    tiling = default_tiling(kind, n, weight.shape[1], 2)
    columns = min(tiling.columns, triton.next_power_of_2(weight.row_bytes))
    while columns > LEAST_COLUMNS and -weight.row_bytes % columns > weight.row_bytes // 8:
        columns //= 2
    return replace(tiling, columns=columns)
