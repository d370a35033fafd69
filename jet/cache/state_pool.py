"""StatePool: preallocated state memory for many sequences, so that a step allocates nothing.

A sequence has a slot: an index into every layer's states. Full-attention layers keep keys and values in pages
that all slots share; one page table, the same for all layers, lists each slot's pages in order. Tensors never
move while the pool lives, as captured CUDA graphs require.

A live slot belongs to a running sequence. Any other slot in use holds a snapshot, from which later sequences
with the same prefix start. Snapshots and sequences share pages: a page with several references is copied
before it is written.

The slot after the requested ones is `null_slot`, which padding rows use; their page is `NULL_PAGE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from jet.cache.page_allocator import NULL_PAGE, PageAllocator
from jet.cache.pinned import release_memory, to_device, untouched_zeros
from jet.modeling.cache import (
    FullAttentionCache,
    HybridCache,
    JetLayerCache,
    WindowAttentionCache,
    _LayerCache,
)
from jet.modeling.config import JetNemotronConfig
from jet.ops.attention import gather_pages, gather_window, write_pages, write_window

PAGE_SIZE = 256  # tokens


@dataclass(frozen=True)
class JetState:
    """State of a jet layer.

    Attributes:
        recurrent: `[S, H, K, V]` float32, for S slots, H heads, K key and V value channels.
        conv: the convolution's last W inputs, `[S, D, W]` for D channels, newest last.
    """

    recurrent: Tensor
    conv: Tensor


@dataclass(frozen=True)
class WindowKV:
    """Keys and values of a window layer: rings `[S, Hkv, WINDOW, D]`, token t at `t % WINDOW`."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class PagedKV:
    """Keys and values of a full-attention layer: `pages` `[P, 2, Hkv, PAGE_SIZE, D]` (0 keys, 1 values)."""

    pages: Tensor


class StatePool:
    """Memory for up to `slots` sequences, whose full attention holds up to `tokens` tokens in all.

    Attributes:
        layers: the memory of each layer.
        page_table: `[slots + 1, max_pages]` int32, the numbers of each slot's pages in order.
        null_slot: the slot of padding rows.
        allocator: the reference counts of pages.
    """

    def __init__(
        self,
        config: JetNemotronConfig,
        slots: int,
        tokens: int,
        dtype: torch.dtype,
        device: torch.device | str,
        context: int | None = None,
        scratch: bool = False,
    ) -> None:
        """Allocate the memory of all slots and pages.

        Args:
            config: the network's configuration.
            slots: the number of slots, without `null_slot` and the scratch slot.
            tokens: the tokens that all pages together hold.
            dtype: the type of keys, values and convolution states.
            device: the device of all tensors.
            context: the most tokens of one sequence; None for the network's limit.
            scratch: whether to allocate one more slot, for `save_scratch` and `restore_scratch`.
        """
        assert config.layer_types is not None
        context = context or config.max_position_embeddings
        self._config = config
        self.null_slot = slots
        pages = -(-tokens // PAGE_SIZE)
        self._stacks = _LayerStacks(config, slots + 1 + scratch, 1 + pages, dtype, device)
        self.layers = self._stacks.layers(config.layer_types)
        table = slots + 1, -(-context // PAGE_SIZE)
        self.page_table = torch.full(table, NULL_PAGE, dtype=torch.int32, device=device)
        self.allocator = PageAllocator(pages)
        self._free_slots = list(range(slots))
        self._pages: dict[int, list[int]] = {}
        self._reserved_pages: dict[int, int] = {}  # of live slots, not allocated yet

    @property
    def free_tokens(self) -> int:
        """Return how many more tokens fit in free pages."""
        return self.allocator.free * PAGE_SIZE

    def allocate(self, reserved_pages: int = 0) -> int:
        """Allocate a slot for a new sequence and reserve pages for it.

        Raises MemoryError if no slot or too few pages are available.
        """
        if reserved_pages > self.allocator.available:
            raise MemoryError(
                f"There is memory for {self.allocator.available * PAGE_SIZE:,} more tokens now, and this "
                f"story needs {reserved_pages * PAGE_SIZE:,}: please wait until one of the others has ended."
            )
        slot = self._allocate_slot()
        if slot is None:
            raise MemoryError("All slots are in use: please wait until one of the other stories has ended.")
        self._pages[slot] = []
        self._reserved_pages[slot] = reserved_pages
        self.allocator.reserved_pages += reserved_pages
        self._stacks.clear(slot)
        return slot

    def free(self, slot: int) -> None:
        """Free a live slot and its pages."""
        self.allocator.unref(self._pages.pop(slot))
        self._drop_reservation(slot)
        self._free_slots.append(slot)

    def reserve(self, slot: int, tokens: int, start: int = 0) -> None:
        """Give a slot pages for its first `tokens` tokens, and make the tokens from `start` on writable.

        If the page that contains `start` is shared, the slot gets a copy of it. Raises MemoryError if there
        are not enough pages.
        """
        pages, needed = self._pages[slot], -(-tokens // PAGE_SIZE)
        if start % PAGE_SIZE and start < tokens:
            if self.allocator.is_shared(pages[start // PAGE_SIZE]):
                self._copy_on_write(slot, start // PAGE_SIZE)
            self.allocator.version[pages[start // PAGE_SIZE]] += 1
        missing = needed - len(pages)
        if missing <= 0:
            return
        room = self.allocator.available + self._reserved_pages[slot]
        if missing > room or needed > self.page_table.shape[1]:
            most = min(len(pages) + room, self.page_table.shape[1]) * PAGE_SIZE
            raise MemoryError(f"There is memory for {most:,} tokens of this story, and it needs {tokens:,}.")
        self._append_pages(slot, [self._allocate_page(slot) for _ in range(missing)])

    def snapshot(self, slot: int, length: int) -> int | None:
        """Copy the state of a live slot of `length` tokens to a new snapshot slot, and share its pages.

        Returns the snapshot slot; None if no slot is free and none can be evicted.
        """
        kept = self._allocate_slot()
        if kept is None:
            return None
        self._stacks.copy(slot, kept)
        self._pages[kept] = self._pages[slot][: -(-length // PAGE_SIZE)]
        self.allocator.ref_cached(self._pages[kept])
        return kept

    def mark(self, slot: int) -> int | None:
        """Copy the state of a live slot, without its pages, to a new snapshot slot.

        Returns the snapshot slot; None if no slot is free and none can be evicted. `return_to` copies the
        state back.
        """
        return self.snapshot(slot, 0)

    def is_mark(self, snapshot: int) -> bool:
        """Return whether a snapshot has no pages, so that it can only be copied back to its own slot."""
        return not self._pages[snapshot]

    def return_to(self, mark: int, slot: int, length: int) -> None:
        """Copy the state of a mark of `length` tokens back to its slot, whose pages still have these tokens.

        The slot gives up its later pages, since other sequences may share them by now. It keeps a reservation
        for as many pages as became available.
        """
        self._stacks.copy(mark, slot)
        pages, available = self._pages[slot], self.allocator.available
        kept = -(-length // PAGE_SIZE)
        self._pages[slot] = pages[:kept]
        self.allocator.unref(pages[kept:])
        freed = self.allocator.available - available
        self._reserved_pages[slot] += freed
        self.allocator.reserved_pages += freed

    def freeze(self, slot: int, length: int) -> None:
        """Turn a live slot into a snapshot of `length` tokens, without a copy."""
        pages = self._pages[slot]
        self._pages[slot] = pages[: -(-length // PAGE_SIZE)]
        self.allocator.ref_cached(self._pages[slot])
        self.allocator.unref(pages)
        self._drop_reservation(slot)

    def restore(self, snapshot: int, slot: int) -> None:
        """Copy a snapshot's state into an empty live slot, and share its pages."""
        assert not self._pages[slot]
        self._stacks.copy(snapshot, slot)
        self.allocator.ref(self._pages[snapshot])
        self._append_pages(slot, self._pages[snapshot])

    def free_snapshot(self, snapshot: int) -> None:
        """Free a snapshot slot."""
        self.allocator.unref_cached(self._pages.pop(snapshot))
        self._free_slots.append(snapshot)

    def release_free_slots(self) -> None:
        """On a CPU, return the memory of all free slots but one to the system; else do nothing."""
        for slot in self._free_slots[:-1]:
            release_memory(self._stacks.states(slot))

    def save_scratch(self, slot: int) -> None:
        """Copy a slot's states, without its pages, to the scratch slot."""
        self._stacks.copy(slot, self.null_slot + 1)

    def restore_scratch(self, slot: int) -> None:
        """Copy the states in the scratch slot back to a slot."""
        self._stacks.copy(self.null_slot + 1, slot)

    def ref_pages(self, snapshot: int) -> list[int]:
        """Add a live reference to each page of a snapshot, and return the pages.

        The caller must drop the references with `allocator.unref`.
        """
        pages = list(self._pages[snapshot])
        self.allocator.ref(pages)
        return pages

    def pages(self, slot: int) -> list[int]:
        """Return the pages of a slot, in order."""
        return list(self._pages[slot])

    def allocate_pages(self, slot: int, count: int) -> list[int]:
        """Allocate `count` pages for an empty live slot and return them.

        Raises MemoryError if there are not enough pages.
        """
        assert not self._pages[slot]
        self.reserve(slot, count * PAGE_SIZE)
        return self.pages(slot)

    def state_views(self, slot: int) -> list[Tensor]:
        """Return views of a slot's states, one tensor for each kind; the first dimension is layers."""
        return self._stacks.states(slot)

    def page_view(self, page: int) -> Tensor:
        """Return a view of a page; the first dimension is layers."""
        return self._stacks.page(page)

    def _allocate_slot(self) -> int | None:
        while not self._free_slots:
            if not self.allocator.evict():
                return None
        return self._free_slots.pop()

    def _allocate_page(self, slot: int) -> int:
        page = self.allocator.allocate()
        self._use_reservation(slot)
        return page

    def _use_reservation(self, slot: int) -> None:
        if self._reserved_pages[slot]:
            self._reserved_pages[slot] -= 1
            self.allocator.reserved_pages -= 1

    def _drop_reservation(self, slot: int) -> None:
        self.allocator.reserved_pages -= self._reserved_pages.pop(slot)

    def _copy_on_write(self, slot: int, index: int) -> None:
        """Replace the shared page at `index` of a slot's pages by a copy of its own.

        If another running sequence holds the original, the copy uses one of the slot's reserved pages.
        Otherwise it uses none, because the original became evictable. If making room evicts all other
        holders, the slot keeps the original. Raises MemoryError if no page can be freed.
        """
        page = self._pages[slot][index]
        try:
            own = self.allocator.allocate()
        except MemoryError:
            if self.allocator.is_shared(page):
                raise
            return  # the snapshot that shared the page was evicted
        self._stacks.copy_page(page, own)
        self.allocator.unref([page])
        if self.allocator.is_live(page):
            self._use_reservation(slot)
        self._pages[slot][index] = own
        self.page_table[slot, index] = own

    def _append_pages(self, slot: int, added: list[int]) -> None:
        pages = self._pages[slot]
        begin, end = len(pages), len(pages) + len(added)
        self.page_table[slot, begin:end] = to_device(added, torch.int32, self.page_table.device)
        pages += added

    def cache(self, slot: int, length: int) -> SlotCache:
        """Return the cache that the network's forward updates, for a slot of `length` tokens."""
        assert self._config.layer_types is not None
        return SlotCache([self._layer_cache(memory, slot, length) for memory in self.layers])

    def capturable_cache(self, slot: Tensor) -> SlotCache:
        """Return a cache whose jet layers read the slot's number from the tensor `slot` `[1]` at each call.

        So a captured graph can serve every slot. The other layers use `null_slot`.
        """
        layers = [
            _CapturableJetState(memory, slot)
            if isinstance(memory, JetState)
            else self._layer_cache(memory, self.null_slot, 0)
            for memory in self.layers
        ]
        return SlotCache(layers)

    def state_bytes(self, length: int) -> dict[str, int]:
        """Return the bytes of a sequence of `length` tokens, by kind: recurrent, conv, window_kv, full_kv."""
        return self._stacks.in_use(length)

    def nbytes(self) -> int:
        """Return the bytes of the whole pool."""
        return sum(tensor.nbytes for memory in self.layers for tensor in vars(memory).values())

    def _layer_cache(
        self, memory: JetState | WindowKV | PagedKV, slot: int, length: int
    ) -> _JetSlotState | _WindowSlot | _PageSlot:
        if isinstance(memory, JetState):
            return _JetSlotState(memory, slot, length)
        if isinstance(memory, WindowKV):
            return _WindowSlot(memory, slot, length)
        return _PageSlot(memory, self.page_table[slot], length)


class SlotCache(HybridCache):
    """One slot as the network's `past_key_values`; its tensors are views into the pool."""

    def __init__(self, layers: Sequence[_LayerCache]) -> None:
        Cache.__init__(self, layers=list(layers))

    def leave_inference_mode(self) -> None:
        """Do nothing: a pool is used in the mode that it was created in."""


class _JetSlotState(JetLayerCache):
    def __init__(self, memory: JetState, slot: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.recurrent_state, self.conv_state = (x[slot : slot + 1] for x in (memory.recurrent, memory.conv))

    def store(self, recurrent_state: Tensor, conv_state: Tensor, tokens: int) -> None:
        assert self.recurrent_state is not None and self.conv_state is not None
        self.recurrent_state.copy_(recurrent_state)
        self.conv_state.copy_(conv_state)
        self.length += tokens


class _CapturableJetState(JetLayerCache):
    tensor_names = ()

    def __init__(self, memory: JetState, slot: Tensor) -> None:
        super().__init__()
        self._memory, self._slot = memory, slot

    @property
    def recurrent_state(self) -> Tensor:  # type: ignore[override]
        return self._memory.recurrent.index_select(0, self._slot)

    @property
    def conv_state(self) -> Tensor:  # type: ignore[override]
        return self._memory.conv.index_select(0, self._slot)

    def store(self, recurrent_state: Tensor, conv_state: Tensor, tokens: int) -> None:
        self._memory.recurrent.index_copy_(0, self._slot, recurrent_state)
        self._memory.conv.index_copy_(0, self._slot, conv_state)


class _WindowSlot(WindowAttentionCache):
    def __init__(self, memory: WindowKV, slot: int, length: int) -> None:
        super().__init__(memory.keys.shape[2])
        self.length = length
        self._rings = memory.keys[slot], memory.values[slot]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return self._extend(0, key_states), self._extend(1, value_states, key_states.shape[2])

    def _extend(self, part: int, states: Tensor, moved: int = 0) -> Tensor:
        """Append states `[1, Hkv, T, D]` to a ring, and return all states that their tokens attend to.

        `part`: 0 for keys, 1 for values. `moved`: the number to add to `length` afterwards.
        """
        ring = self._rings[part]
        seen = torch.cat([gather_window(ring, self.length), states[0]], dim=1)
        write_window(ring, self.length, states[0])
        self.length += moved
        return seen[None]


class _PageSlot(FullAttentionCache):
    def __init__(self, memory: PagedKV, table_row: Tensor, length: int) -> None:
        super().__init__()
        self.length = length
        self._pages, self._table_row = memory.pages, table_row

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        write_pages(self._pages, self._table_row, self.length, key_states[0], value_states[0])
        self.length += key_states.shape[2]
        keys, values = gather_pages(self._pages, self._table_row, self.length)
        return keys[None], values[None]


class _LayerStacks:
    """The states of all layers, stacked by kind, so that copying a slot takes one call per tensor.

    Only recurrent and convolution states are initialized: windows and pages are written before they are read.
    """

    def __init__(
        self,
        config: JetNemotronConfig,
        slots: int,
        pages: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        layers = config.layer_types or []
        heads, dim = config.num_key_value_heads, config.head_dim

        def empty(kind: str, *shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(layers.count(kind), *shape, dtype=dtype, device=device)

        self._jet: tuple[Tensor, ...] = ()
        if "jet" in layers:
            jet = config.jet
            # Padding rows read the null slot, from which NaN would spread: it and the scratch slot are zeros.
            count, zeros = layers.count("jet"), partial(untouched_zeros, device=device)
            shape = count, slots, jet.num_heads, jet.head_dim, jet.head_v_dim
            self._jet = (
                zeros(*shape, dtype=torch.float32),
                zeros(count, slots, jet.value_dim, jet.conv_size, dtype=dtype),
            )
        window = config.sliding_window or 0
        self._windows = tuple(empty("swa", slots, heads, window, dim) for _ in range(2))
        self._pages = empty("attn", pages, 2, heads, PAGE_SIZE, dim)

    def layers(self, kinds: Sequence[str]) -> list[JetState | WindowKV | PagedKV]:
        """Return each layer's views, in the order of the layers."""
        jets = iter([JetState(*parts) for parts in zip(*self._jet, strict=True)])
        windows = iter([WindowKV(*parts) for parts in zip(*self._windows, strict=True)])
        pages = iter([PagedKV(part) for part in self._pages])
        made: dict[str, Iterator[JetState | WindowKV | PagedKV]] = {
            "jet": jets,
            "swa": windows,
            "attn": pages,
        }
        return [next(made[kind]) for kind in kinds]

    def in_use(self, length: int) -> dict[str, int]:
        """Return the bytes of a sequence of `length` tokens, by kind of state."""
        recurrent, conv = (stack[:, 0].nbytes for stack in self._jet) if self._jet else (0, 0)
        window = self._windows[0].shape[3]
        return {
            "recurrent": recurrent,
            "conv": conv,
            "window_kv": sum(stack[:, 0, :, :1].nbytes for stack in self._windows) * min(length, window),
            "full_kv": self._pages[:, 0, :, :, 0].nbytes * length,
        }

    def clear(self, slot: int) -> None:
        """Zero a slot's recurrent and convolution states, as for a sequence without tokens."""
        for stack in self._jet:
            stack[:, slot].zero_()

    def states(self, slot: int) -> list[Tensor]:
        """Return views of a slot's states, one tensor for each kind; the first dimension is layers."""
        return [stack[:, slot] for stack in (*self._jet, *self._windows)]

    def page(self, page: int) -> Tensor:
        """Return a view of a page's keys and values."""
        return self._pages[:, page]

    def copy(self, source: int, target: int) -> None:
        """Copy a slot's states to another slot."""
        for there, here in zip(self.states(target), self.states(source), strict=True):
            there.copy_(here)

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values to another page."""
        self.page(target).copy_(self.page(source))
