"""PrefixCache: which beginning of whose story is entry, so that nobody reads it again.

A entry state has read certain tokens of a certain user. A request starts from the longest one whose
tokens are the beginning of its own, all compared, none hashed. What one user wrote is never found by another:
whether a text had been read before would show in the time to the first token.

There are two tiers: what lies where it is used, and what had to make room there and was offloaded. In each
the least recently used goes first, from the first tier to the second and from there away. States in the midst
of a longer one go before all others and are not offloaded: they only make an edit cheaper, and a long story
has dozens.

What a state is, and what it costs, only its owner knows. Here stand their tokens, and the order in which they
were used.
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
    """A state that has read `tokens`.

    Attributes:
        has_logits: whether what comes next is known, so that not even the last token has to be read again.
        request: who has made it; states of a request that turned out to be broken can so be forgotten.
        lock_ref: how many need it just now; it stays where it is while there are any.
        on_host: whether it is in the second tier.
    """

    cache_salt: str
    tokens: Tokens
    state: State
    has_logits: bool
    request: object
    lock_ref: int = 0
    on_host: bool = False


class PrefixCache(Generic[State]):
    """CacheEntry states by user, and which of them was not used for longest."""

    def __init__(
        self,
        discard: Callable[[State], None],
        offload: Callable[[State], State | None] = lambda state: None,
    ) -> None:
        """`discard` frees what a state occupies; called for each that is let go, or lies elsewhere now.

        `offload` makes a copy for the second tier; None if there is no room even after `evict_offloaded`.
        """
        self._discard, self._offload = discard, offload
        self._by_salt: dict[str, list[CacheEntry[State]]] = {}  # each user's, the longest first
        self._by_request: dict[int, list[CacheEntry[State]]] = {}  # by the id of whoever has made them
        self._device_lru: OrderedDict[CacheEntry[State], None] = OrderedDict()  # the first tier, by use
        self._host_lru: OrderedDict[CacheEntry[State], None] = OrderedDict()  # the second

    def __len__(self) -> int:
        return len(self._device_lru) + len(self._host_lru)

    @property
    def num_on_host(self) -> int:
        """How many are in the second tier."""
        return len(self._host_lru)

    def match_prefix(
        self, cache_salt: str, tokens: Tokens, device_only: bool = False
    ) -> CacheEntry[State] | None:
        """The longest that a story of these tokens can start from; it then counts as used.

        `device_only`: only of those in the first tier.
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
        """Remember a state. One of the same user and tokens goes for it, unless it is needed just now."""
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
        """Let go of one in the midst of another, else offload one; False if none can go."""
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
        """Let go of the one in the second tier that was not used for longest; False if there is none."""
        entry = _first_free(self._host_lru)
        if entry is None:
            return False
        self.remove(entry)
        return True

    def load_back(self, entry: CacheEntry[State], state: State) -> None:
        """What was offloaded is in the first tier again, as this state."""
        self._move(entry, state, offloaded=False)

    def remove(self, entry: CacheEntry[State]) -> None:
        """Let go of a state; nothing happens if that has been done."""
        tier = self._tier(entry)
        if entry in tier:
            del tier[entry]
            _remove(self._by_salt, entry.cache_salt, entry)
            _remove(self._by_request, id(entry.request), entry)
            self._discard(entry.state)

    def remove_request(self, request: object) -> None:
        """Let go of all that a request has left."""
        for entry in self._entries_of(request):
            self.remove(entry)

    def prune(self, request: object, most: int) -> None:
        """Leave a request no more than so many states, the closer together the nearer they are to its end.

        Its longest one stays, and those whose next token is known.
        """
        mine = sorted(self._entries_of(request), key=lambda one: len(one.tokens))
        if len(mine) <= most:
            return
        lengths = [0, *(len(one.tokens) for one in mine)]

        def loss(place: int) -> float:
            """How far it would be to the state before, in relation to how far back that is."""
            return (lengths[place + 2] - lengths[place]) / (lengths[-1] - lengths[place + 1] + 1)

        free = [place for place, one in enumerate(mine[:-1]) if not one.has_logits and not one.lock_ref]
        if free:
            self.remove(mine[min(free, key=loss)])

    def _lru_interior(self) -> CacheEntry[State] | None:
        """Of those whose request has left a longer one, and whose next token nobody may want to draw again,
        the one in the first tier that was not used for longest.
        """
        free = (one for one in self._device_lru if not one.lock_ref and not one.has_logits)
        return next((one for one in free if len(one.tokens) < self._longest(one.request)), None)

    def _longest(self, request: object) -> int:
        return max(len(one.tokens) for one in self._entries_of(request))

    def _entries_of(self, request: object) -> list[CacheEntry[State]]:
        return list(self._by_request.get(id(request), ()))

    def _tier(self, entry: CacheEntry[State]) -> OrderedDict[CacheEntry[State], None]:
        return self._host_lru if entry.on_host else self._device_lru

    def _move(self, entry: CacheEntry[State], state: State, offloaded: bool) -> None:
        """To the other tier, where it counts as used just now."""
        del self._tier(entry)[entry]
        before, entry.state, entry.on_host = entry.state, state, offloaded
        self._tier(entry)[entry] = None
        self._discard(before)


def _remove(lists: dict[Key, list[CacheEntry[State]]], key: Key, entry: CacheEntry[State]) -> None:
    """Take it from its list, and away with a list that is empty."""
    lists[key].remove(entry)
    if not lists[key]:
        del lists[key]


def _first_free(tier: OrderedDict[CacheEntry[State], None]) -> CacheEntry[State] | None:
    return next((entry for entry in tier if not entry.lock_ref), None)
