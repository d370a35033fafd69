# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Products of a weight with some dozen rows of inputs, which take about as long as reading the weight.

Tensor cores multiply; sums are float32. A program computes the outputs of some weight rows for the whole
batch, and reads these weight rows tile by tile through a pipeline. If the weight has few rows, several
programs split its columns (split-K). The last program to finish adds the partial sums, always in the same
order.

Each function returns an operation bound to its tensors, to be called repeatedly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.gpu_target import gpu_target
from jet.ops.triton.common import silu

MIN_BATCH = 16  # rows of a batch that the tensor cores take

BoundOp = Callable[[], None]


@dataclass(frozen=True)
class GemmConfig:
    """How the work of a product is divided.

    Attributes:
        block_n: the weight rows of a program.
        block_k: the columns of a step of the pipeline.
        split_k: the parts that the columns are split into, with a program for each.
        num_warps: the warps of a program.
        num_stages: the stages of the pipeline.
    """

    block_n: int = 64
    block_k: int = 128
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 3


class SplitKWorkspace:
    """Scratch memory for the partial sums of split-K programs, which all products share.

    A product keeps the buffers that it was given, also when a later product needs larger ones.
    """

    def __init__(self) -> None:
        self._partial_sums = torch.empty(0, dtype=torch.float32)
        self._counters = torch.zeros(0, dtype=torch.int32)

    def reserve(self, tiles: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a buffer of `tiles * size` float32 partial sums and one int32 counter per tile.

        The sums are uninitialized; counters are zero between products.
        """
        if len(self._partial_sums) < tiles * size or self._partial_sums.device != device:
            self._partial_sums = torch.empty(tiles * size, dtype=torch.float32, device=device)
        if len(self._counters) < tiles or self._counters.device != device:
            self._counters = torch.zeros(tiles, dtype=torch.int32, device=device)
        return self._partial_sums, self._counters


def default_gemm_config(n: int, c: int, programs: int) -> GemmConfig:
    """Choose a configuration for a weight of `n` rows and `c` columns with at most about `programs` programs.

    By measurements on an H100, one program per multiprocessor is fastest, all with equal work. With split-K,
    a program has fewer steps, and a longer pipeline is faster.
    """
    config = GemmConfig()
    tiles, steps = triton.cdiv(n, config.block_n), triton.cdiv(c, config.block_k)
    fitting = [
        split_k for split_k in range(1, steps + 1) if steps % split_k == 0 and tiles * split_k <= programs
    ]
    split_k = max(fitting, default=1)
    return replace(config, split_k=split_k, num_stages=config.num_stages + (split_k > 1))


def matmul(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    add: bool,
    split_k_workspace: SplitKWorkspace,
    config: GemmConfig | None = None,
) -> BoundOp:
    """Bind `out = x @ weight.T`, or `out += x @ weight.T` with `add`.

    Args:
        x: `[B, C]`, of the weight's dtype.
        weight: `[N, C]` in half precision.
        out: `[B, N]` float32.
        add: whether to add to the values in `out`.
        split_k_workspace: scratch memory for `split_k`.
        config: tile sizes and split; None to choose them by the weight's shape.
    """
    return _bind(x, weight, out, add, False, split_k_workspace, config or _config(weight))


def swiglu(
    x: Tensor,
    gate_up: Tensor,
    out: Tensor,
    split_k_workspace: SplitKWorkspace,
    config: GemmConfig | None = None,
) -> BoundOp:
    """Bind `out = silu(g) * u` for `g | u = x @ gate_up.T`.

    `out`: `[B, I]` of any type. Other arguments as in `matmul`.
    """
    return _bind(x, gate_up, out, False, True, split_k_workspace, config or _config(gate_up))


def _config(weight: Tensor) -> GemmConfig:
    return default_gemm_config(len(weight), weight.shape[1], _processors(weight.device))


def _processors(device: torch.device) -> int:
    target = gpu_target(device)
    return 4 if target is None else target.processors


def _bind(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    add: bool,
    gated: bool,
    split_k_workspace: SplitKWorkspace,
    config: GemmConfig,
) -> BoundOp:
    (batch, c), n = x.shape, out.shape[1]
    fits = weight.shape == (n * (2 if gated else 1), c) and len(out) == batch
    if not (fits and weight.is_contiguous() and x.is_contiguous() and out.is_contiguous()):
        raise ValueError(
            f"weight {list(weight.shape)}, input {list(x.shape)} and output {list(out.shape)} "
            "must fit each other and be contiguous."
        )
    block_m = max(MIN_BATCH, triton.next_power_of_2(batch))
    rows_out = config.block_n // 2 if gated else config.block_n
    tiles, steps = triton.cdiv(n, rows_out), triton.cdiv(triton.cdiv(c, config.block_k), config.split_k)
    shared_tiles = tiles if config.split_k > 1 else 0
    partial_sums, counters = split_k_workspace.reserve(
        shared_tiles, config.split_k * config.block_n * block_m, weight.device
    )

    def run() -> None:
        _skinny_kernel[(tiles, config.split_k)](
            x,
            weight,
            out,
            partial_sums,
            counters,
            N=n,
            C=c,
            BATCH=batch,
            BLOCK_M=block_m,
            ADD=add,
            GATED=gated,
            BLOCK_N=config.block_n,
            BLOCK_K=config.block_k,
            SPLIT_K=config.split_k,
            NUM_STEPS=steps,
            NUM_STAGES=config.num_stages,
            num_warps=config.num_warps,
        )

    return run


@triton.jit
def _skinny_kernel(
    x,
    weight,
    out,
    partial_sums,
    counters,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT_K: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    tile, part = tl.program_id(0), tl.program_id(1)
    ROWS_OUT: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    place = tl.arange(0, BLOCK_N)
    row = tl.minimum(tile * ROWS_OUT + place % ROWS_OUT, N - 1)
    if GATED:  # the same rows of gate and up, behind each other
        row += (place // ROWS_OUT) * N
    b = tl.arange(0, BLOCK_M)
    weights = weight + row.to(tl.int64)[:, None] * C
    inputs = x + tl.minimum(b, BATCH - 1)[None, :] * C
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for step in tl.range(NUM_STEPS, num_stages=NUM_STAGES):
        column = (part * NUM_STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        if C % (BLOCK_K * NUM_STEPS) == 0:
            w_tile = tl.load(weights + column[None, :])
            x_tile = tl.load(inputs + column[:, None])
        else:
            w_tile = tl.load(weights + column[None, :], mask=(column < C)[None, :], other=0.0)
            x_tile = tl.load(inputs + column[:, None], mask=(column < C)[:, None], other=0.0)
        acc = tl.dot(w_tile, x_tile, acc)
    if SPLIT_K == 1:
        _finish(acc, out, tile, N, BATCH, BLOCK_M, ADD, GATED, ROWS_OUT)
    else:
        offset = place[:, None] * BLOCK_M + b[None, :]
        partial = partial_sums + tile * (SPLIT_K * BLOCK_N * BLOCK_M) + offset
        tl.store(partial + part * (BLOCK_N * BLOCK_M), acc)
        tl.debug_barrier()  # of all threads, before it is said that they are there
        arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        if arrived == SPLIT_K - 1:
            total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            for other in tl.static_range(SPLIT_K):
                total += tl.load(partial + other * (BLOCK_N * BLOCK_M), cache_modifier=".cg")
            _finish(total, out, tile, N, BATCH, BLOCK_M, ADD, GATED, ROWS_OUT)
            tl.store(counters + tile, 0)


@triton.jit
def _finish(
    acc,
    out,
    tile,
    N: tl.constexpr,
    BATCH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    ROWS_OUT: tl.constexpr,
):
    """Write sums `[BLOCK_N, BLOCK_M]` to the tile's columns of `out`."""
    row = (tile * ROWS_OUT + tl.arange(0, ROWS_OUT))[:, None]
    b = tl.arange(0, BLOCK_M)[None, :]
    place = out + b * N + row
    inside = (row < N) & (b < BATCH)
    if GATED:
        both = tl.permute(tl.reshape(acc, [2, ROWS_OUT, BLOCK_M]), (1, 2, 0))
        gate, up = tl.split(both)
        acc = silu(gate) * up
    if ADD:
        acc += tl.load(place, mask=inside, other=0.0)
    tl.store(place, acc.to(out.dtype.element_ty), mask=inside)
