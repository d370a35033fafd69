"""What is resident, against a plain list, under random sequences of what requests do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jet.engine.sessions import Resident, Sessions, Tokens

STORIES = st.lists(st.integers(0, 1), max_size=6)  # alike enough to share beginnings
USERS = st.sampled_from(["ann", "bob"])
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("find"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("pin"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("evict"), USERS, STORIES, st.booleans()),
        st.tuples(st.just("fail"), USERS, STORIES, st.booleans()),
    ),
    max_size=60,
)


def ids(*tokens: int) -> Tokens:
    return np.array(tokens, np.int32)


@given(operations=OPERATIONS)
def test_the_longest_beginning_of_the_users_own_is_found_and_the_least_recently_used_goes(
    operations: list[tuple[str, str, list[int], bool]],
) -> None:
    discarded: list[int] = []
    sessions: Sessions[int] = Sessions(discarded.append)
    model: list[Resident[int]] = []  # by use, the longest unused first
    for number, (what, user, story, flag) in enumerate(operations):
        tokens = ids(*story)
        if what == "keep":
            same = [r for r in model if r.user == user and r.tokens.tolist() == story and not r.pins]
            model = [r for r in model if r not in same]
            resident = Resident(user, tokens, number, complete=flag, origin=number % 3)
            sessions.keep(resident)
            model.append(resident)
        elif what in ("find", "pin"):
            found = sessions.find(user, tokens)
            able = [r for r in model if r.user == user and starts(r, story)]
            assert (found is None) == (not able)
            if found is not None:
                assert found in able and len(found.tokens) == max(len(r.tokens) for r in able)
                model.remove(found)
                model.append(found)
                found.pins += what == "pin" and flag
        elif what == "evict":
            free = [r for r in model if not r.pins]
            assert sessions.evict() == bool(free)
            if free:
                model.remove(free[0])
        else:
            sessions.forget_origin(number % 3)
            model = [r for r in model if r.origin != number % 3]
        kept = [n for n, (what, *_) in enumerate(operations[: number + 1]) if what == "keep"]
        assert sorted(discarded) == sorted(set(kept) - {r.state for r in model}), "each goes once"
        assert len(sessions) == len(model)


def starts(resident: Resident[int], story: list[int]) -> bool:
    """Whether a story can start from it: something must be left to read, unless what follows is known."""
    tokens = resident.tokens.tolist()
    return story[: len(tokens)] == tokens and (len(tokens) < len(story) or resident.complete)


def test_another_users_text_is_never_found() -> None:
    sessions: Sessions[str] = Sessions(lambda state: None)
    sessions.keep(Resident("ann", ids(1, 2, 3), "state", complete=True, origin=None))
    assert sessions.find("bob", ids(1, 2, 3, 4)) is None
    assert sessions.find("ann", ids(1, 2, 4, 4)) is None
    found = sessions.find("ann", ids(1, 2, 3, 4))
    assert found is not None and found.state == "state"


def test_a_long_story_keeps_states_the_closer_the_nearer_to_its_end() -> None:
    sessions: Sessions[int] = Sessions(lambda state: None)
    for length in range(100, 10_001, 100):
        sessions.keep(Resident("ann", ids(*[7] * length), length, complete=length == 300, origin="story"))
        sessions.thin("story", 12)
    lengths = sorted(one.state for one in sessions._by_use)
    assert len(lengths) == 12 and 300 in lengths and lengths[-1] == 10_000
    gaps = [later - earlier for earlier, later in pairwise(lengths)]
    back = [10_000 - length for length in lengths[:-1]]
    assert all(gap <= max(200, 2 * distance) for gap, distance in zip(gaps, back, strict=True))
    assert lengths[-2] >= 9_800


def test_another_request_of_the_same_user_is_not_thinned() -> None:
    sessions: Sessions[int] = Sessions(lambda state: None)
    for number in range(9):
        sessions.keep(Resident("ann", ids(number), number, complete=False, origin=number % 2))
    sessions.thin(0, 3)
    assert sorted(one.state for one in sessions._by_use if one.origin == 1) == [1, 3, 5, 7]
