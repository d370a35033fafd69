"""Test states that move to host memory and back: they return unchanged, and host memory is bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.cache import host_pool
from jet.cache import state_pool as slots_module
from jet.cache.host_pool import HostPool, HostSnapshot, PinnedBufferPool
from tests.cache.test_page_allocator import PAGE_SIZE, Story, Writer, act


@dataclass
class Offloaded:
    """A state in host memory, and the tokens that it must contain."""

    saved: HostSnapshot
    tokens: list[int]


class Offloader(Writer):
    """A pool whose kept states move to host memory when the device has no more room for them."""

    def __init__(self, slots: int, pages: int, states: int, host_pages: int) -> None:
        super().__init__(slots, pages)
        with mock.patch.object(slots_module, "PAGE_SIZE", PAGE_SIZE):
            self.store = HostPool(self.pool, 0)
        self.store._state_buffers.capacity, self.store._page_buffers.capacity = states, host_pages
        self.store.evict = self.drop
        self.offloaded: list[Offloaded] = []  # the longest unused first

    def reclaim(self) -> bool:
        if not self.kept:
            return False
        story = self.kept.pop(0)
        saved = self.store.save(story.slot)
        if saved is not None:
            self.offloaded.append(Offloaded(saved, story.tokens))
        self.pool.free_snapshot(story.slot)
        return True

    def drop(self) -> bool:
        if not self.offloaded:
            return False
        self.store.free(self.offloaded.pop(0).saved)
        return True

    def load(self, number: int) -> None:
        """Load an offloaded state into a new slot, as a request does."""
        offloaded = self.offloaded.pop(number)  # it must not be evicted now
        story = self.open(len(offloaded.tokens) + 2 * PAGE_SIZE)
        if story is not None:
            self.store.load(offloaded.saved, story.slot)
            story.tokens = list(offloaded.tokens)
        self.offloaded.append(offloaded)

    def check(self) -> None:
        super().check()
        supply = self.store._page_buffers
        held = {id(page) for one in self.offloaded for page in one.saved.pages}
        assert len(self.store._pages) == len(held) == supply._allocated - len(supply._free)
        assert (
            supply._allocated <= supply.capacity
            and self.store._state_buffers._allocated <= self.store._state_buffers.capacity
        )
        for one in self.offloaded:
            assert [int(states.flatten()[0]) for states in one.saved.states] == [one.tokens[-1]] * 4
            found = torch.cat([page.memory[0, 0, 0, :, 0] for page in one.saved.pages])
            assert found[: len(one.tokens)].tolist() == one.tokens


@pytest.fixture(autouse=True)
def few_pages_at_once() -> Iterator[None]:
    with mock.patch.object(host_pool, "PAGES_AT_ONCE", 2):
        yield


OFTEN = ["write", "evict", "load"]
KINDS = ["open", "write", "snapshot", "restore", "retain", "close", "evict", "load"]
BACKENDS = st.lists(
    st.tuples(
        st.sampled_from(KINDS + OFTEN),
        st.integers(0, 100),
        st.integers(1, 2 * PAGE_SIZE),
    ),
    min_size=15,
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(
    operations=BACKENDS,
    slots=st.integers(2, 6),
    pages=st.integers(6, 24),
    states=st.integers(0, 4),
    host_pages=st.integers(0, 12),
)
def test_what_comes_back_is_what_went(
    operations: list[tuple[str, int, int]], slots: int, pages: int, states: int, host_pages: int
) -> None:
    with mock.patch.object(slots_module, "PAGE_SIZE", PAGE_SIZE), torch.inference_mode():
        pool = Offloader(slots, pages, states, host_pages)
        for what, which, count in operations:
            if what == "open":
                pool.open(3 * count)
            elif what == "evict":
                pool.reclaim()
            elif what == "load":
                if pool.offloaded:
                    pool.load(which % len(pool.offloaded))
            elif what == "restore":
                if pool.kept:
                    pool.restore(pool.kept[which % len(pool.kept)])
            elif pool.live and (what in ("write", "close") or pool.live[which % len(pool.live)].tokens):
                act(pool, pool.live[which % len(pool.live)], what, count)
            pool.check()


def offloader(states: int = 4, host_pages: int = 8) -> tuple[Offloader, Story]:
    """Return a pool, and a story of two and a half pages in it."""
    pool = Offloader(8, 40, states, host_pages)
    story = pool.open(8 * PAGE_SIZE)
    assert story is not None
    pool.write(story, 2 * PAGE_SIZE + PAGE_SIZE // 2)
    return pool, story


@pytest.fixture
def pages_of_four() -> Iterator[None]:
    with mock.patch.object(slots_module, "PAGE_SIZE", PAGE_SIZE), torch.inference_mode():
        yield


@pytest.mark.usefixtures("pages_of_four")
def test_states_share_the_copies_of_pages_that_they_share() -> None:
    pool, story = offloader()
    for _ in range(3):
        pool.snapshot(story)
        pool.write(story, 1)
    while pool.reclaim():
        pass
    pool.check()
    assert len(pool.offloaded) == 3
    assert len(pool.store._pages) == 2 + 3, "the whole ones once, of the last one a copy each"
    assert pool.store.nbytes == pool.store._state_buffers.nbytes + 5 * pool.pool.page_view(0).nbytes


@pytest.mark.usefixtures("pages_of_four")
def test_a_snapshot_that_can_never_fit_evicts_nothing() -> None:
    pool, story = offloader(host_pages=3)
    pool.snapshot(story)
    pool.reclaim()
    pool.write(story, 2 * PAGE_SIZE)
    pool.snapshot(story)
    assert pool.store.save(pool.kept[0].slot) is None
    assert len(pool.offloaded) == 1


@pytest.mark.usefixtures("pages_of_four")
@pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("CUDA error: out of memory")])
def test_a_host_without_memory_keeps_what_it_has(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, story = offloader()
    pool.snapshot(story)
    pool.reclaim()
    allocate = host_pool._host_memory

    def full(count: int, like: torch.Tensor) -> torch.Tensor:
        if like.shape == pool.pool.page_view(0).shape:
            raise error
        return allocate(count, like)

    monkeypatch.setattr(host_pool, "_host_memory", full)
    pool.write(story, 3 * PAGE_SIZE)
    pool.snapshot(story)
    pool.reclaim()
    pool.check()
    assert len(pool.offloaded) <= 1 and not pool.kept
    pool.drop()
    assert pool.store.nbytes == 0, "nothing is lost of what had been allocated"


@pytest.mark.usefixtures("pages_of_four")
def test_a_limit_in_bytes_holds() -> None:
    pool, story = offloader()
    state = sum(view.nbytes for view in pool.pool.state_views(0))
    pool.store = HostPool(pool.pool, 2 * (2 * state + 100))
    pool.store.evict = pool.drop
    for _ in range(4):
        pool.snapshot(story)
        pool.write(story, 1)
    while pool.reclaim():
        assert pool.store.nbytes <= 2 * (2 * state + 100)
    assert len(pool.offloaded) == 2, "the latest ones"


def before_allocating(monkeypatch: pytest.MonkeyPatch, mine: torch.Tensor, act: Callable[[], None]) -> None:
    """Call `act` before each allocation of host memory for `mine`.

    The tensor is recognized by identity, because a store of another test may allocate at the same time.
    """
    allocate = host_pool._host_memory

    def watched(count: int, like: torch.Tensor) -> torch.Tensor:
        if like is mine:
            act()
        return allocate(count, like)

    monkeypatch.setattr(host_pool, "_host_memory", watched)


def test_memory_is_allocated_before_it_is_needed_and_by_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, threads = torch.zeros(3), list[int]()
    before_allocating(monkeypatch, mine, lambda: threads.append(threading.get_ident()))
    with ThreadPoolExecutor(1) as worker:
        supply = PinnedBufferPool([mine], 5, 2, worker)
        assert supply.available == 5
        for taken, allocated in enumerate([1, 2, 2, 3, 3], start=1):
            assert supply.allocate() is not None
            assert supply.available == 5 - taken and supply.nbytes == 12 * taken
            worker.submit(int).result()  # it has done what was ordered before
            assert len(threads) == allocated
        assert supply.allocate() is None and supply._allocated == 5
    assert threading.get_ident() not in threads


def test_memory_that_cannot_be_had_ahead_is_missed_only_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, asked = torch.zeros(3), count()

    def scarce() -> None:
        if next(asked):
            raise MemoryError

    before_allocating(monkeypatch, mine, scarce)
    with ThreadPoolExecutor(1) as worker:
        supply = PinnedBufferPool([mine], 5, 1, worker)
        first = supply.allocate()
        assert first is not None
        supply.free(first)
        assert supply.allocate() is first, "what is free comes before what was ordered"
        assert supply.allocate() is None and supply.capacity == 1 and supply.available == 0


def test_without_a_thread_there_is_no_more_memory_and_none_is_lost() -> None:
    worker = ThreadPoolExecutor(1)
    supply = PinnedBufferPool([torch.zeros(3)], 5, 2, worker)
    first = supply.allocate()
    assert first is not None
    worker.shutdown()
    second = supply.allocate()
    assert second is not None, "the order after the last one of the first two fails, and is not missed yet"
    assert supply.allocate() is None and supply.capacity == 2
    supply.free(first)
    supply.free(second)
    assert supply.nbytes == 0 and supply.available == 2


@pytest.mark.usefixtures("pages_of_four")
def test_a_closed_store_allocates_no_more() -> None:
    pool, story = offloader()
    pool.snapshot(story)
    pool.reclaim()
    pool.store.close()
    assert not any(thread.is_alive() for thread in pool.store._worker._threads)
