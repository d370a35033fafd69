# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Split-KV attention of one new token per row: Triton implementation of `jet.ops.attention`.

A ring is treated as a page that is as long as the window and has the slot's number, so one kernel serves
both. A program computes all query heads of one key-value head over one split of a row's tokens, so keys and
values are read once. A second kernel combines the splits.

The largest number of splits is fixed at launch. The number in use depends on the row's length, which is read
on the device: tiles are divided evenly among the splits, and programs without tiles end at once.

No program reads the new token's key and value from memory. The program of split 0 computes them in registers,
begins its softmax with them, and writes them to memory; all other programs leave the new token out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from jet.ops.gpu_target import gpu_target
from jet.ops.triton.common import launch_dependents, launch_options, prefetch_and_wait

# Below any score, yet finite: a share that sees no cell at all then has no infinity to subtract.
LOWEST = tl.constexpr(-1e30)
LOG2_E = tl.constexpr(1.4426950408889634)

PROGRAMS_PER_PROCESSOR = 4
MIN_SPLITS = 8


@dataclass(frozen=True)
class AttentionScratch:
    """Partial softmax results of the KV splits; need not be initialized.

    Attributes:
        maximum: `[B, Hq, splits]` float32, the largest score, as an exponent of 2.
        total: `[B, Hq, splits]` float32, the sum of the weights relative to `maximum`.
        weighted: `[B, Hq, splits, D]` float32, the weighted sum of the values.
    """

    maximum: Tensor
    total: Tensor
    weighted: Tensor

    @classmethod
    def make(
        cls, batch: int, heads: int, head_dim: int, splits: int, device: torch.device | str
    ) -> AttentionScratch:
        """Allocate buffers for up to `batch` rows of `heads` query heads and up to `splits` splits."""
        shape = (batch, heads, splits)
        maximum, total = (torch.empty(shape, dtype=torch.float32, device=device) for _ in range(2))
        weighted = torch.empty(*shape, head_dim, dtype=torch.float32, device=device)
        return cls(maximum, total, weighted)


def default_num_splits(batch: int, kv_heads: int, device: torch.device | str) -> int:
    """Return the largest number of splits of a row: enough for a few programs per multiprocessor.

    Large batches get some splits, too, so that a single long row is not left to one program.
    """
    target = gpu_target(device)
    if target is None:
        return MIN_SPLITS
    splits = max(MIN_SPLITS, -(-PROGRAMS_PER_PROCESSOR * target.processors // (batch * kv_heads)))
    # Of several rows a power of two, so that many batch sizes share a kernel.
    return splits if batch == 1 else 1 << (splits.bit_length() - 1)


def attend_pages(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    page_table: Tensor,
    pages: Tensor,
    out: Tensor,
    scratch: AttentionScratch,
    pdl: bool = False,
    prefetch: Tensor | None = None,
) -> None:
    """Compute the same as `attend_pages_reference`; the page size must be a power of two."""
    keys, values = pages[:, 0], pages[:, 1]
    _attend(projected, cos, sin, position, slots, page_table, keys, values, out, scratch, pdl, prefetch)


def attend_window(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    window_keys: Tensor,
    window_values: Tensor,
    out: Tensor,
    scratch: AttentionScratch,
    pdl: bool = False,
    prefetch: Tensor | None = None,
) -> None:
    """Compute the same as `attend_window_reference`."""
    _attend(
        projected, cos, sin, position, slots, None, window_keys, window_values, out, scratch, pdl, prefetch
    )


def _attend(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    page_table: Tensor | None,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    scratch: AttentionScratch,
    pdl: bool,
    prefetch: Tensor | None,
) -> None:
    """Launch both kernels on keys and values `[pages, Hkv, PAGE_SIZE, D]`.

    `page_table`: None if keys and values are rings, one for each slot.
    """
    kv_heads, page, head_dim = keys.shape[1:]
    batch, heads, splits = len(projected), out.shape[1] // head_dim, scratch.maximum.shape[2]
    rows = (projected, cos, sin, out)
    assert all(x.stride(-1) == 1 and x.dtype == torch.float32 for x in rows)
    assert keys.stride()[2:] == (head_dim, 1) and keys.stride() == values.stride()
    assert scratch.weighted.shape[1:] == (heads, splits, head_dim) and len(scratch.weighted) >= batch

    dot, group_padded, dim_padded, block = _tile_sizes(keys, heads // kv_heads, page_table is not None)
    parts = (scratch.maximum, scratch.total, scratch.weighted)
    common = {
        "SPLITS": splits,
        "BLOCK": block,
        "PAGE_SIZE": page,
        "RING": page_table is None,
        "DIM": head_dim,
    }
    # fmt: off
    _split_kv_kernel[(splits, kv_heads, batch)](
        projected, cos, sin, position, slots, page_table, keys, values, *parts,
        projected.stride(0), cos.stride(0), sin.stride(0), 0 if page_table is None else page_table.stride(0),
        keys.stride(0), keys.stride(1),
        HEADS=heads, KV_HEADS=kv_heads, GROUP_PADDED=group_padded, DIM_PADDED=dim_padded, DOT=dot, **common,
        **launch_options(4, pdl, prefetch),
    )
    splits_padded = triton.next_power_of_2(splits)
    block_dim = max(min(8192 // splits_padded, dim_padded), 8)
    _combine_kernel[(triton.cdiv(head_dim, block_dim), heads, batch)](
        position, *parts, out, out.stride(0),
        HEADS=heads, SPLITS_PADDED=splits_padded, BLOCK_DIM=block_dim, **common,
        **launch_options(4, pdl),
    )
    # fmt: on


def _tile_sizes(keys: Tensor, group: int, paged: bool) -> tuple[bool, int, int, int]:
    """Return whether tensor cores multiply, the padded sizes of a head group and a head, and keys per tile.

    A tile of pages lies within one page. With tensor cores a tile has about 8 KiB: enough loads in flight for
    the bandwidth, and little enough for every device. Without tensor cores the tile is smaller, since
    registers hold the products of all its numbers with all heads of the group.
    """
    page, head_dim = keys.shape[2:]
    dot = keys.dtype != torch.float32 and (page >= 16 or not paged) and _has_tensor_cores(keys.device)
    group_padded = max(triton.next_power_of_2(group), 16 if dot else 1)
    dim_padded = max(triton.next_power_of_2(head_dim), 16)
    wanted = 4096 // dim_padded if dot else 8192 // (dim_padded * max(group_padded, 4))
    block = min(max(wanted, 16 if dot else 4), 64)
    return dot, group_padded, dim_padded, min(block, page) if paged else block


def _has_tensor_cores(device: torch.device) -> bool:
    """Return whether the tensor cores support bfloat16, as from compute capability 8.0 on."""
    target = gpu_target(device)
    return target is not None and target.capability >= 80


@triton.jit(do_not_specialize=["page_table_stride"])  # which follows from how long a story may be
def _split_kv_kernel(
    projected, cos, sin, position, slots, page_table, keys, values, maximum, total, weighted,
    projected_stride, cos_stride, sin_stride, page_table_stride, page_stride, head_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP_PADDED: tl.constexpr,
    DIM: tl.constexpr, DIM_PADDED: tl.constexpr, PAGE_SIZE: tl.constexpr, RING: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Attend to one split of one row's tokens, for the query heads of one key-value head."""
    launch_dependents(PDL)
    split, kv_head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    program = (tl.program_id(2) * KV_HEADS + kv_head) * SPLITS + split
    prefetch_and_wait(program, tl.num_programs(2) * (KV_HEADS * SPLITS), prefetch, prefetch_bytes, PDL)
    here, slot = tl.load(position + row), tl.load(slots + row).to(tl.int64)
    num_cached, tiles, active = _count_splits(here, SPLITS, BLOCK, PAGE_SIZE, RING)
    if split < active:
        dim, member, cell = tl.arange(0, DIM_PADDED), tl.arange(0, GROUP_PADDED), tl.arange(0, BLOCK)
        real = dim < DIM
        group = HEADS // KV_HEADS
        heads, angles = projected + row * projected_stride, (cos + row * cos_stride, sin + row * sin_stride)
        query = _rotate(heads, kv_head * group + member, member < group, angles, dim, DIM)
        query *= LOG2_E * DIM**-0.5
        new_key, new_value = _new_kv(heads, HEADS, KV_HEADS, kv_head, angles, dim, DIM, keys.dtype.element_ty)
        new_cell = here % PAGE_SIZE
        head_offset = kv_head * head_stride + dim[None, :]
        new_offset = (
            _page_index(page_table, page_table_stride, slot, here // PAGE_SIZE, RING) * page_stride
            + head_offset
        )
        if split == 0:
            tl.store(keys + new_offset + new_cell * DIM, new_key, mask=real[None, :])
            tl.store(values + new_offset + new_cell * DIM, new_value, mask=real[None, :])

        # The softmax so far: its largest score, the sum of the weights relative to that, the weighted values.
        row_max = tl.where(split == 0, tl.sum(query * new_key.to(tl.float32), axis=1), LOWEST)
        row_sum = tl.where(split == 0, 1.0, 0.0) + tl.zeros_like(row_max)
        acc = tl.where(split == 0, new_value.to(tl.float32), 0.0) + tl.zeros_like(query)
        # Two tiles under way, whether or not their pages have to be looked up first.
        STAGES: tl.constexpr = 3 if RING else 5
        for tile in tl.range(split * tiles // active, (split + 1) * tiles // active, num_stages=STAGES):
            begin = tile * BLOCK
            offset = _page_index(page_table, page_table_stride, slot, begin // PAGE_SIZE, RING) * page_stride
            offset += (begin % PAGE_SIZE + cell)[:, None] * DIM + head_offset
            visible = begin + cell < num_cached
            if RING:
                visible = visible & (begin + cell != new_cell)
            mask = visible[:, None] & real[None, :]
            key = tl.load(keys + offset, mask=mask, other=0.0)
            value = tl.load(values + offset, mask=mask, other=0.0)
            row_max, row_sum, acc = _update_softmax(row_max, row_sum, acc, query, key, value, visible, DOT)

        part = (row * HEADS + kv_head * group + member) * SPLITS + split
        tl.store(maximum + part, row_max, mask=member < group)
        tl.store(total + part, row_sum, mask=member < group)
        tl.store(
            weighted + part[:, None] * DIM + dim[None, :],
            acc,
            mask=(member < group)[:, None] & real[None, :],
        )


@triton.jit
def _combine_kernel(
    position, maximum, total, weighted, out, out_stride,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, SPLITS: tl.constexpr,
    SPLITS_PADDED: tl.constexpr, BLOCK: tl.constexpr, PAGE_SIZE: tl.constexpr, RING: tl.constexpr,
    prefetch, prefetch_bytes, PDL: tl.constexpr,
):  # fmt: skip
    """Combine the splits of a row to `BLOCK_DIM` numbers of one head's output."""
    launch_dependents(PDL)
    prefetch_and_wait(0, 1, prefetch, prefetch_bytes, PDL)
    head, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    dim = tl.program_id(0) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    split = tl.arange(0, SPLITS_PADDED)
    _, _, active = _count_splits(tl.load(position + row), SPLITS, BLOCK, PAGE_SIZE, RING)
    used = split < active
    part = (row * HEADS + head) * SPLITS + split
    row_max = tl.load(maximum + part, mask=used, other=LOWEST)
    scale = tl.where(used, tl.exp2(row_max - tl.max(row_max, axis=0)), 0.0)
    row_sum = tl.sum(scale * tl.load(total + part, mask=used, other=0.0), axis=0)
    mask = used[:, None] & (dim < DIM)[None, :]
    acc = tl.load(weighted + part[:, None] * DIM + dim[None, :], mask=mask, other=0.0)
    tl.store(
        out + row * out_stride + head * DIM + dim,
        tl.sum(scale[:, None] * acc, axis=0) / row_sum,
        mask=dim < DIM,
    )


@triton.jit
def _count_splits(
    position, SPLITS: tl.constexpr, BLOCK: tl.constexpr, PAGE_SIZE: tl.constexpr, RING: tl.constexpr
):
    """Return the number of a row's earlier tokens to attend to, of their tiles, and of the splits in use."""
    num_cached = tl.minimum(position, PAGE_SIZE) if RING else position
    tiles = tl.cdiv(num_cached, BLOCK)
    return num_cached, tiles, tl.minimum(tl.maximum(tiles, 1), SPLITS)


@triton.jit
def _page_index(page_table, page_table_stride, slot, index, RING: tl.constexpr):
    """Return the int64 number of a row's page; for a ring, this is the row's slot."""
    return slot if RING else tl.load(page_table + slot * page_table_stride + index).to(tl.int64)


@triton.jit
def _new_kv(
    heads, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, kv_head, angles, dim, DIM: tl.constexpr,
    kind: tl.constexpr,
):  # fmt: skip
    """Return the new token's rotated key and its value for one head, `[1, DIM_PADDED]`, rounded as stored."""
    one = tl.arange(0, 1)
    key = _rotate(heads, HEADS + kv_head + one, one < 1, angles, dim, DIM)
    value = tl.load(heads + (HEADS + KV_HEADS + kv_head) * DIM + dim, mask=dim < DIM, other=0.0)
    return key.to(kind), value[None, :].to(kind)


@triton.jit
def _rotate(heads, head, exists, angles, dim, DIM: tl.constexpr):
    """Load some heads with rotary position embedding, `[len(head), DIM_PADDED]`.

    Heads for which `exists` is false are zeros.
    """
    half: tl.constexpr = DIM // 2
    partner = tl.where(dim < half, dim + half, dim - half)
    mask = exists[:, None] & (dim < DIM)[None, :]
    x = tl.load(heads + head[:, None] * DIM + dim[None, :], mask=mask, other=0.0)
    y = tl.load(heads + head[:, None] * DIM + partner[None, :], mask=mask, other=0.0)
    cos = tl.load(angles[0] + dim, mask=dim < DIM, other=0.0)
    sin = tl.load(angles[1] + dim, mask=dim < DIM, other=0.0)
    return x * cos[None, :] + tl.where(dim < half, -1.0, 1.0)[None, :] * y * sin[None, :]


@triton.jit
def _update_softmax(row_max, row_sum, acc, query, key, value, visible, DOT: tl.constexpr):
    """Add the visible keys and values of a tile `[N, D]` to the online softmax."""
    scores = tl.where(visible[None, :], _scores(query, key, DOT), float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    correction, weights = tl.exp2(row_max - new_max), tl.exp2(scores - new_max[:, None])
    return (
        new_max,
        row_sum * correction + tl.sum(weights, axis=1),
        acc * correction[:, None] + _weigh_values(weights, value, DOT),
    )


@triton.jit
def _scores(query, key, DOT: tl.constexpr):
    """Multiply queries `[G, D]` float32 by keys `[N, D]`; return `[G, N]` float32."""
    if DOT:
        scores = _exact_dot(query, tl.trans(key), 3)
    else:
        scores = tl.sum(_products(query[:, None, :], key.to(tl.float32)[None, :, :]), axis=2)
    return scores


@triton.jit
def _weigh_values(weights, value, DOT: tl.constexpr):
    """Multiply weights `[G, N]` float32 by values `[N, D]`; return `[G, D]` float32."""
    if DOT:
        acc = _exact_dot(weights, value, 2)
    else:
        acc = tl.sum(_products(weights[:, :, None], value.to(tl.float32)[None, :, :]), axis=1)
    return acc


@triton.jit
def _products(a, b):
    """Multiply a by b with broadcasting.

    Uses FMA, since the compiler would replace a plain product and its sum by a TF32 dot product.
    """
    a, b = tl.broadcast(a, b)
    return tl.fma(a, b, tl.zeros_like(a))


@triton.jit
def _exact_dot(a, b, PARTS: tl.constexpr):
    """Multiply a in float32 by b in half precision: split a into a sum of `PARTS` numbers of b's type.

    Three parts are as precise as float32, even in bfloat16. Two parts, 16 bits, are enough for softmax
    weights, whose errors average out.
    """
    out = tl.zeros([a.shape[0], b.shape[1]], dtype=tl.float32)
    for _ in tl.static_range(PARTS):
        part = a.to(b.dtype)
        out = tl.dot(part, b, out)
        a -= part.to(tl.float32)
    return out
