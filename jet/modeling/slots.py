"""SlotPool: preallocated memory for several sequences at once, so that a step never allocates any.

A sequence has a slot: its place in every layer's states. Full-attention layers keep keys and values in pages
that all slots share; which pages are a slot's, and in which order, stands in one table for all layers. The
tensors stay where they are for as long as the pool lives, as a captured CUDA graph needs.

One slot more than asked for, the last, is nobody's: what has nothing to do writes there. So is page 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from jet.modeling.cache import (
    FullAttentionCache,
    HybridCache,
    JetLayerCache,
    WindowAttentionCache,
    _LayerCache,
)
from jet.modeling.configuration import JetNemotronConfig
from jet.ops.attention import gather_pages, gather_window, write_pages, write_window

PAGE = 256  # tokens


@dataclass(frozen=True)
class JetMemory:
    """Of a jet layer: `recurrent` `[S, H, K, V]` float32, `conv` `[S, D, W]`, newest input last."""

    recurrent: Tensor
    conv: Tensor


@dataclass(frozen=True)
class WindowMemory:
    """Of a window layer: rings `[S, Hkv, WINDOW, D]`, token t at `t % WINDOW`."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class PageMemory:
    """Of a full-attention layer: `pages` `[P, 2, Hkv, PAGE, D]`, keys and values of 256 tokens each."""

    pages: Tensor


class SlotPool:
    """The memory of up to `slots` sequences, which together have up to `tokens` tokens in full attention.

    Attributes:
        layers: each layer's memory.
        table: `[slots + 1, pages]` int32, the pages of each slot.
        idle: the slot that is nobody's.
    """

    def __init__(
        self,
        config: JetNemotronConfig,
        slots: int,
        tokens: int,
        dtype: torch.dtype,
        device: torch.device | str,
        context: int | None = None,
    ) -> None:
        """`context`: most tokens of one sequence, by default the network's."""
        assert config.layer_types is not None
        context = context or config.max_position_embeddings
        self._config = config
        self.idle = slots
        pages = 1 + -(-tokens // PAGE)
        self.layers = [
            _make_memory(kind, config, slots + 1, pages, dtype, device) for kind in config.layer_types
        ]
        self.table = torch.zeros(slots + 1, -(-context // PAGE), dtype=torch.int32, device=device)
        self._free_slots = list(range(slots))
        self._free_pages = list(range(pages - 1, 0, -1))
        self._pages: dict[int, list[int]] = {}

    @property
    def free_tokens(self) -> int:
        """For how many more tokens there are pages."""
        return len(self._free_pages) * PAGE

    def open(self) -> int:
        """A slot for a new sequence. Raises MemoryError if all are taken."""
        if not self._free_slots:
            raise MemoryError("All places are taken: please wait until one of the other stories has ended.")
        slot = self._free_slots.pop()
        self._pages[slot] = []
        for memory in self.layers:
            if isinstance(memory, JetMemory):
                memory.recurrent[slot].zero_()
                memory.conv[slot].zero_()
        return slot

    def close(self, slot: int) -> None:
        """Take back a slot and its pages."""
        self._free_pages += self._pages.pop(slot)
        self._free_slots.append(slot)

    def reserve(self, slot: int, tokens: int) -> None:
        """Make sure that a sequence has pages for `tokens` tokens. Raises MemoryError if there are not."""
        pages = self._pages[slot]
        missing = -(-tokens // PAGE) - len(pages)
        if missing <= 0:
            return
        if missing > len(self._free_pages) or len(pages) + missing > self.table.shape[1]:
            most = min(len(pages) + len(self._free_pages), self.table.shape[1]) * PAGE
            raise MemoryError(f"There is memory for {most:,} tokens of this story, and it needs {tokens:,}.")
        added = [self._free_pages.pop() for _ in range(missing)]
        begin, end = len(pages), len(pages) + missing
        if missing == 1:  # the one page that a growing story needs: a fill does not wait for the device
            self.table[slot, begin] = added[0]
        else:
            self.table[slot, begin:end] = torch.tensor(added, dtype=torch.int32).to(self.table.device)
        pages += added

    def cache(self, slot: int, length: int) -> SlotCache:
        """A sequence of `length` tokens as the cache that the network's forward reads and writes."""
        assert self._config.layer_types is not None
        return SlotCache([self._layer_cache(memory, slot, length) for memory in self.layers])

    def jet_rows(self, slot: Tensor) -> SlotCache:
        """A cache whose jet layers are in the slot that a tensor `[1]` names when they are used.

        A captured graph then serves every slot. The other layers' parts are nobody's.
        """
        layers = [
            _JetRow(memory, slot)
            if isinstance(memory, JetMemory)
            else self._layer_cache(memory, self.idle, 0)
            for memory in self.layers
        ]
        return SlotCache(layers)

    def memory(self, slot: int, length: int) -> dict[str, int]:
        """Bytes in use by a sequence of `length` tokens, by kind: recurrent, conv, window_kv, full_kv."""
        sizes = {"recurrent": 0, "conv": 0, "window_kv": 0, "full_kv": 0}
        for memory in self.layers:
            if isinstance(memory, JetMemory):
                sizes["recurrent"] += memory.recurrent[slot].nbytes
                sizes["conv"] += memory.conv[slot].nbytes
            elif isinstance(memory, WindowMemory):
                sizes["window_kv"] += 2 * memory.keys[slot, :, :length].nbytes
            else:
                sizes["full_kv"] += memory.pages[0, :, :, 0].nbytes * length
        return sizes

    def nbytes(self) -> int:
        """Bytes of the whole pool."""
        return sum(tensor.nbytes for memory in self.layers for tensor in vars(memory).values())

    def _layer_cache(
        self, memory: JetMemory | WindowMemory | PageMemory, slot: int, length: int
    ) -> _JetSlot | _WindowSlot | _PageSlot:
        if isinstance(memory, JetMemory):
            return _JetSlot(memory, slot, length)
        if isinstance(memory, WindowMemory):
            return _WindowSlot(memory, slot, length)
        return _PageSlot(memory, self.table[slot], length)


class SlotCache(HybridCache):
    """One slot as `past_key_values` of the network; its tensors are the pool's."""

    def __init__(self, layers: Sequence[_LayerCache]) -> None:
        Cache.__init__(self, layers=list(layers))


class _JetSlot(JetLayerCache):
    def __init__(self, memory: JetMemory, slot: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.recurrent_state, self.conv_state = (x[slot : slot + 1] for x in (memory.recurrent, memory.conv))

    def store(self, recurrent_state: Tensor, conv_state: Tensor, tokens: int) -> None:
        assert self.recurrent_state is not None and self.conv_state is not None
        self.recurrent_state.copy_(recurrent_state)
        self.conv_state.copy_(conv_state)
        self.length += tokens


class _JetRow(JetLayerCache):
    tensor_names = ()

    def __init__(self, memory: JetMemory, slot: Tensor) -> None:
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
    def __init__(self, memory: WindowMemory, slot: int, length: int) -> None:
        super().__init__(memory.keys.shape[2])
        self.length = length
        self._rings = memory.keys[slot], memory.values[slot]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return self._extend(0, key_states), self._extend(1, value_states, key_states.shape[2])

    def _extend(self, part: int, states: Tensor, moved: int = 0) -> Tensor:
        """What these tokens may see; the ring then ends with them. `moved`: by how many to count on."""
        ring = self._rings[part]
        seen = torch.cat([gather_window(ring, self.length), states[0]], dim=1)
        write_window(ring, self.length, states[0])
        self.length += moved
        return seen[None]


class _PageSlot(FullAttentionCache):
    def __init__(self, memory: PageMemory, table_row: Tensor, length: int) -> None:
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


def _make_memory(
    kind: str,
    config: JetNemotronConfig,
    slots: int,
    pages: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> JetMemory | WindowMemory | PageMemory:
    """A layer's memory. Not initialised where nothing is read before it has been written."""
    heads, dim = config.num_key_value_heads, config.head_dim
    empty: Callable[..., Tensor] = torch.empty
    if kind == "jet":
        jet = config.jet
        state = empty(slots, jet.num_heads, jet.head_dim, jet.head_v_dim, dtype=torch.float32, device=device)
        conv = empty(slots, jet.value_dim, jet.conv_size, dtype=dtype, device=device)
        # The idle slot is read too, and numbers that are none would spread from it.
        state[-1].zero_()
        conv[-1].zero_()
        return JetMemory(state, conv)
    if kind == "swa":
        assert config.sliding_window is not None
        shape = (slots, heads, config.sliding_window, dim)
        return WindowMemory(*(empty(shape, dtype=dtype, device=device) for _ in range(2)))
    return PageMemory(empty(pages, 2, heads, PAGE, dim, dtype=dtype, device=device))
