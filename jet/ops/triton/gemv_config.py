"""GemvConfig: how the work of a matrix-vector product is divided among programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import triton

from jet.ops.quantization import INT4, INT8, QuantizedTensor, Weight
from jet.ops.triton.common import VECTOR

GemvKind = Literal["norm_linear", "norm_swiglu", "linear_add", "heads_linear_add", "jet_step"]

# Of 4 bytes, that a thread may spend on weights. With few, more programs fit beside each other; with many, a
# program has fewer threads to add up.
MAX_REGISTERS = {
    "heads_linear_add": 48,
    "linear_add": 88,
    "jet_step": 64,
    "norm_linear": 96,
    "norm_swiglu": 96,
}
MIN_BLOCK_K = 64  # of a tile of codes
ANY_ROWS = 2**31


@dataclass(frozen=True)
class GemvConfig:
    """How the work of a matrix-vector product is divided.

    Attributes:
        block_n: the weight rows of a program, a power of two. For `norm_swiglu`, the number of gate rows,
            with as many up rows. For `jet_step`, the number of value channels, each with a weight row for
            each tap.
        block_k: the columns of a tile, a power of two. For `heads_linear_add` with unquantized weights, an
            upper bound of the columns of the heads in a tile.
        num_warps: the warps of a program.
    """

    block_n: int
    block_k: int
    num_warps: int


# Of codes: rows up to which it holds, and the tiling with which a step was fastest on one H100
# (scripts/tune_step.py). The fewer bytes a weight has, the more its inputs count, which rows share.
QUANTIZED_CONFIGS: dict[tuple[str, GemvKind], list[tuple[int, GemvConfig]]] = {
    (INT8, "norm_linear"): [
        (4096, GemvConfig(32, 512, 4)),
        (65536, GemvConfig(16, 256, 2)),
        (ANY_ROWS, GemvConfig(16, 512, 4)),
    ],
    (INT8, "norm_swiglu"): [(ANY_ROWS, GemvConfig(16, 256, 2))],
    (INT8, "linear_add"): [(ANY_ROWS, GemvConfig(4, 2048, 4))],
    (INT8, "heads_linear_add"): [(ANY_ROWS, GemvConfig(16, 512, 4))],
    (INT4, "norm_linear"): [(4096, GemvConfig(16, 256, 2)), (ANY_ROWS, GemvConfig(8, 256, 2))],
    (INT4, "norm_swiglu"): [(ANY_ROWS, GemvConfig(16, 256, 2))],
    (INT4, "linear_add"): [(ANY_ROWS, GemvConfig(4, 2048, 4))],
    (INT4, "heads_linear_add"): [(ANY_ROWS, GemvConfig(8, 512, 4))],
}


def default_gemv_config(kind: GemvKind, n: int, c: int, itemsize: int) -> GemvConfig:
    """Choose tile sizes and warps for a weight of `n` rows and `c` columns, without tuning.

    Small weights get few rows per program, so that every multiprocessor runs several programs. The number of
    warps follows from the registers that the rows need. `itemsize`: bytes of a weight value.

    For `jet_step`, `n` is the number of value channels.
    """
    # Rows that a program holds, and tiles that make up what all its threads load at once.
    if kind == "jet_step":
        rows_in_registers, tiles_per_load = 32, 2  # 8 channels of about 4
    elif kind == "heads_linear_add":
        rows_in_registers, tiles_per_load = 2, 2
    elif n < 8192:
        rows_in_registers, tiles_per_load = 2, 1
    elif kind == "linear_add":
        rows_in_registers, tiles_per_load = 8, 1
    elif n < 65536:
        rows_in_registers, tiles_per_load = 16, 4
    else:
        rows_in_registers, tiles_per_load = 8, 2
    block_n = {"jet_step": 8, "norm_swiglu": rows_in_registers // 2}.get(kind, rows_in_registers)
    num_warps = 1
    while num_warps < 8 and rows_in_registers * c * itemsize > 4 * MAX_REGISTERS[kind] * 32 * num_warps:
        num_warps *= 2
    # In a jet step, threads are spread over the rows first: then every sum stays within a warp.
    lanes = max(4, 32 * num_warps // block_n) if kind == "jet_step" else 32 * num_warps
    block_k = min(VECTOR // itemsize * lanes // tiles_per_load, triton.next_power_of_2(c))
    return GemvConfig(block_n, block_k, num_warps)


def gemv_config_for(kind: GemvKind, n: int, weight: Weight) -> GemvConfig:
    """Choose the configuration for a weight; `n` as in `default_gemv_config`.

    A quantized weight without a measured configuration gets as many threads as half precision, since its
    inputs take the registers. Its tiles are narrower if much of the last tile would be padding.
    """
    if not isinstance(weight, QuantizedTensor):
        return default_gemv_config(kind, n, weight.shape[1], weight.element_size())
    for max_rows, config in QUANTIZED_CONFIGS.get((weight.scheme, kind), []):
        if n <= max_rows:
            return replace(config, block_k=min(config.block_k, triton.next_power_of_2(weight.row_bytes)))
    config = default_gemv_config(kind, n, weight.shape[1], 2)
    block_k = min(config.block_k, triton.next_power_of_2(weight.row_bytes))
    while block_k > MIN_BLOCK_K and -weight.row_bytes % block_k > weight.row_bytes // 8:
        block_k //= 2
    return replace(config, block_k=block_k)
