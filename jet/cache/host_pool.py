"""HostPool: copies in host memory of the snapshots that a StatePool has no room for.

Copies are asynchronous: they are queued behind the device's other work, and on CUDA the host memory is
pinned. Pinning is slow. So buffers are reused, and a worker thread allocates the next ones ahead; a snapshot
that needs more than are ready waits. Half of the memory is for pages of keys and values. Snapshots that share
pages on the device share their copies, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jet.cache.page_allocator import NULL_PAGE
from jet.cache.state_pool import StatePool

PAGES_AT_ONCE = 32  # pages in one allocation of pinned memory

log = logging.getLogger(__name__)


@dataclass(eq=False)
class HostPage:
    """A copy of one page of keys and values.

    Attributes:
        memory: the copy, laid out as `StatePool.page_view`.
        source: the number of the device page with the same content, and its version when it was copied.
        ref_count: the number of snapshots that share this copy.
    """

    memory: Tensor
    source: tuple[int, int]
    ref_count: int = 0


@dataclass(eq=False)
class HostSnapshot:
    """A snapshot in host memory: one tensor for each kind of state, and its pages of keys and values."""

    states: list[Tensor]
    pages: list[HostPage] = field(default_factory=list)


class HostPool:
    """Holds up to `limit` bytes of snapshots.

    Attributes:
        evict: frees one saved snapshot; returns False if there is none. Set by the owner of the cache.
    """

    def __init__(self, pool: StatePool, limit: int) -> None:
        self._pool = pool
        self.evict: Callable[[], bool] = lambda: False
        views, page = pool.state_views(pool.null_slot), pool.page_view(NULL_PAGE)
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
        """Return the bytes in use."""
        return self._state_buffers.nbytes + self._page_buffers.nbytes

    def close(self) -> None:
        """End the allocating thread, which uses tensors of the StatePool.

        Waits for the allocation that is under way.
        """
        self._worker.shutdown(cancel_futures=True)

    def save(self, slot: int) -> HostSnapshot | None:
        """Copy the snapshot in a slot to host memory, evicting other host snapshots if there is no room.

        Returns None if evicting makes too little room.
        """
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
        """Copy a slot's states and pages; return whether there was memory for all of them."""
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
        """Copy a saved snapshot into an empty live slot. Raises MemoryError if there are not enough pages."""
        numbers = self._pool.allocate_pages(slot, len(saved.pages))
        for page, number in zip(saved.pages, numbers, strict=True):
            _copy(page.memory, self._pool.page_view(number))
            del self._pages[page.source]
            page.source = number, self._pool.allocator.version[number]
            self._pages[page.source] = page
        for here, there in zip(saved.states, self._pool.state_views(slot), strict=True):
            _copy(here, there)

    def free(self, saved: HostSnapshot) -> None:
        """Free a saved snapshot; pages that it shares with others stay."""
        self._state_buffers.free(saved.states)
        for page in saved.pages:
            page.ref_count -= 1
            if not page.ref_count:
                del self._pages[page.source]
                self._page_buffers.free([page.memory])

    def _missing(self, sources: list[tuple[int, int]]) -> int:
        """Return how many of the device pages `sources`, each (page, version), have no host copy."""
        return sum(source not in self._pages for source in sources)

    def _page(self, source: tuple[int, int]) -> HostPage | None:
        """Return the host copy of a device page; create it if it is missing. None if memory is full."""
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
    """A pool of up to `capacity` host buffers, which `worker` allocates `batch` at a time.

    A buffer is a list with one tensor for each of `shapes`, of the same shape and dtype. It is pinned if
    `shapes` are on a CUDA device.
    """

    def __init__(self, shapes: list[Tensor], capacity: int, batch: int, worker: Executor) -> None:
        self._shapes, self.capacity, self._batch, self._worker = shapes, capacity, batch, worker
        self._allocated = 0
        self._free: list[list[Tensor]] = []
        self._pending: Future[list[list[Tensor]]] | None = None  # the worker's current allocation

    @property
    def available(self) -> int:
        """Return how many more buffers can be allocated."""
        return len(self._free) + self.capacity - self._allocated

    @property
    def nbytes(self) -> int:
        """Return the bytes of the buffers that are in use."""
        return (self._allocated - len(self._free)) * sum(one.nbytes for one in self._shapes)

    def allocate(self) -> list[Tensor] | None:
        """Take a buffer from the pool, waiting for its allocation if necessary; None if memory is full."""
        if not self._free:
            self._prefetch()
            self._await()
        taken = self._free.pop() if self._free else None
        if not self._free:
            self._prefetch()  # so that the next call need not wait
        return taken

    def free(self, tensors: list[Tensor]) -> None:
        """Give a buffer back to the pool."""
        self._free.append(tensors)

    def _prefetch(self) -> None:
        count = min(self._batch, self.capacity - self._allocated)
        if self._pending is None and count > 0:
            try:
                self._pending = self._worker.submit(_allocate, self._shapes, count)
            except RuntimeError:  # no thread can be started either
                self._stop_growing()

    def _await(self) -> None:
        """Wait for the allocation under way, if there is one."""
        if self._pending is None:
            return
        coming, self._pending = self._pending, None
        try:
            buffers = coming.result()
        except (MemoryError, RuntimeError):  # torch raises either
            self._stop_growing()
            return
        self._allocated += len(buffers)
        self._free += buffers

    def _stop_growing(self) -> None:
        log.warning("The host has no more memory for stories that are not being written.", exc_info=True)
        self.capacity = self._allocated


def _allocate(like: list[Tensor], count: int) -> list[list[Tensor]]:
    """Allocate `count` buffers, each with one tensor for each of `like`."""
    stacks = [_host_memory(count, one) for one in like]
    return list(map(list, zip(*(stack.unbind() for stack in stacks), strict=True)))


def _use_device(device: torch.device) -> None:
    """Select the CUDA device in the worker thread, so that pinning memory does not initialize another."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _host_memory(count: int, like: Tensor) -> Tensor:
    return torch.empty(count, *like.shape, dtype=like.dtype, pin_memory=like.device.type == "cuda")


def _copy(source: Tensor, target: Tensor) -> None:
    """Copy a tensor layer by layer: each layer is contiguous on both sides, so no temporary is needed."""
    for here, there in zip(source.unbind(), target.unbind(), strict=True):
        there.copy_(here, non_blocking=True)
