"""Test slots that share pages against plain lists of tokens: none ever sees another's writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.cache import state_pool as slots_module
from jet.cache.page_allocator import PageAllocator
from jet.cache.state_pool import PagedKV, StatePool
from tests.networks import small_config

PAGE_SIZE = 4
CONFIG = small_config(num_hidden_layers=3, layer_types=["jet", "swa", "attn"])


@dataclass
class Story:
    """A live or kept sequence, and the tokens that its memory must contain."""

    slot: int
    promise: int = 0
    tokens: list[int] = field(default_factory=list)


class Writer:
    """A pool in which each token is written as its own number, into the memory of every layer."""

    def __init__(self, slots: int, pages: int) -> None:
        with mock.patch.object(slots_module, "PAGE_SIZE", PAGE_SIZE):
            self.pool = StatePool(CONFIG, slots, pages * PAGE_SIZE, torch.float32, "cpu", 10 * PAGE_SIZE)
        self.live: list[Story] = []
        self.kept: list[Story] = []  # the longest unused first
        self.pinned = 0
        self.number = 0
        self.pool.allocator.evict = self.reclaim

    def reclaim(self) -> bool:
        if not self.kept:
            return False
        self.pool.free_snapshot(self.kept.pop(0).slot)
        return True

    def open(self, tokens: int, shared: int = 0) -> Story | None:
        promise = -(-tokens // PAGE_SIZE) - shared + 1
        try:
            story = Story(self.pool.allocate(promise), tokens)
        except MemoryError:
            enough = promise <= self.pool.allocator.available
            assert not enough or len(self.live) + self.pinned == self.pool.null_slot
            return None
        self.live.append(story)
        return story

    def write(self, story: Story, count: int) -> None:
        start = len(story.tokens)
        self.pool.reserve(story.slot, start + count, start)
        for place in range(start, start + count):
            self.number += 1
            story.tokens.append(self.number)
            for memory in self.pool.layers:
                if isinstance(memory, PagedKV):
                    page = int(self.pool.page_table[story.slot, place // PAGE_SIZE])
                    memory.pages[page, :, :, place % PAGE_SIZE] = self.number
                else:
                    for tensor in vars(memory).values():
                        tensor[story.slot] = self.number  # as a recurrent state: of the last token

    def snapshot(self, story: Story) -> None:
        kept = self.pool.snapshot(story.slot, len(story.tokens))
        if kept is not None:
            self.kept.append(Story(kept, tokens=list(story.tokens)))

    def retain(self, story: Story) -> None:
        self.live.remove(story)
        self.pool.freeze(story.slot, len(story.tokens))
        self.kept.append(story)

    def restore(self, kept: Story) -> None:
        """Restore a kept story as a request does: claim its pages, open a slot, copy, release the claim."""
        pages = self.pool.ref_pages(kept.slot)
        self.kept.remove(kept)
        self.pinned = 1
        story = self.open(len(kept.tokens) + 2 * PAGE_SIZE, shared=len(kept.tokens) // PAGE_SIZE)
        self.kept.append(kept)
        self.pinned = 0
        if story is not None:
            self.pool.restore(kept.slot, story.slot)
            story.tokens = list(kept.tokens)
        self.pool.allocator.unref(pages)

    def check(self) -> None:
        ledger = self.pool.allocator
        for story in [*self.live, *self.kept]:
            self.check_story(story)
        used = {page for story in [*self.live, *self.kept] for page in self.pool._pages[story.slot]}
        assert ledger.free + len(used) == ledger._count, "no page is lost"
        live = {page for story in self.live for page in self.pool._pages[story.slot]}
        assert ledger.available == ledger.free + len(used - live) - ledger.reserved_pages
        assert ledger.available >= 0, "what was promised is there"
        slots = [story.slot for story in [*self.live, *self.kept]]
        assert (
            len(set(slots)) == len(slots) and len(slots) + len(self.pool._free_slots) == self.pool.null_slot
        )

    def check_story(self, story: Story) -> None:
        pages = self.pool._pages[story.slot]
        for memory in self.pool.layers:
            if isinstance(memory, PagedKV):
                found = [
                    int(memory.pages[pages[place // PAGE_SIZE], 0, 0, place % PAGE_SIZE, 0])
                    for place in range(len(story.tokens))
                ]
                assert found == story.tokens
            elif story.tokens:
                for tensor in vars(memory).values():
                    assert (tensor[story.slot] == story.tokens[-1]).all()


BACKENDS = st.lists(
    st.tuples(
        st.sampled_from(["open", "write", "write", "snapshot", "restore", "restore", "retain", "close"]),
        st.integers(0, 100),
        st.integers(1, 2 * PAGE_SIZE),
    ),
    min_size=15,
    max_size=50,
)


@settings(deadline=None, max_examples=200)
@given(operations=BACKENDS, slots=st.integers(2, 6), pages=st.integers(6, 24))
def test_shared_pages_are_never_written_over_and_promises_are_kept(
    operations: list[tuple[str, int, int]], slots: int, pages: int
) -> None:
    with mock.patch.object(slots_module, "PAGE_SIZE", PAGE_SIZE), torch.inference_mode():
        writer = Writer(slots, pages)
        for what, which, count in operations:
            if what == "open":
                writer.open(3 * count)
            elif what == "restore" and writer.kept:
                writer.restore(writer.kept[which % len(writer.kept)])
            elif writer.live and what not in ("open", "restore"):
                story = writer.live[which % len(writer.live)]
                act(writer, story, what, count)
            writer.check()


def act(writer: Writer, story: Story, what: str, count: int) -> None:
    if what == "write":
        # Reserved pages are always available, and no more are needed.
        writer.write(story, min(count, story.promise - len(story.tokens)))
    elif what == "snapshot":
        writer.snapshot(story)
    elif what == "retain":
        writer.retain(story)
    else:
        writer.live.remove(story)
        writer.pool.free(story.slot)


def test_a_full_ledger_says_so() -> None:
    ledger = PageAllocator(2)
    pages = [ledger.allocate(), ledger.allocate()]
    with pytest.raises(MemoryError):
        ledger.allocate()
    ledger.unref(pages)
    assert ledger.free == ledger.available == 2


def test_branches_share_all_pages_but_the_one_they_write_to() -> None:
    with mock.patch.object(slots_module, "PAGE_SIZE", PAGE_SIZE), torch.inference_mode():
        writer = Writer(8, 40)
        story = writer.open(5 * PAGE_SIZE)
        assert story is not None
        writer.write(story, 4 * PAGE_SIZE + 1)
        writer.snapshot(story)
        free = writer.pool.allocator.free
        for _ in range(3):
            writer.restore(writer.kept[0])
        assert writer.pool.allocator.free == free
        for branch in writer.live[1:]:
            writer.write(branch, 1)
        assert writer.pool.allocator.free == free - 3
        writer.check()
