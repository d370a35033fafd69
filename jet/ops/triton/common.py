# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""What the kernels of a step share: launches that depend on each other, and small functions.

Under programmatic dependent launch a kernel's programs start as soon as those before them leave room.
They read their weights, and then `wait` for what the kernels before have written. Meanwhile they fetch
into the L2 cache what the next kernel will read first (`ahead`), so that the memory does not stand still
between two kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

VECTOR = 16  # bytes a thread loads at once
# Bytes of the next weight: with more, the memory has no more to do but the cache has.
# Of int4 half as many, as its products are over sooner.
MOST_AHEAD = 2**20


def chain_options(warps: int, pdl: bool, ahead: Tensor | None = None) -> dict[str, Any]:
    """Keyword arguments of a launch whose kernel uses `launch_next` and `wait`.

    Nothing is fetched without `pdl`. `launch_pdl` is there only where it is used: older cards refuse it.
    """
    size = 0
    if ahead is not None and pdl:
        most = MOST_AHEAD // 2 if ahead.dtype == torch.uint8 else MOST_AHEAD
        size = min(ahead.nbytes, most) // VECTOR * VECTOR
    options = {"ahead": ahead if size else None, "ahead_bytes": size, "PDL": pdl, "num_warps": warps}
    return options | ({"launch_pdl": True} if pdl else {})


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
def load_vector(x, C: tl.constexpr, COLUMNS: tl.constexpr):
    """A vector `[C]` as a tuple of tiles `[COLUMNS]` with zeros behind the end."""
    tiles = ()
    for t in tl.static_range((C + COLUMNS - 1) // COLUMNS):
        place = t * COLUMNS + tl.arange(0, COLUMNS)
        tiles = tiles + (tl.load(x + place, mask=place < C, other=0.0),)  # noqa: RUF005
    return tiles


@triton.jit
def silu(x):
    """`x * sigmoid(x)`."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def add_pairs(a, b, c, d):
    """For `tl.reduce`: two sums in one pass."""
    return a + c, b + d
