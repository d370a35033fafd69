"""Compare PrefixCache with plain lists, under random sequences of operations."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jet.cache.prefix_cache import CacheEntry, PrefixCache
from jet.token_ids import Tokens

STORIES = st.lists(st.integers(0, 1), max_size=6)  # alike enough to share beginnings
USERS = st.sampled_from(["ann", "bob"])
BACKENDS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("find"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("pin"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("evict"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("return"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("fail"), USERS, STORIES, st.booleans()),
    ),
    max_size=60,
)


def ids(*tokens: int) -> Tokens:
    return np.array(tokens, np.int32)


@given(operations=BACKENDS, room=st.integers(0, 3))
def test_the_longest_beginning_of_the_users_own_is_found_and_the_least_recently_used_goes(
    operations: list[tuple[str, str, list[int], bool]], room: int
) -> None:
    """Evict entries to the second tier, which has room for a few, and from there out of the cache."""
    model = Model(room)
    for number, (what, user, story, flag) in enumerate(operations):
        if what == "keep":
            model.keep(user, story, flag, number)
        elif what in ("find", "pin"):
            model.find(user, story, near=flag and what == "find", pin=flag and what == "pin")
        elif what == "evict":
            model.evict()
        elif what == "return":
            model.bring_back(user, story)
        else:
            model.fail(number % 3)
        model.check()


class Model:
    """A PrefixCache, and two plain lists of what its tiers must contain, least recently used first.

    The state of an entry is a number; its copy in the second tier is that number plus 1000.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.made: list[int] = []
        self.discarded: list[int] = []
        self.near: list[CacheEntry[int]] = []
        self.far: list[CacheEntry[int]] = []
        self.sessions: PrefixCache[int] = PrefixCache(self.discarded.append, self.offload)

    def offload(self, state: int) -> int | None:
        while len(self.far) >= self.room:
            free = [r for r in self.far if not r.lock_ref]
            assert self.sessions.evict_host() == bool(free)
            if not free:
                return None
            self.far.remove(free[0])
        self.made.append(state + 1000)
        return state + 1000

    def keep(self, user: str, story: list[int], complete: bool, number: int) -> None:
        self.near, self.far = (
            [r for r in tier if r.cache_salt != user or r.tokens.tolist() != story or r.lock_ref]
            for tier in (self.near, self.far)
        )
        resident = CacheEntry(user, ids(*story), number, complete, request=number % 3)
        self.sessions.insert(resident)
        self.made.append(number)
        self.near.append(resident)

    def find(self, user: str, story: list[int], near: bool, pin: bool) -> CacheEntry[int] | None:
        found = self.sessions.match_prefix(user, ids(*story), near)
        tiers = [self.near] if near else [self.near, self.far]
        able = [r for tier in tiers for r in tier if r.cache_salt == user and starts(r, story)]
        assert (found is None) == (not able)
        if found is not None:
            assert found in able and len(found.tokens) == max(len(r.tokens) for r in able)
            tier = self.far if found.on_host else self.near
            tier.remove(found)
            tier.append(found)
            found.lock_ref += pin
        return found

    def evict(self) -> None:
        free = [r for r in self.near if not r.lock_ref]
        midway = [
            r for r in free if not r.has_logits and any(map(partial(is_in_midst, r), self.near + self.far))
        ]
        if midway:
            self.near.remove(midway[0])
            assert self.sessions.evict()
            return
        number = free[0].state if free else 0
        assert self.sessions.evict() == bool(free)
        if free:
            self.near.remove(free[0])
            if number + 1000 in self.made:
                self.far.append(free[0])

    def bring_back(self, user: str, story: list[int]) -> None:
        found = self.find(user, story, near=False, pin=False)
        if found is not None and found.on_host:
            self.made.append(found.state + 1000)
            self.sessions.load_back(found, found.state + 1000)
            self.far.remove(found)
            self.near.append(found)

    def fail(self, origin: int) -> None:
        self.sessions.remove_request(origin)
        self.near, self.far = ([r for r in tier if r.request != origin] for tier in (self.near, self.far))

    def check(self) -> None:
        assert list(self.sessions._device_lru) == self.near and not any(r.on_host for r in self.near)
        assert list(self.sessions._host_lru) == self.far and all(r.on_host for r in self.far)
        assert (len(self.sessions), self.sessions.num_on_host) == (
            len(self.near) + len(self.far),
            len(self.far),
        )
        assert len(self.far) <= self.room
        held = [r.state for r in (*self.near, *self.far)]
        assert sorted(self.discarded) == sorted(set(self.made) - set(held)), "each goes once"


def is_in_midst(one: CacheEntry[int], other: CacheEntry[int]) -> bool:
    return (one.cache_salt, one.request) == (other.cache_salt, other.request) and len(one.tokens) < len(
        other.tokens
    )


def starts(resident: CacheEntry[int], story: list[int]) -> bool:
    """Return whether a request can start from an entry: a token is left to compute or logits are stored."""
    tokens = resident.tokens.tolist()
    return story[: len(tokens)] == tokens and (len(tokens) < len(story) or resident.has_logits)


def test_another_users_text_is_never_found() -> None:
    sessions: PrefixCache[str] = PrefixCache(lambda state: None)
    sessions.insert(CacheEntry("ann", ids(1, 2, 3), "state", has_logits=True, request=None))
    assert sessions.match_prefix("bob", ids(1, 2, 3, 4)) is None
    assert sessions.match_prefix("ann", ids(1, 2, 4, 4)) is None
    found = sessions.match_prefix("ann", ids(1, 2, 3, 4))
    assert found is not None and found.state == "state"


def test_a_long_story_keeps_states_the_closer_the_nearer_to_its_end() -> None:
    sessions: PrefixCache[int] = PrefixCache(lambda state: None)
    for length in range(100, 10_001, 100):
        sessions.insert(
            CacheEntry("ann", ids(*[7] * length), length, has_logits=length == 300, request="story")
        )
        sessions.prune("story", 12)
    lengths = sorted(one.state for one in sessions._device_lru)
    assert len(lengths) == 12 and 300 in lengths and lengths[-1] == 10_000
    gaps = [later - earlier for earlier, later in pairwise(lengths)]
    back = [10_000 - length for length in lengths[:-1]]
    assert all(gap <= max(200, 2 * distance) for gap, distance in zip(gaps, back, strict=True))
    assert lengths[-2] >= 9_800


def test_another_request_of_the_same_user_is_not_thinned() -> None:
    sessions: PrefixCache[int] = PrefixCache(lambda state: None)
    for number in range(9):
        sessions.insert(CacheEntry("ann", ids(number), number, has_logits=False, request=number % 2))
    sessions.prune(0, 3)
    assert sorted(one.state for one in sessions._device_lru if one.request == 1) == [1, 3, 5, 7]
