"""Copy a slot's states and pages from a StatePool to separate tensors in host memory, and back.

Pages and windows are reused without being cleared, so places beyond a text's length may contain another
user's keys and values. Copies have zeros there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jet.cache.page_allocator import NULL_PAGE
from jet.cache.state_pool import PAGE_SIZE, StatePool, WindowKV


def copy_out(pool: StatePool, slot: int, length: int) -> list[Tensor]:
    """Return host copies of a slot of `length` tokens: its states, then its pages in order."""
    windows = {part.untyped_storage().data_ptr() for part in _window_tensors(pool)}
    copies = []
    for view in pool.state_views(slot):
        copy = _to_host(view)
        if view.untyped_storage().data_ptr() in windows:  # `[layers, heads, WINDOW, D]`
            copy[:, :, length:] = 0
        copies.append(copy)
    for number, page in enumerate(pool.pages(slot)):
        copy = _to_host(pool.page_view(page))  # `[layers, 2, heads, PAGE_SIZE, D]`
        copy[..., max(0, length - number * PAGE_SIZE) :, :] = 0
        copies.append(copy)
    return copies


def copies_like(pool: StatePool, length: int) -> list[Tensor]:
    """Return tensors on the device "meta" with the types and shapes of the result of `copy_out`."""
    page = pool.page_view(NULL_PAGE)
    views = [*pool.state_views(pool.null_slot), *([page] * -(-length // PAGE_SIZE))]
    return [torch.empty_like(view, device="meta") for view in views]


def copy_in(pool: StatePool, slot: int, copies: Sequence[Tensor]) -> None:
    """Fill an empty live slot with the copies that `copy_out` returned.

    Raises MemoryError if there are not enough pages.
    """
    views = pool.state_views(slot)
    pages = pool.allocate_pages(slot, len(copies) - len(views))
    for view, copy in zip([*views, *map(pool.page_view, pages)], copies, strict=True):
        view.copy_(copy)


def _to_host(view: Tensor) -> Tensor:
    return torch.empty(view.shape, dtype=view.dtype).copy_(view)


def _window_tensors(pool: StatePool) -> list[Tensor]:
    windows = [memory for memory in pool.layers if isinstance(memory, WindowKV)]
    return [part for memory in windows for part in (memory.keys, memory.values)]
