# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# mypy: disable-error-code="assignment"
"""Attention of a chunk's tokens to all earlier tokens and the chunk: kernels for `jet.ops.prefill_backends`.

One kernel rotates heads and writes keys and values to memory. In another, each program attends from some
queries of one head to the keys that any of them sees, block by block, with an online softmax (arXiv
2205.14135); blocks outside of a window are skipped. `chunk_meta` on the device tells which sequences the
tokens belong to, so that a captured graph serves every chunk.

Full attention reads the pages. Window attention reads a buffer and needs two more kernels. The first copies
the ring to the buffer in order, where the chunk's keys and values will follow; the last copies the newest
tokens back to the ring. Each segment has its own rows in the buffer, from token `start - WINDOW` on.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from jet.ops.chunk_meta import MAX_PACKED, max_segments
from jet.ops.triton.common import load_segment, segment_at

TOKENS = 32  # of a program that moves heads
LOG2_E = 1.4426950408889634  # the softmax is of powers of 2


def attend_pages(
    projected: Tensor,
    frequencies: Tensor,
    chunk_meta: Tensor,
    page_table: Tensor,
    pages: Tensor,
    queries: Tensor,
    out: Tensor,
) -> None:
    """Compute the same as `attend_pages_reference`; `queries` is scratch memory of the shape of `out`."""
    kv_heads, page, dim = pages.shape[2:]
    heads = projected.shape[1] // dim - 2 * kv_heads
    shape = {"HEADS": heads, "KV_HEADS": kv_heads, "D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim))}
    paged = {"PAGE_SIZE": page, "WINDOW": 0}
    _rotate_and_store[(triton.cdiv(len(projected), TOKENS), heads + 2 * kv_heads)](
        projected,
        frequencies,
        chunk_meta,
        page_table,
        pages,
        pages,
        queries,
        page_table.shape[1],
        TOKENS=TOKENS,
        **shape,
        **paged,
        num_warps=4,
    )
    _attend(queries, pages, page_table, chunk_meta, out, page_table.shape[1], shape | paged)


def window_rows(window: int, tokens: int) -> int:
    """Return the number of rows of a window buffer.

    There are `tokens` rows for the chunk, and `window` rows for each of `MAX_PACKED` segments.
    """
    return MAX_PACKED * window + tokens


def attend_window(
    projected: Tensor,
    frequencies: Tensor,
    chunk_meta: Tensor,
    ring_keys: Tensor,
    ring_values: Tensor,
    window_buffer: Tensor,
    queries: Tensor,
    out: Tensor,
) -> None:
    """Compute the same as `attend_window_reference`.

    `window_buffer`: scratch memory with `window_rows` rows. `queries`: scratch memory of the shape of `out`.
    Raises ValueError if `window_buffer` has too few rows.
    """
    kv_heads, window, dim = ring_keys.shape[1:]
    heads = projected.shape[1] // dim - 2 * kv_heads
    shape = {"HEADS": heads, "KV_HEADS": kv_heads, "D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim))}
    segments = max_segments(len(projected))
    # A lane is read as one page that is long enough.
    paged = {"PAGE_SIZE": window_buffer.shape[2], "WINDOW": window}
    if window_buffer.shape[2] < window_rows(window, len(projected)):
        raise ValueError(f"A window buffer of {window_buffer.shape[2]} rows is too small.")
    _load_window[(triton.cdiv(window, TOKENS), 2 * kv_heads, segments)](
        ring_keys, ring_values, chunk_meta, window_buffer, TOKENS=TOKENS, **shape, **paged, num_warps=4
    )
    _rotate_and_store[(triton.cdiv(len(projected), TOKENS), heads + 2 * kv_heads)](
        projected,
        frequencies,
        chunk_meta,
        chunk_meta,
        window_buffer,
        window_buffer,
        queries,
        1,
        TOKENS=TOKENS,
        **shape,
        **paged,
        num_warps=4,
    )
    _attend(queries, window_buffer, chunk_meta, chunk_meta, out, 1, shape | paged)
    _store_window[(triton.cdiv(window, TOKENS), 2 * kv_heads, segments)](
        window_buffer, chunk_meta, ring_keys, ring_values, TOKENS=TOKENS, **shape, **paged, num_warps=4
    )


def _attend(
    queries: Tensor,
    pages: Tensor,
    page_table: Tensor,
    chunk_meta: Tensor,
    out: Tensor,
    max_pages: int,
    shape: dict[str, int],
) -> None:
    """Launch the attention kernel on pages, up to `max_pages` for each slot."""
    rows, columns = 64, 64  # on an H200 faster than 128 by 64 at any length, and for windows than 128 by 128
    _flash_kernel[(triton.cdiv(len(out), rows), shape["HEADS"])](
        queries,
        pages,
        page_table,
        chunk_meta,
        out,
        shape["D"] ** -0.5 * LOG2_E,
        max_pages,
        BLOCK_M=rows,
        BLOCK_N=columns,
        NUM_STAGES=3 if shape["BLOCK_D"] <= 128 else 2,
        **shape,
        num_warps=4,
    )


# How many pages a story may have is no constant: a kernel that was compiled ahead serves every length.
@triton.jit(do_not_specialize=["max_pages"])
def _rotate_and_store(
    projected, frequencies, chunk_meta, page_table, pages, window_buffer, queries, max_pages,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Rotate queries and keys; write queries to scratch, keys and values to pages or the window buffer."""
    HALF: tl.constexpr = D // 2
    head = tl.program_id(1)
    segment = segment_at(chunk_meta, tl.program_id(0) * TOKENS)
    slot, start, count, offset = load_segment(chunk_meta, segment)
    place = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    token = place - offset
    column = tl.arange(0, BLOCK_D // 2)
    inside = (token < count)[:, None] & (column < HALF)[None, :]
    source = place.to(tl.int64)[:, None] * ((HEADS + 2 * KV_HEADS) * D) + head * D + column[None, :]
    first = tl.load(projected + source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(projected + source + HALF, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:
        frequency = tl.load(frequencies + column, mask=column < HALF, other=0.0)
        angle = (start + token).to(tl.float32)[:, None] * frequency[None, :]
        cos, sin = tl.cos(angle), tl.sin(angle)
        first, second = first * cos - second * sin, second * cos + first * sin
    if head < HEADS:
        target = queries + place.to(tl.int64)[:, None] * (HEADS * D) + head * D + column[None, :]
        tl.store(target, first.to(queries.dtype.element_ty), mask=inside)
        tl.store(target + HALF, second.to(queries.dtype.element_ty), mask=inside)
    else:
        kv = (head - HEADS) // KV_HEADS  # 0: keys, 1: values
        kv_head = (head - HEADS) % KV_HEADS
        if WINDOW:
            row = _first_row(segment, offset, WINDOW) + WINDOW + token
            target = (
                window_buffer
                + ((kv * KV_HEADS + kv_head) * PAGE_SIZE + row).to(tl.int64)[:, None] * D
                + column[None, :]
            )
        else:
            row = start + token
            page = tl.load(page_table + slot * max_pages + row // PAGE_SIZE, mask=token < count, other=0).to(
                tl.int64
            )
            target = ((page * 2 + kv) * KV_HEADS + kv_head) * PAGE_SIZE + row % PAGE_SIZE
            target = pages + target[:, None] * D + column[None, :]
        tl.store(target, first.to(pages.dtype.element_ty), mask=inside)
        tl.store(target + HALF, second.to(pages.dtype.element_ty), mask=inside)


@triton.jit
def _first_row(segment, offset, WINDOW: tl.constexpr):
    """Return a segment's first row in the window buffer."""
    return segment * WINDOW + offset


@triton.jit
def _load_window(
    ring_keys, ring_values, chunk_meta, window_buffer,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Copy the window before each segment from its ring to the window buffer, in order."""
    kv, head = tl.program_id(1) // KV_HEADS, tl.program_id(1) % KV_HEADS
    segment = tl.program_id(2)
    slot, start, count, offset = load_segment(chunk_meta, segment)
    if count == 0:
        return
    row = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    column = tl.arange(0, BLOCK_D)
    token = start - WINDOW + row
    inside = ((row < WINDOW) & (token >= 0))[:, None] & (column < D)[None, :]
    source = (((slot * KV_HEADS + head) * WINDOW + (token + WINDOW) % WINDOW) * D)[:, None] + column[None, :]
    row += (kv * KV_HEADS + head) * PAGE_SIZE + _first_row(segment, offset, WINDOW)
    target = window_buffer + row.to(tl.int64)[:, None] * D + column[None, :]
    if kv == 0:
        tl.store(target, tl.load(ring_keys + source, mask=inside, other=0.0), mask=inside)
    else:
        tl.store(target, tl.load(ring_values + source, mask=inside, other=0.0), mask=inside)


@triton.jit
def _store_window(
    window_buffer, chunk_meta, ring_keys, ring_values,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Copy each segment's last tokens from the window buffer to its ring, token t to `t % WINDOW`."""
    kv, head = tl.program_id(1) // KV_HEADS, tl.program_id(1) % KV_HEADS
    segment = tl.program_id(2)
    slot, start, count, offset = load_segment(chunk_meta, segment)
    if count == 0:
        return
    back = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)  # from the chunk's end
    column = tl.arange(0, BLOCK_D)
    token = count - 1 - back
    inside = ((back < WINDOW) & (token >= 0))[:, None] & (column < D)[None, :]
    row = (kv * KV_HEADS + head) * PAGE_SIZE + _first_row(segment, offset, WINDOW) + WINDOW + token
    moved = tl.load(window_buffer + row.to(tl.int64)[:, None] * D + column[None, :], mask=inside, other=0.0)
    cell = (start + tl.maximum(token, 0)) % WINDOW
    target = (((slot * KV_HEADS + head) * WINDOW + cell) * D)[:, None] + column[None, :]
    if kv == 0:
        tl.store(ring_keys + target, moved, mask=inside)
    else:
        tl.store(ring_values + target, moved, mask=inside)


@triton.jit(do_not_specialize=["max_pages"])
def _flash_kernel(
    queries, pages, page_table, chunk_meta, out, scale, max_pages,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, NUM_STAGES: tl.constexpr,
):  # fmt: skip
    """Attend from each token i of a segment to the keys in rows up to `i + shift`.

    `shift` is the number of a segment's rows before its first token. With a window, a token sees only the
    last `WINDOW` of these rows.
    """
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # those with most to do begin first
    head = tl.program_id(1)
    kv_head = head // (HEADS // KV_HEADS)
    segment = segment_at(chunk_meta, block * BLOCK_M)
    slot, start, count, offset = load_segment(chunk_meta, segment)
    if block * BLOCK_M >= offset + count:
        return
    block -= offset // BLOCK_M  # from here on, tokens count from the segment's first
    shift = start
    first_row = 0
    begin = 0
    if WINDOW:
        shift = WINDOW
        pages += _first_row(segment, offset, WINDOW).to(tl.int64) * D
        first_row = tl.maximum(WINDOW - start, 0)  # the first row in which a token stands
        begin = tl.maximum(block * BLOCK_M + 1, first_row) // BLOCK_N * BLOCK_N
    total = shift + count
    end = tl.minimum(block * BLOCK_M + BLOCK_M + shift, total)
    i = block * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_D)
    mask = (i < count)[:, None] & (column < D)[None, :]
    cell = (offset + i).to(tl.int64)[:, None] * (HEADS * D) + head * D + column[None, :]
    query = tl.load(queries + cell, mask=mask, other=0.0)
    row_max = tl.full([BLOCK_M], -1e30, tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    page_table_row = page_table + slot * max_pages
    unmasked_end = begin
    if not WINDOW:  # blocks of which every query sees every row
        unmasked_end = (block * BLOCK_M + shift + 1) // BLOCK_N * BLOCK_N
        for row in tl.range(begin, unmasked_end, BLOCK_N, num_stages=NUM_STAGES):
            row_max, row_sum, acc = _update_softmax(
                query, pages, page_table_row, row, i, shift, first_row, total, kv_head, scale, row_max,
                row_sum, acc,
                KV_HEADS, D, BLOCK_D, PAGE_SIZE, WINDOW, BLOCK_N, False,
            )  # fmt: skip
    for row in tl.range(unmasked_end, end, BLOCK_N, num_stages=NUM_STAGES):
        row_max, row_sum, acc = _update_softmax(
            query, pages, page_table_row, row, i, shift, first_row, total, kv_head, scale, row_max, row_sum,
            acc,
            KV_HEADS, D, BLOCK_D, PAGE_SIZE, WINDOW, BLOCK_N, True,
        )  # fmt: skip
    acc = acc / row_sum[:, None]
    tl.store(out + cell, acc.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _update_softmax(
    query, pages, page_table_row, begin, i, shift, first_row, total, kv_head, scale, row_max, row_sum, acc,
    KV_HEADS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, PAGE_SIZE: tl.constexpr,
    WINDOW: tl.constexpr, BLOCK_N: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add one block of keys and values to the online softmax."""
    offset = tl.arange(0, BLOCK_N)
    column = tl.arange(0, BLOCK_D)
    row = begin + offset
    if WINDOW:
        keys = pages + kv_head * PAGE_SIZE * D + row.to(tl.int64)[:, None] * D + column[None, :]
        values = keys + KV_HEADS * PAGE_SIZE * D
    else:  # COLUMNS divides PAGE
        page = tl.load(page_table_row + begin // PAGE_SIZE).to(tl.int64)
        base = pages + (page * 2 * KV_HEADS + kv_head) * (PAGE_SIZE * D) + (begin % PAGE_SIZE) * D
        keys = base + offset[:, None] * D + column[None, :]
        values = keys + KV_HEADS * PAGE_SIZE * D
    if MASKED:
        mask = ((row < total) & (row >= first_row))[:, None] & (column < D)[None, :]
        key = tl.load(keys, mask=mask, other=0.0)
        value = tl.load(values, mask=mask, other=0.0)
    elif BLOCK_D == D:
        key = tl.load(keys)
        value = tl.load(values)
    else:
        key = tl.load(keys, mask=(column < D)[None, :], other=0.0)
        value = tl.load(values, mask=(column < D)[None, :], other=0.0)
    scores = tl.dot(query, tl.trans(key)) * scale
    if MASKED:
        last = i[:, None] + shift
        visible = (row[None, :] <= last) & (row >= first_row)[None, :]
        if WINDOW:
            visible = visible & (row[None, :] > last - WINDOW)
        scores = tl.where(visible, scores, -1e30)
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    weights = tl.exp2(scores - new_max[:, None])
    correction = tl.exp2(row_max - new_max)
    row_sum = row_sum * correction + tl.sum(weights, 1)
    acc = tl.dot(weights.to(value.dtype), value, acc * correction[:, None])
    return new_max, row_sum, acc
