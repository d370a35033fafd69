"""Test the capacity of small and large devices for the 2B, and errors for requests that exceed it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.engine.capacity import MIN_CACHE_SLOTS, SHARE, CapacityError, plan_capacity
from jet.roofline import Footprint

GIB = 2**30
# Jet-Nemotron-2B in bfloat16.
THE_2B = Footprint(
    weights=int(3.93e9),
    recurrent=27 * 2**20,
    conv=590_000,
    window=1151,
    window_token=2048,
    full_token=2048,
    full_attention_token=28_672,
)


@pytest.mark.parametrize(
    ("free", "most", "writers", "context"),
    [(1.5 * GIB, 128, 8, 65_536), (76 * GIB, 128, 128, 65_536), (12 * GIB, 16, 16, 65_536)],
    ids=["a card of 6 GB", "a card of 80 GB", "a CPU"],
)
def test_every_device_gets_as_many_writers_as_fit(free: float, most: int, writers: int, context: int) -> None:
    capacity = plan_capacity(THE_2B, int(free), 65_536, most)
    assert (capacity.max_running_requests, capacity.context) == (writers, context)
    assert capacity.cache_slots >= 4


@given(
    free=st.integers(0, 200 * GIB),
    context=st.integers(16, 2**20),
    most=st.integers(1, 128),
    full_token=st.sampled_from([0, 2048, 4096]),
)
def test_what_is_planned_fits(free: int, context: int, most: int, full_token: int) -> None:
    footprint = Footprint(1, THE_2B.recurrent, THE_2B.conv, 1151, 2048, full_token, 1)
    capacity = plan_capacity(footprint, free, context, most)
    state = footprint.cache_bytes(1152) - 1152 * full_token
    assert 1 <= capacity.max_running_requests <= most and capacity.cache_slots >= 1
    assert capacity.context == min(context, capacity.max_total_tokens)
    planned = (
        capacity.max_running_requests + capacity.cache_slots
    ) * state + capacity.max_total_tokens * full_token
    smallest = 2 * state + 4096 * full_token
    assert planned <= max(free * SHARE, smallest)


def test_more_writers_than_fit_are_refused_with_how_many_do() -> None:
    assert plan_capacity(THE_2B, 76 * GIB, 65_536, 128, max_running_requests=5).max_running_requests == 5
    with pytest.raises(CapacityError, match=r"memory for \d+ stories at once, and 500 were asked for"):
        plan_capacity(THE_2B, 2 * GIB, 65_536, 128, max_running_requests=500)


def test_a_small_device_gives_a_story_less_than_the_networks_context() -> None:
    capacity = plan_capacity(THE_2B, GIB, 2**20, 128)
    assert 4096 <= capacity.context < 2**20 and capacity.context == capacity.max_total_tokens


def test_a_limited_cache_keeps_a_few_snapshots_whatever_their_size() -> None:
    state = THE_2B.recurrent + THE_2B.conv + (THE_2B.window + 1) * THE_2B.window_token
    whole = plan_capacity(THE_2B, 40 * GIB, 4096, 16)
    assert whole.cache_slots > MIN_CACHE_SLOTS + 2
    for limit, slots in ((0, MIN_CACHE_SLOTS), ((MIN_CACHE_SLOTS + 2) * state, MIN_CACHE_SLOTS + 2)):
        limited = plan_capacity(THE_2B, 40 * GIB, 4096, 16, cache_limit=limit)
        assert limited.cache_slots == slots
        assert limited.max_running_requests == whole.max_running_requests
