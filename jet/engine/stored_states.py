"""StoredStates: chooses which snapshots of the prefix cache go to disk, and loads them back.

Once a request has ended and the engine is idle, two of its snapshots are stored: the last one, from which
Continue resumes, and an earlier one, which still matches if the last words are edited. If the disk has a
longer matching snapshot than the cache, it is loaded into the cache before the request starts. Answers are
the same as without stored states.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import torch

from jet.cache.disk_store import DiskStore, StoredState, is_durable
from jet.cache.disk_store import StateFolder as StateFolder
from jet.cache.disk_store import durable_salt as durable_salt
from jet.cache.prefix_cache import CacheEntry, PrefixCache
from jet.cache.state_copy import copies_like, copy_in, copy_out
from jet.cache.state_pool import StatePool
from jet.engine.sequence import Sequence, Snapshot
from jet.token_ids import Tokens

BEFORE_END = 8  # tokens: as many as healing may take back
MAX_NOTED = 16  # requests whose snapshots wait to be stored; the oldest is dropped
MAX_QUEUED = 4  # copies that wait to be written

log = logging.getLogger(__name__)


def open_store(folder: StateFolder, identity: str) -> DiskStore | None:
    """Open a folder for the states of one model; None, with a warning, if it cannot be used."""
    try:
        return DiskStore(folder, identity)
    except OSError as error:
        log.warning(
            "The states of stories are not stored: %s cannot be used (%s). Stories are prefilled again after "
            "a restart. Name another folder with --state-dir.",
            folder.path,
            error.strerror or error,
        )
        return None


class StoredStates:
    """Stores and loads the snapshots of one model runner; without a store it does nothing.

    Used on the device thread only, except for `forget`.
    """

    def __init__(
        self, store: DiskStore | None, pool: StatePool, cache: PrefixCache[Snapshot], vocabulary: int
    ) -> None:
        self._store, self._pool, self._cache, self._vocabulary = store, pool, cache, vocabulary
        self._noted: deque[Sequence] = deque(maxlen=MAX_NOTED)
        self._forgotten: deque[str] = deque()

    def note(self, sequence: Sequence) -> None:
        """Remember a finished request, whose snapshots `store_next` will store."""
        if self._store is not None and is_durable(sequence.cache_salt):
            self._noted.append(sequence)

    def store_next(self) -> bool:
        """Copy the snapshots of one noted request for writing; return False if no request is noted."""
        self._drop_forgotten()
        if self._store is None:
            return False
        if not self._noted:
            self._pool.release_free_slots()
            return False
        sequence = self._noted.popleft()
        for entry in self._worth_storing(sequence):
            if self._store.queued < MAX_QUEUED:
                self._store_entry(self._store, entry)
        return True

    def load(self, cache_salt: str, prompt: Tokens) -> None:
        """Load the longest stored snapshot of a prompt into the cache, if the cache has none of this length.

        Does nothing if there is no memory for the snapshot now.
        """
        self._drop_forgotten()
        if self._store is None or not is_durable(cache_salt):
            return
        cached = self._cache.match_prefix(cache_salt, prompt)
        found = self._store.find(cache_salt, prompt, 0 if cached is None else len(cached.tokens))
        if found is None:
            return
        try:
            self._load(self._store, cache_salt, prompt[: found.length], found)
        except MemoryError:
            log.info("There is no memory for a stored state now: its text is prefilled.")

    def forget(self, cache_salt: str) -> None:
        """Remove a user's states from the disk now, and from memory before the next request."""
        self._forgotten.append(cache_salt)
        if self._store is not None:
            self._store.forget(cache_salt)

    def listen(self, on_change: Callable[[int], None]) -> None:
        """Call `on_change` with the number of bytes on disk whenever it changes, on a thread of the store."""
        if self._store is not None:
            self._store.on_change = on_change

    def close(self) -> None:
        """Store the snapshots of all noted requests, and wait until they are written."""
        while self.store_next():
            pass
        if self._store is not None:
            self._store.close()

    def _worth_storing(self, sequence: Sequence) -> list[CacheEntry[Snapshot]]:
        entries = [one for one in self._cache.entries_of(sequence) if not one.on_host]
        entries.sort(key=lambda one: -len(one.tokens))
        before = (one for one in entries[1:] if len(one.tokens) <= len(entries[0].tokens) - BEFORE_END)
        return [*entries[:1], *list(before)[:1]]

    def _store_entry(self, store: DiskStore, entry: CacheEntry[Snapshot]) -> None:
        location, logits = entry.state
        if not isinstance(location, int) or store.has(entry.cache_salt, entry.tokens, logits is not None):
            return
        try:
            copies = copy_out(self._pool, location, len(entry.tokens))
            kept = None if logits is None else logits.float().cpu().clone()
        except (MemoryError, RuntimeError):  # torch raises either
            log.warning("A story's state could not be copied to be stored.", exc_info=True)
            return
        store.save(entry.cache_salt, entry.tokens, copies, kept)

    def _load(self, store: DiskStore, cache_salt: str, tokens: Tokens, found: StoredState) -> None:
        logits = torch.empty(1, self._vocabulary, device="meta")
        tensors = store.read(found, copies_like(self._pool, found.length), logits)
        if tensors is None:
            return
        own = tensors.pop().to(self._pool.page_table.device) if found.has_logits else None
        slot = self._pool.allocate()
        try:
            copy_in(self._pool, slot, tensors)
        except BaseException:
            self._pool.free(slot)
            raise
        self._pool.freeze(slot, found.length)
        maker = object()  # it is of no request of this process
        self._cache.insert(CacheEntry(cache_salt, tokens.copy(), Snapshot(slot, own), own is not None, maker))

    def _drop_forgotten(self) -> None:
        while self._forgotten:
            cache_salt = self._forgotten.popleft()
            self._cache.remove_salt(cache_salt)
            for sequence in [one for one in self._noted if one.cache_salt == cache_salt]:
                self._noted.remove(sequence)
