# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Shared parts of the decode kernels: dependent launches and small functions.

With programmatic dependent launch, a kernel's programs start as soon as the previous kernel leaves room. They
read their weights, and then wait for the previous kernel's results (`prefetch_and_wait`). While they wait,
they prefetch the first bytes that the next kernel will read (`prefetch`) into the L2 cache.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.chunk_meta import ALIGNMENT, FIELDS, MAX_PACKED

VECTOR = 16  # bytes a thread loads at once
# Bytes of the next weight: with more, the memory has no more to do but the cache has.
# Of int4 half as many, as its products are over sooner.
PREFETCH_BYTES = 2**20
_ALIGNMENT, _FIELDS = tl.constexpr(ALIGNMENT), tl.constexpr(FIELDS)
_MAX_PACKED = tl.constexpr(MAX_PACKED)


def launch_options(num_warps: int, pdl: bool, prefetch: Tensor | None = None) -> dict[str, Any]:
    """Return the keyword arguments to launch a kernel with `launch_dependents` and `prefetch_and_wait`.

    `prefetch`: the tensor to prefetch. Without `pdl` nothing is prefetched, and the argument `launch_pdl` is
    left out, since older GPUs reject it.
    """
    size = 0
    if prefetch is not None and pdl:
        limit = PREFETCH_BYTES // 2 if prefetch.dtype == torch.uint8 else PREFETCH_BYTES
        size = min(prefetch.nbytes, limit) // VECTOR * VECTOR
    options = {
        "prefetch": prefetch if size else None,
        "prefetch_bytes": size,
        "PDL": pdl,
        "num_warps": num_warps,
    }
    return options | ({"launch_pdl": True} if pdl else {})


@triton.jit
def load_segment(chunk_meta, segment):
    """Return a segment's slot, its tokens before the chunk, its tokens in the chunk, and its offset there.

    See `jet.ops.chunk_meta`.
    """
    fields = chunk_meta + segment * _FIELDS
    slot, start = tl.load(fields).to(tl.int64), tl.load(fields + 1)
    return slot, start, tl.load(fields + 2), tl.load(fields + 3)


@triton.jit
def segment_at(chunk_meta, token):
    """Return the index of the segment that contains `token`, a token's index in the chunk."""
    return tl.load(chunk_meta + _MAX_PACKED * _FIELDS + token // _ALIGNMENT)


@triton.jit
def launch_dependents(PDL: tl.constexpr):
    """Let the next kernel's programs start as soon as there is room for them."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def prefetch_and_wait(program, programs, prefetch, prefetch_bytes, PDL: tl.constexpr):
    """Prefetch this program's part of `prefetch` into L2 (from sm_90 on); wait for the previous kernel."""
    if prefetch is not None:
        THREADS: tl.constexpr = tl.extra.cuda.num_threads()
        per_program = tl.cdiv(prefetch_bytes, programs * 128) * 128
        per_thread = tl.cdiv(per_program, THREADS * 128) * 128  # a thread's part, in whole cache lines
        begin = tl.arange(0, THREADS) * per_thread
        size = tl.minimum(
            tl.minimum(per_program - begin, per_thread), prefetch_bytes - program * per_program - begin
        )
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
            [prefetch.to(tl.int64) + program * per_program + begin, size],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
    if PDL:
        tl.extra.cuda.gdc_wait()


@triton.jit
def load_vector(x, C: tl.constexpr, BLOCK_K: tl.constexpr):
    """Load a vector `[C]` as a tuple of tiles `[BLOCK_K]`, padded with zeros."""
    tiles = ()
    for t in tl.static_range((C + BLOCK_K - 1) // BLOCK_K):
        place = t * BLOCK_K + tl.arange(0, BLOCK_K)
        tiles = tiles + (tl.load(x + place, mask=place < C, other=0.0),)  # noqa: RUF005
    return tiles


@triton.jit
def silu(x):
    """Return `x * sigmoid(x)`."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def add_pairs(a, b, c, d):
    """Add pairs of numbers, so that one `tl.reduce` computes two sums."""
    return a + c, b + d
