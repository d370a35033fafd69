"""HostPool: states of a StatePool in the host's memory, while there is no room for them on the device.

Copies are queued behind what the device has been given to do, and nobody waits for them: on CUDA the memory
is pinned. As that takes long, what has been allocated is kept, and from the first time on a thread of the
store's own allocates one ahead: who needs several at once waits for the others. Half of it is for keys and
values. States that share pages share their copies, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jet.cache.state_pool import StatePool

PAGES_AT_ONCE = 32  # that memory is allocated for

log = logging.getLogger(__name__)


@dataclass(eq=False)
class HostPage:
    """Keys and values of a page.

    Attributes:
        source: the page on the device that has the same content, and its version then.
        ref_count: how many states have it.
    """

    memory: Tensor
    source: tuple[int, int]
    ref_count: int = 0


@dataclass(eq=False)
class HostSnapshot:
    """A state in the host's memory: one tensor for each kind of memory, and pages."""

    states: list[Tensor]
    pages: list[HostPage] = field(default_factory=list)


class HostPool:
    """Up to `limit` bytes of states.

    Attributes:
        evict: drops one saved state; False if there is none. Set by whoever has them.
    """

    def __init__(self, pool: StatePool, limit: int) -> None:
        self._pool = pool
        self.evict: Callable[[], bool] = lambda: False
        views, page = pool.state_views(pool.null_slot), pool.page_view(0)
        state_bytes = sum(view.nbytes for view in views)
        for_pages = limit // 2 if page.nbytes and state_bytes else limit
        self._worker = ThreadPoolExecutor(1, "jet-host-memory", _use_device, (page.device,))
        self._state_buffers = PinnedBufferPool(views, for_pages // max(1, state_bytes), 1, self._worker)
        self._page_buffers = PinnedBufferPool(
            [page], for_pages // max(1, page.nbytes), PAGES_AT_ONCE, self._worker
        )
        self._pages: dict[tuple[int, int], HostPage] = {}  # by their source

    @property
    def nbytes(self) -> int:
        """Bytes that are in use."""
        return self._state_buffers.nbytes + self._page_buffers.nbytes

    def close(self) -> None:
        """Allocate no more. Nothing of the pool is in use here afterwards."""
        self._worker.shutdown(cancel_futures=True)

    def save(self, slot: int) -> HostSnapshot | None:
        """A copy of a kept slot; others make room for it. None if that does not suffice."""
        sources = [(page, self._pool.allocator.version[page]) for page in self._pool.pages(slot)]
        if len(sources) > self._page_buffers.capacity:
            return None
        while not self._state_buffers.available or self._page_buffers.available < self._missing(sources):
            if not self._state_buffers.capacity or not self.evict():
                return None
        states = self._state_buffers.allocate()
        if states is None:
            return None
        saved = HostSnapshot(states)
        try:
            complete = self._fill(saved, sources, slot)
        except BaseException:
            self.free(saved)
            raise
        if not complete:
            self.free(saved)
        return saved if complete else None

    def _fill(self, saved: HostSnapshot, sources: list[tuple[int, int]], slot: int) -> bool:
        """Copy a slot's states and pages. Whether there was memory for all of them."""
        for source in sources:
            page = self._page(source)
            if page is None:
                return False
            page.ref_count += 1
            saved.pages.append(page)
        for here, there in zip(saved.states, self._pool.state_views(slot), strict=True):
            _copy(there, here)
        return True

    def load(self, saved: HostSnapshot, slot: int) -> None:
        """Into a live slot in which nothing has been read. Raises MemoryError if it cannot have the pages."""
        numbers = self._pool.allocate_pages(slot, len(saved.pages))
        for page, number in zip(saved.pages, numbers, strict=True):
            _copy(page.memory, self._pool.page_view(number))
            del self._pages[page.source]
            page.source = number, self._pool.allocator.version[number]
            self._pages[page.source] = page
        for here, there in zip(saved.states, self._pool.state_views(slot), strict=True):
            _copy(here, there)

    def free(self, saved: HostSnapshot) -> None:
        """Free its memory for others."""
        self._state_buffers.free(saved.states)
        for page in saved.pages:
            page.ref_count -= 1
            if not page.ref_count:
                del self._pages[page.source]
                self._page_buffers.free([page.memory])

    def _missing(self, sources: list[tuple[int, int]]) -> int:
        """How many pages have no copy here."""
        return sum(source not in self._pages for source in sources)

    def _page(self, source: tuple[int, int]) -> HostPage | None:
        """A page's copy: the one that is there, or a new one."""
        if source not in self._pages:
            memory = self._page_buffers.allocate()
            if memory is None:
                return None
            try:
                _copy(self._pool.page_view(source[0]), memory[0])
            except BaseException:
                self._page_buffers.free(memory)
                raise
            self._pages[source] = HostPage(memory[0], source)
        return self._pages[source]


class PinnedBufferPool:
    """Memory for up to `most` things shaped like some tensors, allocated by `worker` for so many at once."""

    def __init__(self, shapes: list[Tensor], capacity: int, batch: int, worker: Executor) -> None:
        self._shapes, self.capacity, self._batch, self._worker = shapes, capacity, batch, worker
        self._allocated = 0
        self._free: list[list[Tensor]] = []
        self._pending: Future[list[list[Tensor]]] | None = None  # what the worker allocates, or has

    @property
    def available(self) -> int:
        """How many more there can be."""
        return len(self._free) + self.capacity - self._allocated

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return (self._allocated - len(self._free)) * sum(one.nbytes for one in self._shapes)

    def allocate(self) -> list[Tensor] | None:
        """Memory for one; None if there is none."""
        if not self._free:
            self._prefetch()
            self._await()
        taken = self._free.pop() if self._free else None
        if not self._free:
            self._prefetch()  # for the next one, who need not wait then
        return taken

    def free(self, tensors: list[Tensor]) -> None:
        """Take it back."""
        self._free.append(tensors)

    def _prefetch(self) -> None:
        count = min(self._batch, self.capacity - self._allocated)
        if self._pending is None and count > 0:
            try:
                self._pending = self._worker.submit(_allocate, self._shapes, count)
            except RuntimeError:  # there is no thread to be had either
                self._stop_growing()

    def _await(self) -> None:
        """Wait for what was ordered, if anything was."""
        if self._pending is None:
            return
        coming, self._pending = self._pending, None
        try:
            things = coming.result()
        except (MemoryError, RuntimeError):  # torch says it in either way
            self._stop_growing()
            return
        self._allocated += len(things)
        self._free += things

    def _stop_growing(self) -> None:
        log.warning("The host has no more memory for stories that are not being written.", exc_info=True)
        self.capacity = self._allocated


def _allocate(like: list[Tensor], count: int) -> list[list[Tensor]]:
    """Memory for so many things, each of a tensor for each of `like`."""
    stacks = [_host_memory(count, one) for one in like]
    return list(map(list, zip(*(stack.unbind() for stack in stacks), strict=True)))


def _use_device(device: torch.device) -> None:
    """In a new thread: what it pins is pinned for this device, and no other is woken for it."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _host_memory(count: int, like: Tensor) -> Tensor:
    return torch.empty(count, *like.shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")


def _copy(source: Tensor, target: Tensor) -> None:
    """Layer by layer, since each lies in one piece on either side and need not be gathered first."""
    for here, there in zip(source.unbind(), target.unbind(), strict=True):
        there.copy_(here, non_blocking=True)
