"""Attention of one new token per row to keys and values that are stored in pages or in a ring.

A row is a sequence that has a slot. `position` is the number of tokens it had before this one.

Full attention keeps its keys and values in a pool of pages `[P, 2, Hkv, PAGE_SIZE, D]` (0 keys, 1 values).
Token t of slot s is in page `page_table[s, t // PAGE_SIZE]`, at `t % PAGE_SIZE`.

A sliding window keeps them in rings `[slots, Hkv, WINDOW, D]`, token t at `t % WINDOW`. A query sees the
last WINDOW tokens, itself included.

The functions named `_reference` define the operations of a decode step. Their Triton counterparts, with one
more argument for scratch memory, are in `jet.ops.triton.decode_attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend_pages_reference(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    page_table: Tensor,
    pages: Tensor,
    out: Tensor,
) -> None:
    """Attend from one token per row to all tokens before it and itself. Writes `pages` and `out`.

    Args:
        projected: `[B, (Hq + 2·Hkv)·D]` float32: query heads, key heads, value heads, not yet rotated.
        cos, sin: `[B, D]` float32, the rotation of each row's position.
        position: `[B]` int32, the number of each row's earlier tokens.
        slots: `[B]` int32, each row's index in `page_table`.
        page_table: `[slots, max_pages]` int32. The page of `position` must have been allocated.
        pages: `[P, 2, Hkv, PAGE_SIZE, D]` in the model's type; gets the tokens' keys and values.
        out: `[B, Hq·D]` float32, overwritten.
    """
    queries, new_keys, new_values = _heads(projected, cos, sin, pages.shape[2])
    for row, (start, slot) in enumerate(zip(position.tolist(), slots.tolist(), strict=True)):
        write_pages(pages, page_table[slot], start, new_keys[row], new_values[row])
        keys, values = gather_pages(pages, page_table[slot], start + 1)
        out[row] = _attend(queries[row], keys, values)


def attend_window_reference(
    projected: Tensor,
    cos: Tensor,
    sin: Tensor,
    position: Tensor,
    slots: Tensor,
    window_keys: Tensor,
    window_values: Tensor,
    out: Tensor,
) -> None:
    """Attend from one token per row to the last WINDOW tokens, itself included. Writes the rings and `out`.

    Args:
        projected, cos, sin, position, out: as in `attend_pages_reference`.
        slots: `[B]` int32, each row's index in the rings.
        window_keys, window_values: `[slots, Hkv, WINDOW, D]` in the model's type; get the tokens' keys and
            values.
    """
    queries, *new = _heads(projected, cos, sin, window_keys.shape[1])
    for row, (start, slot) in enumerate(zip(position.tolist(), slots.tolist(), strict=True)):
        seen = []
        for window, states in zip((window_keys[slot], window_values[slot]), new, strict=True):
            states = states[row].to(window.dtype)
            seen.append(torch.cat([gather_window(window, start), states], dim=1))
            write_window(window, start, states)
        out[row] = _attend(queries[row], *seen)


def gather_pages(pages: Tensor, page_table_row: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return a copy of the keys and values of a sequence's first `length` tokens, each `[Hkv, length, D]`.

    `pages`: `[P, 2, Hkv, PAGE_SIZE, D]`. `page_table_row`: `[max_pages]`, the slot's row of the page table.
    """
    used = page_table_row[: -(-length // pages.shape[3])].long()
    keys, values = (pages[used, part].transpose(0, 1).flatten(1, 2)[:, :length] for part in (0, 1))
    return keys, values


def write_pages(pages: Tensor, page_table_row: Tensor, start: int, keys: Tensor, values: Tensor) -> None:
    """Write keys and values `[Hkv, T, D]` of the tokens from position `start` on to a sequence's pages."""
    page_size = pages.shape[3]
    tokens = torch.arange(start, start + keys.shape[1], device=pages.device)
    page, cell = page_table_row[tokens // page_size].long(), tokens % page_size
    for part, states in enumerate((keys, values)):
        # Two index tensors with a slice between them: tokens come first, [T, Hkv, D].
        pages[page, part, :, cell] = states.transpose(0, 1).to(pages.dtype)


def gather_window(window: Tensor, position: int) -> Tensor:
    """Return a copy of the last tokens before `position` in order, `[Hkv, min(position, WINDOW - 1), D]`.

    `window`: the keys or values of one slot's ring, `[Hkv, WINDOW, D]`.
    """
    kept = min(position, window.shape[1] - 1)
    tokens = torch.arange(position - kept, position, device=window.device)
    return window[:, tokens % window.shape[1]]


def write_window(window: Tensor, position: int, states: Tensor) -> None:
    """Write keys or values `[Hkv, T, D]` of the tokens from `position` on to one slot's ring.

    T may exceed the window; the ring then has the last tokens.
    """
    end = position + states.shape[1]
    kept = min(states.shape[1], window.shape[1])
    tokens = torch.arange(end - kept, end, device=window.device)
    window[:, tokens % window.shape[1]] = states[:, states.shape[1] - kept :].to(window.dtype)


def _heads(projected: Tensor, cos: Tensor, sin: Tensor, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries `[B, Hkv, Hq / Hkv, D]`, and rotated keys and values, each `[B, Hkv, 1, D]`."""
    heads = projected.unflatten(-1, (-1, cos.shape[-1]))
    first, second = heads.chunk(2, dim=-1)
    rotated = heads * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]
    queries = rotated[:, : -2 * kv_heads].unflatten(1, (kv_heads, -1))
    return queries, rotated[:, -2 * kv_heads : -kv_heads, None], heads[:, -kv_heads:, None]


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from queries `[Hkv, G, D]` to keys and values `[Hkv, tokens, D]`; return `[Hkv·G·D]`."""
    scores = queries @ keys.to(queries.dtype).transpose(1, 2) * queries.shape[-1] ** -0.5
    mixed: Tensor = scores.softmax(-1) @ values.to(queries.dtype)
    return mixed.flatten()
