"""HostStore: states of a SlotPool in the host's memory, while there is no room for them on the device.

Copies are queued behind what the device has been given to do, and nobody waits for them: on CUDA the memory
is pinned. It is allocated when it is first needed and then kept, since pinning takes long, and half of it is
for keys and values. States that share pages share their copies, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jet.modeling.slots import SlotPool

PAGES_AT_ONCE = 32  # that memory is allocated for

log = logging.getLogger(__name__)


@dataclass(eq=False)
class HostPage:
    """Keys and values of a page.

    Attributes:
        source: the page on the device that has the same content, and its version then.
        holders: how many states have it.
    """

    memory: Tensor
    source: tuple[int, int]
    holders: int = 0


@dataclass(eq=False)
class Saved:
    """A state in the host's memory: one tensor for each kind of memory, and pages."""

    states: list[Tensor]
    pages: list[HostPage] = field(default_factory=list)


class HostStore:
    """Up to `limit` bytes of states.

    Attributes:
        reclaim: drops one saved state; False if there is none. Set by whoever has them.
    """

    def __init__(self, pool: SlotPool, limit: int) -> None:
        self._pool = pool
        self.reclaim: Callable[[], bool] = lambda: False
        views, page = pool.state_views(pool.idle), pool.page_view(0)
        state_bytes = sum(view.nbytes for view in views)
        for_pages = limit // 2 if page.nbytes and state_bytes else limit
        self._states = _Supply(views, for_pages // max(1, state_bytes), 1)
        self._page_supply = _Supply([page], for_pages // max(1, page.nbytes), PAGES_AT_ONCE)
        self._pages: dict[tuple[int, int], HostPage] = {}  # by their source

    @property
    def nbytes(self) -> int:
        """Bytes that are in use."""
        return self._states.nbytes + self._page_supply.nbytes

    def save(self, slot: int) -> Saved | None:
        """A copy of a kept slot; others make room for it. None if that does not suffice."""
        sources = [(page, self._pool.ledger.version[page]) for page in self._pool.pages(slot)]
        if len(sources) > self._page_supply.most:
            return None
        while not self._states.room or self._page_supply.room < self._missing(sources):
            if not self._states.most or not self.reclaim():
                return None
        states = self._states.take()
        if states is None:
            return None
        saved = Saved(states)
        try:
            complete = self._fill(saved, sources, slot)
        except BaseException:
            self.drop(saved)
            raise
        if not complete:
            self.drop(saved)
        return saved if complete else None

    def _fill(self, saved: Saved, sources: list[tuple[int, int]], slot: int) -> bool:
        """Copy a slot's states and pages. Whether there was memory for all of them."""
        for source in sources:
            page = self._page(source)
            if page is None:
                return False
            page.holders += 1
            saved.pages.append(page)
        for here, there in zip(saved.states, self._pool.state_views(slot), strict=True):
            _copy(there, here)
        return True

    def load(self, saved: Saved, slot: int) -> None:
        """Into a live slot in which nothing has been read. Raises MemoryError if it cannot have the pages."""
        numbers = self._pool.receive(slot, len(saved.pages))
        for page, number in zip(saved.pages, numbers, strict=True):
            _copy(page.memory, self._pool.page_view(number))
            del self._pages[page.source]
            page.source = number, self._pool.ledger.version[number]
            self._pages[page.source] = page
        for here, there in zip(saved.states, self._pool.state_views(slot), strict=True):
            _copy(here, there)

    def drop(self, saved: Saved) -> None:
        """Free its memory for others."""
        self._states.give(saved.states)
        for page in saved.pages:
            page.holders -= 1
            if not page.holders:
                del self._pages[page.source]
                self._page_supply.give([page.memory])

    def _missing(self, sources: list[tuple[int, int]]) -> int:
        """How many pages have no copy here."""
        return sum(source not in self._pages for source in sources)

    def _page(self, source: tuple[int, int]) -> HostPage | None:
        """A page's copy: the one that is there, or a new one."""
        if source not in self._pages:
            memory = self._page_supply.take()
            if memory is None:
                return None
            try:
                _copy(self._pool.page_view(source[0]), memory[0])
            except BaseException:
                self._page_supply.give(memory)
                raise
            self._pages[source] = HostPage(memory[0], source)
        return self._pages[source]


class _Supply:
    """Memory for up to `most` things shaped like some tensors, allocated for so many at once."""

    def __init__(self, like: list[Tensor], most: int, at_once: int) -> None:
        self._like, self.most, self._at_once = like, most, at_once
        self._allocated = 0
        self._free: list[list[Tensor]] = []

    @property
    def room(self) -> int:
        """How many more there can be."""
        return len(self._free) + self.most - self._allocated

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return (self._allocated - len(self._free)) * sum(one.nbytes for one in self._like)

    def take(self) -> list[Tensor] | None:
        """Memory for one; None if there is none."""
        if not self._free and self._allocated < self.most:
            self._allocate(min(self._at_once, self.most - self._allocated))
        return self._free.pop() if self._free else None

    def give(self, tensors: list[Tensor]) -> None:
        """Take it back."""
        self._free.append(tensors)

    def _allocate(self, count: int) -> None:
        try:
            stacks = [_host_memory(count, like) for like in self._like]
        except (MemoryError, RuntimeError):  # torch says it in either way
            log.warning("The host has no more memory for stories that are not being written.", exc_info=True)
            self.most = self._allocated
            return
        self._allocated += count
        self._free += map(list, zip(*(stack.unbind() for stack in stacks), strict=True))


def to_host(tensor: Tensor) -> Tensor:
    """A copy in the host's memory, which is there once the device has come so far."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return copy.copy_(tensor, non_blocking=True)


def _host_memory(count: int, like: Tensor) -> Tensor:
    return torch.empty(count, *like.shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")


def _copy(source: Tensor, target: Tensor) -> None:
    """Layer by layer, since each lies in one piece on either side and need not be gathered first."""
    for here, there in zip(source.unbind(), target.unbind(), strict=True):
        there.copy_(here, non_blocking=True)
