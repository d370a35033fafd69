"""Snapshots: stores states of sequences in the prefix cache, and restores sequences from it.

A snapshot that the device has no room for moves to host memory. When it is restored from there, it moves back
to the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from jet.cache.host_pool import HostPool, HostSnapshot
from jet.cache.pinned import to_host
from jet.cache.prefix_cache import CacheEntry, PrefixCache
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.sequence import Sequence, Snapshot
from jet.token_ids import Tokens

CacheHandle = tuple[CacheEntry[Snapshot], list[int]]  # a locked entry, and the pages that it shares

log = logging.getLogger(__name__)


class Snapshots:
    """The snapshots of one model runner's sequences. Use them on the runner's thread only.

    Attributes:
        cache: the prefix cache. Each snapshot is one of its entries.
    """

    def __init__(
        self,
        pool: StatePool,
        host_pool: HostPool,
        max_on_device: int,
        max_per_request: int,
        reset: Callable[[Sequence], None],
    ) -> None:
        """Create an empty prefix cache.

        Args:
            pool: holds the slots of sequences and snapshots.
            host_pool: holds the snapshots in host memory.
            max_on_device: most snapshots on the device.
            max_per_request: about the most snapshots of one request; see `PrefixCache.prune`.
            reset: empties a sequence that could not be restored.
        """
        self._pool, self._host_pool = pool, host_pool
        self._max_on_device, self._max_per_request = max_on_device, max_per_request
        self._reset = reset
        self.cache: PrefixCache[Snapshot] = PrefixCache(self._free, self._offload)
        pool.allocator.evict = self.cache.evict
        host_pool.evict = self.cache.evict_host

    def take(self, sequence: Sequence) -> None:
        """Copy a sequence's state to a snapshot in the prefix cache, if a slot is free.

        Does nothing for a sequence without a cache salt.
        """
        assert sequence.slot is not None
        if not sequence.cache_salt:
            return
        kept = self._pool.snapshot(sequence.slot, sequence.num_computed_tokens)
        if kept is not None:
            self.insert(sequence, Snapshot(kept, sequence.logits))

    def insert(self, sequence: Sequence, snapshot: Snapshot) -> None:
        """Insert a snapshot of a sequence's present state; evict others while there are more than allowed."""
        has_logits = snapshot.logits is not None
        self.cache.insert(
            CacheEntry(sequence.cache_salt, sequence.computed_tokens, snapshot, has_logits, sequence)
        )
        self.cache.prune(sequence, self._max_per_request)
        while len(self.cache) - self.cache.num_on_host > self._max_on_device:
            if not self.cache.evict():
                break
        sequence.last_snapshot = sequence.num_computed_tokens

    def restore(self, found: CacheEntry[Snapshot], sequence: Sequence) -> bool:
        """Restore a sequence from a cache entry; return False if that failed, after emptying the sequence."""
        assert sequence.slot is not None
        location = found.state.location
        if not isinstance(location, HostSnapshot):
            self._pool.restore(location, sequence.slot)
            return True
        found.lock_ref += 1
        try:
            self._host_pool.load(location, sequence.slot)
            self._load_back(found, sequence.slot)
        except Exception:
            log.warning("A cached state could not be restored; its prompt is prefilled again.", exc_info=True)
            self.cache.remove(found)
            self._reset(sequence)
            return False
        finally:
            found.lock_ref -= 1
        return True

    def _load_back(self, found: CacheEntry[Snapshot], slot: int) -> None:
        """Move an entry from the host back to the device, if there is room; `slot` has its state already."""
        kept = self._pool.snapshot(slot, len(found.tokens))
        if kept is not None:
            self.cache.load_back(found, Snapshot(kept, self.on_device(found.state.logits)))

    def on_device(self, logits: Tensor | None) -> Tensor | None:
        """Return a snapshot's logits on the device; None for None."""
        device = self._pool.page_table.device
        return None if logits is None else logits.to(device, non_blocking=True)

    def _offload(self, snapshot: Snapshot) -> Snapshot | None:
        """Copy a snapshot to host memory and return the copy.

        Returns None for a mark, which is not worth a copy, or if there is no room or the copy failed.
        """
        assert isinstance(snapshot.location, int)
        if self._pool.is_mark(snapshot.location):
            return None
        try:
            saved = self._host_pool.save(snapshot.location)
            logits = None if snapshot.logits is None else to_host(snapshot.logits)
            return None if saved is None else Snapshot(saved, logits)
        except Exception:
            log.warning("A state could not be offloaded; its text will be prefilled again.", exc_info=True)
            return None

    def _free(self, snapshot: Snapshot) -> None:
        if isinstance(snapshot.location, HostSnapshot):
            self._host_pool.free(snapshot.location)
        else:
            self._pool.free_snapshot(snapshot.location)

    def lock_prefix(self, cache_salt: str, prompt: Tokens) -> CacheHandle | None:
        """Lock the longest cached prefix of a prompt, so that the entry is not evicted before the prefill.

        Returns a handle for `unlock_prefix`; None if no prefix is cached.
        """
        found = self.cache.match_prefix(cache_salt, prompt) if cache_salt else None
        if found is None:
            return None
        found.lock_ref += 1
        location = found.state.location
        return found, [] if isinstance(location, HostSnapshot) else self._pool.ref_pages(location)

    def unlock_prefix(self, handle: CacheHandle | None) -> None:
        """Unlock the entry of a handle from `lock_prefix`; None does nothing."""
        if handle is not None:
            handle[0].lock_ref -= 1
            self._pool.allocator.unref(handle[1])


def pages_to_reserve(tokens: int, handle: CacheHandle | None) -> int:
    """Return how many pages to reserve for a sequence of `tokens` tokens that starts from a locked prefix.

    The full pages of the prefix are shared, except for an entry on the host. The prefix's last page is copied
    on write, so one more page is reserved. Returns 0 for 0 tokens.
    """
    if not tokens:
        return 0
    shared = 0 if handle is None or handle[0].on_host else len(handle[0].tokens) // PAGE_SIZE
    return -(-tokens // PAGE_SIZE) - shared + 1
