"""PrefixCache: finds snapshots of prefixes that were computed before, so that no prefix is prefilled twice.

An entry is a state after certain tokens of one user. A request starts from the longest entry whose tokens are
a prefix of its prompt; tokens are compared, not hashed. Entries are isolated by `cache_salt`. Otherwise a
short time to first token would tell one user that another had sent the same text.

There are two tiers, device and host. Each evicts its least recently used entry: the device tier moves it to
the host, the host tier removes it. Interior entries are prefixes of a longer entry of the same request. They
are evicted before all others and never offloaded: they only make an edit cheaper, and a long story has
dozens.

The cache knows tokens and recency only; states are opaque to it, and their owner frees and copies them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from jet.token_ids import Tokens

State = TypeVar("State")
Key = TypeVar("Key")


@dataclass(eq=False)
class CacheEntry(Generic[State]):
    """A state after certain tokens of one user.

    Attributes:
        cache_salt: identifies the user; only requests with the same salt can start from the entry.
        tokens: the tokens after which the state was taken.
        state: the state, which only its owner interprets.
        has_logits: whether the logits of the next token are stored, so that no token has to be recomputed.
        request: the request that made the entry. If it fails, its entries are removed.
        lock_ref: how many requests are about to use the entry; a locked entry is neither evicted nor moved.
        on_host: whether the entry is in the host tier.
    """

    cache_salt: str
    tokens: Tokens
    state: State
    has_logits: bool
    request: object
    lock_ref: int = 0
    on_host: bool = False


class PrefixCache(Generic[State]):
    """Entries by user, in two tiers ordered by last use."""

    def __init__(
        self,
        discard: Callable[[State], None],
        offload: Callable[[State], State | None] = lambda state: None,
    ) -> None:
        """Create an empty cache.

        Args:
            discard: frees a state's memory; called for each state that is removed or was copied to the other
                tier.
            offload: copies a state to the host; returns None if `evict_host` cannot make enough room.
        """
        self._discard, self._offload = discard, offload
        self._by_salt: dict[str, list[CacheEntry[State]]] = {}  # longest first
        self._by_request: dict[int, list[CacheEntry[State]]] = {}  # by id(request)
        self._device_lru: OrderedDict[CacheEntry[State], None] = OrderedDict()  # least recently used first
        self._host_lru: OrderedDict[CacheEntry[State], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._device_lru) + len(self._host_lru)

    @property
    def num_on_host(self) -> int:
        """Return the number of entries in the host tier."""
        return len(self._host_lru)

    def match_prefix(
        self, cache_salt: str, tokens: Tokens, device_only: bool = False
    ) -> CacheEntry[State] | None:
        """Return the longest entry that a prompt of these tokens can start from, and mark it as used.

        Returns None if there is none. An entry as long as the prompt matches only if it has logits. With
        `device_only`, entries in the host tier are skipped.
        """
        for entry in self._by_salt.get(cache_salt, ()):
            length = len(entry.tokens)
            left = len(tokens) - length
            enough = left > 0 or (left == 0 and entry.has_logits)
            able = enough and not (device_only and entry.on_host)
            if able and np.array_equal(entry.tokens, tokens[:length]):
                self._tier(entry).move_to_end(entry)
                return entry
        return None

    def insert(self, entry: CacheEntry[State]) -> None:
        """Add an entry. It replaces unlocked entries of the same user and tokens."""
        same = [
            other
            for other in self._by_salt.get(entry.cache_salt, ())
            if not other.lock_ref and np.array_equal(other.tokens, entry.tokens)
        ]
        for other in same:
            self.remove(other)
        mine = self._by_salt.setdefault(entry.cache_salt, [])
        mine.append(entry)
        mine.sort(key=lambda one: -len(one.tokens))
        self._by_request.setdefault(id(entry.request), []).append(entry)
        self._device_lru[entry] = None

    def evict(self) -> bool:
        """Make room in the device tier; return False if all its entries are locked.

        Removes the least recently used interior entry. If there is none, offloads the least recently used
        entry, or removes it if the host has no room.
        """
        interior = self._lru_interior()
        if interior is not None:
            self.remove(interior)
            return True
        entry = _first_free(self._device_lru)
        if entry is None:
            return False
        copy = self._offload(entry.state)
        if copy is None:
            self.remove(entry)
        else:
            self._move(entry, copy, offloaded=True)
        return True

    def evict_host(self) -> bool:
        """Remove the least recently used host entry; return False if all are locked or there is none."""
        entry = _first_free(self._host_lru)
        if entry is None:
            return False
        self.remove(entry)
        return True

    def has(self, entry: CacheEntry[State]) -> bool:
        """Return whether an entry is still here, in either tier."""
        return entry in self._tier(entry)

    def load_back(self, entry: CacheEntry[State], state: State) -> None:
        """Move an offloaded entry back to the device tier, with `state` as its copy there."""
        self._move(entry, state, offloaded=False)

    def remove(self, entry: CacheEntry[State]) -> None:
        """Remove an entry and discard its state; does nothing if it has been removed."""
        tier = self._tier(entry)
        if entry in tier:
            del tier[entry]
            _remove(self._by_salt, entry.cache_salt, entry)
            _remove(self._by_request, id(entry.request), entry)
            self._discard(entry.state)

    def remove_request(self, request: object) -> None:
        """Remove all entries that a request has made."""
        for entry in self.entries_of(request):
            self.remove(entry)

    def remove_salt(self, cache_salt: str) -> None:
        """Remove all unlocked entries of a user."""
        for entry in list(self._by_salt.get(cache_salt, ())):
            if not entry.lock_ref:
                self.remove(entry)

    def entries_of(self, request: object) -> list[CacheEntry[State]]:
        """Return the entries in either tier that a request has made."""
        return list(self._by_request.get(id(request), ()))

    def remove_longer(self, request: object, length: int) -> int:
        """Remove a request's entries of more than `length` tokens.

        Returns the number of tokens of the request's longest remaining entry; 0 if none remains.
        """
        for entry in self.entries_of(request):
            if len(entry.tokens) > length:
                self.remove(entry)
        return max((len(entry.tokens) for entry in self.entries_of(request)), default=0)

    def prune(self, request: object, most: int) -> None:
        """If a request has more than `most` entries, remove one of them.

        The choice makes entries denser toward the end of the text. The longest entry, entries with logits and
        locked entries stay.
        """
        mine = sorted(self.entries_of(request), key=lambda one: len(one.tokens))
        if len(mine) <= most:
            return
        lengths = [0, *(len(one.tokens) for one in mine)]

        def loss(index: int) -> float:
            """Return the gap that removing an entry leaves, relative to its distance from the end."""
            return (lengths[index + 2] - lengths[index]) / (lengths[-1] - lengths[index + 1] + 1)

        free = [index for index, one in enumerate(mine[:-1]) if not one.has_logits and not one.lock_ref]
        if free:
            self.remove(mine[min(free, key=loss)])

    def _lru_interior(self) -> CacheEntry[State] | None:
        """Return the least recently used unlocked interior entry in the device tier; None if there is none.

        An interior entry is shorter than another entry of its request and has no logits.
        """
        free = (one for one in self._device_lru if not one.lock_ref and not one.has_logits)
        return next((one for one in free if len(one.tokens) < self._longest(one.request)), None)

    def _longest(self, request: object) -> int:
        return max(len(one.tokens) for one in self.entries_of(request))

    def _tier(self, entry: CacheEntry[State]) -> OrderedDict[CacheEntry[State], None]:
        return self._host_lru if entry.on_host else self._device_lru

    def _move(self, entry: CacheEntry[State], state: State, offloaded: bool) -> None:
        """Move an entry to the other tier, as the most recently used entry there.

        `state`: the entry's copy in the other tier. The previous state is discarded.
        """
        del self._tier(entry)[entry]
        before, entry.state, entry.on_host = entry.state, state, offloaded
        self._tier(entry)[entry] = None
        self._discard(before)


def _remove(lists: dict[Key, list[CacheEntry[State]]], key: Key, entry: CacheEntry[State]) -> None:
    """Remove an entry from its list, and the list once it is empty."""
    lists[key].remove(entry)
    if not lists[key]:
        del lists[key]


def _first_free(tier: OrderedDict[CacheEntry[State], None]) -> CacheEntry[State] | None:
    return next((entry for entry in tier if not entry.lock_ref), None)
