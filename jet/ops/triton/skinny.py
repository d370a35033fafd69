# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Products of a weight with the inputs of some dozen rows, at the speed at which memory gives the weight.

Tensor cores multiply, sums are float32. A program owns some rows of the weight, which it reads tile by tile
through a pipeline, and has the inputs of all rows of the batch beside them. Where the weight has few rows,
several programs share them, each with a part of the columns; whichever of them is the last one adds up what
all have left, always in the same order.

The functions return what does it again and again on the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.triton.common import silu

LEAST = 16  # rows of a batch that the tensor cores take

BoundOp = Callable[[], None]


@dataclass(frozen=True)
class Cut:
    """How a product is cut.

    Attributes:
        rows: of the weight, a program.
        columns: a step of the pipeline.
        parts: of the columns, for a program each.
        warps: a program.
        stages: of the pipeline.
    """

    rows: int = 64
    columns: int = 128
    parts: int = 1
    warps: int = 4
    stages: int = 3


class Meeting:
    """Where programs that share rows of a weight leave their sums: memory for all products in turn.

    A product keeps what it was given, also when a later one needs more.
    """

    def __init__(self) -> None:
        self._sums = torch.empty(0, dtype=torch.float32)
        self._counters = torch.zeros(0, dtype=torch.int32)

    def place(self, tiles: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Sums, `size` for each of `tiles`, and a counter each, which is 0 before and after a product."""
        if len(self._sums) < tiles * size or self._sums.device != device:
            self._sums = torch.empty(tiles * size, dtype=torch.float32, device=device)
        if len(self._counters) < tiles or self._counters.device != device:
            self._counters = torch.zeros(tiles, dtype=torch.int32, device=device)
        return self._sums, self._counters


def default_cut(n: int, c: int, programs: int) -> Cut:
    """A cut for a weight of `n` rows of `c` values that gives no more than so many programs, if it can.

    On one H100 that was fastest with one program a multiprocessor, all with as much to do as the others, and
    a longer pipeline where they share rows, as each then has fewer steps of it.
    """
    cut = Cut()
    tiles, steps = triton.cdiv(n, cut.rows), triton.cdiv(c, cut.columns)
    fitting = [parts for parts in range(1, steps + 1) if steps % parts == 0 and tiles * parts <= programs]
    parts = max(fitting, default=1)
    return replace(cut, parts=parts, stages=cut.stages + (parts > 1))


def product(
    given: Tensor, weight: Tensor, out: Tensor, add: bool, meeting: Meeting, cut: Cut | None = None
) -> BoundOp:
    """`out = given @ weight.T`, or with `add` that much more.

    Args:
        given: `[B, C]`, of the type of the weight.
        weight: `[N, C]` in half precision.
        out: `[B, N]` float32.
        add: to what is in `out`.
        meeting: for `parts`.
        cut: how.
    """
    return _bind(given, weight, out, add, False, meeting, cut or _cut(weight))


def swiglu(given: Tensor, gate_up: Tensor, out: Tensor, meeting: Meeting, cut: Cut | None = None) -> BoundOp:
    """`out = silu(g) * u` for `g | u = given @ gate_up.T`; `out` `[B, I]` of any type, all else as above."""
    return _bind(given, gate_up, out, False, True, meeting, cut or _cut(gate_up))


def _cut(weight: Tensor) -> Cut:
    return default_cut(len(weight), weight.shape[1], _processors(weight.device))


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count


def _bind(
    given: Tensor, weight: Tensor, out: Tensor, add: bool, gated: bool, meeting: Meeting, cut: Cut
) -> BoundOp:
    (batch, c), n = given.shape, out.shape[1]
    fits = weight.shape == (n * (2 if gated else 1), c) and len(out) == batch
    if not (fits and weight.is_contiguous() and given.is_contiguous() and out.is_contiguous()):
        raise ValueError(
            f"weight {list(weight.shape)}, input {list(given.shape)} and output {list(out.shape)} "
            "must fit each other and be contiguous."
        )
    padded = max(LEAST, triton.next_power_of_2(batch))
    mine = cut.rows // 2 if gated else cut.rows
    tiles, steps = triton.cdiv(n, mine), triton.cdiv(triton.cdiv(c, cut.columns), cut.parts)
    shared = tiles if cut.parts > 1 else 0
    sums, counters = meeting.place(shared, cut.parts * cut.rows * padded, weight.device)

    def run() -> None:
        _skinny_kernel[(tiles, cut.parts)](
            given,
            weight,
            out,
            sums,
            counters,
            N=n,
            C=c,
            BATCH=batch,
            PADDED=padded,
            ADD=add,
            GATED=gated,
            ROWS=cut.rows,
            COLUMNS=cut.columns,
            PARTS=cut.parts,
            STEPS=steps,
            STAGES=cut.stages,
            num_warps=cut.warps,
        )

    return run


@triton.jit
def _skinny_kernel(
    given,
    weight,
    out,
    sums,
    counters,
    N: tl.constexpr,
    C: tl.constexpr,
    BATCH: tl.constexpr,
    PADDED: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):
    tile, part = tl.program_id(0), tl.program_id(1)
    MINE: tl.constexpr = ROWS // 2 if GATED else ROWS
    place = tl.arange(0, ROWS)
    row = tl.minimum(tile * MINE + place % MINE, N - 1)
    if GATED:  # the same rows of gate and up, behind each other
        row += (place // MINE) * N
    b = tl.arange(0, PADDED)
    weights = weight + row.to(tl.int64)[:, None] * C
    inputs = given + tl.minimum(b, BATCH - 1)[None, :] * C
    product = tl.zeros([ROWS, PADDED], tl.float32)
    for step in tl.range(STEPS, num_stages=STAGES):
        column = (part * STEPS + step) * COLUMNS + tl.arange(0, COLUMNS)
        if C % (COLUMNS * STEPS) == 0:
            w = tl.load(weights + column[None, :])
            x = tl.load(inputs + column[:, None])
        else:
            w = tl.load(weights + column[None, :], mask=(column < C)[None, :], other=0.0)
            x = tl.load(inputs + column[:, None], mask=(column < C)[:, None], other=0.0)
        product = tl.dot(w, x, product)
    if PARTS == 1:
        _finish(product, out, tile, N, BATCH, PADDED, ADD, GATED, MINE)
    else:
        offset = place[:, None] * PADDED + b[None, :]
        mine = sums + tile * (PARTS * ROWS * PADDED) + offset
        tl.store(mine + part * (ROWS * PADDED), product)
        tl.debug_barrier()  # of all threads, before it is said that they are there
        arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        if arrived == PARTS - 1:
            total = tl.zeros([ROWS, PADDED], tl.float32)
            for other in tl.static_range(PARTS):
                total += tl.load(mine + other * (ROWS * PADDED), cache_modifier=".cg")
            _finish(total, out, tile, N, BATCH, PADDED, ADD, GATED, MINE)
            tl.store(counters + tile, 0)


@triton.jit
def _finish(
    product,
    out,
    tile,
    N: tl.constexpr,
    BATCH: tl.constexpr,
    PADDED: tl.constexpr,
    ADD: tl.constexpr,
    GATED: tl.constexpr,
    MINE: tl.constexpr,
):
    """Write `[ROWS, PADDED]` to the columns of `out` that are this tile's."""
    row = (tile * MINE + tl.arange(0, MINE))[:, None]
    b = tl.arange(0, PADDED)[None, :]
    place = out + b * N + row
    inside = (row < N) & (b < BATCH)
    if GATED:
        both = tl.permute(tl.reshape(product, [2, MINE, PADDED]), (1, 2, 0))
        gate, up = tl.split(both)
        product = silu(gate) * up
    if ADD:
        product += tl.load(place, mask=inside, other=0.0)
    tl.store(place, product.to(out.dtype.element_ty), mask=inside)
