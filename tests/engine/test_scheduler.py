"""Test what must be true of the scheduler, under random sequences of events."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.engine.prefill_policy import ChunkedPrefillPolicy
from jet.engine.scheduler import QueueFullError, Scheduler

EVENTS = st.lists(
    st.sampled_from(["arrive", "arrive", "admit", "admit", "read", "read", "leave", "lose"]), max_size=80
)


@given(
    max_running=st.integers(1, 5),
    per_user=st.integers(1, 3),
    max_waiting=st.integers(0, 6),
    events=EVENTS,
    data=st.data(),
)
def test_first_come_first_served_up_to_a_limit_per_user(
    max_running: int, per_user: int, max_waiting: int, events: list[str], data: st.DataObject
) -> None:
    scheduler: Scheduler[int] = Scheduler(max_running, per_user, max_waiting)
    users: dict[int, str] = {}
    waiting: list[int] = []
    running: list[int] = []

    def share(user: str) -> bool:
        """Return whether the user may run one more request."""
        return not user or sum(users[request] == user for request in running) < per_user

    for number, event in enumerate(events):
        if event == "arrive":
            users[number] = data.draw(st.sampled_from(["", "ann", "bob"]))
            try:
                scheduler.add(number, users[number])
                waiting.append(number)
            except QueueFullError as error:
                assert f"{max_waiting} stories are waiting" in str(error)
                assert max(map(scheduler.position, scheduler.waiting), default=0) >= max_waiting
        elif event == "admit":
            request = scheduler.next_admissible()
            able = [one for one in waiting if share(users[one])]
            assert request == (able[0] if able and len(running) < max_running else None)
            if request is not None:
                scheduler.admit(request)
                waiting.remove(request)
                running.append(request)
        elif event == "read" and scheduler.prefilling:
            scheduler.finish_prefill(scheduler.prefilling[0])
        elif event == "lose" and scheduler.decoding:
            request = data.draw(st.sampled_from(scheduler.decoding))
            scheduler.preempt(request)
            assert scheduler.prefilling[0] == request
        elif event == "leave" and (waiting or running):
            request = data.draw(st.sampled_from([*waiting, *running]))
            (waiting if request in waiting else running).remove(request)
            scheduler.remove(request)
            scheduler.remove(request)  # twice does no harm
        check(scheduler, waiting, running, max_running)
        assert all(
            count <= per_user
            for user, count in Counter(users[request] for request in running).items()
            if user
        )


def check(scheduler: Scheduler[int], waiting: list[int], running: list[int], max_running: int) -> None:
    assert scheduler.waiting == waiting
    assert sorted(scheduler.running) == sorted(running) and len(running) <= max_running
    assert sorted(scheduler.requests) == sorted([*waiting, *running])
    assert all(scheduler.position(request) == 0 for request in running)
    positions = [position for request in waiting if (position := scheduler.position(request))]
    assert positions == list(range(1, len(positions) + 1))


def test_a_place_in_line_tells_how_many_come_before() -> None:
    scheduler: Scheduler[str] = Scheduler(2, max_running_per_user=1)
    for request, user in (("a", "ann"), ("b", "ann"), ("c", ""), ("d", "bob")):
        scheduler.add(request, user)
    assert [scheduler.position(request) for request in "abcd"] == [0, 1, 0, 2]


def test_no_request_runs_beyond_the_limit() -> None:
    scheduler: Scheduler[str] = Scheduler(1)
    assert scheduler.next_admissible() is None
    scheduler.add("a")
    assert scheduler.running == []
    assert scheduler.next_admissible() == "a" and scheduler.running == []
    scheduler.admit("a")
    assert (scheduler.prefilling, scheduler.decoding) == (["a"], [])
    scheduler.finish_prefill("a")
    assert (scheduler.prefilling, scheduler.decoding) == ([], ["a"])


def test_at_least_one_place() -> None:
    with pytest.raises(ValueError, match="not 0"):
        Scheduler(0)


def test_pieces_become_shorter_where_others_wait_for_them() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    assert policy.chunk_size(others_decode=True) == 1024, "nothing is known yet"
    policy.record_chunk(1024, seconds=0.512, now=0.0)
    assert policy.chunk_size(others_decode=False) == 1024
    assert policy.chunk_size(others_decode=True) == 64
    policy.record_chunk(1024, seconds=0.001, now=0.0)
    assert policy.chunk_size(others_decode=True) == 64, "one fast piece is not believed"
    for _ in range(16):
        policy.record_chunk(1024, seconds=0.001, now=0.0)
    assert policy.chunk_size(others_decode=True) == 1024, "many are"


def prefill_for_a_while(
    policy: ChunkedPrefillPolicy, fixed: float, each: float, chunks: int = 100
) -> list[int]:
    """Return the sizes of the chunks that are read while others decode, in tokens.

    A chunk takes `fixed + each * tokens` seconds.
    """
    read = []
    for _ in range(chunks):
        read.append(policy.chunk_size(others_decode=True))
        policy.record_chunk(read[-1], fixed + each * read[-1], now=0.0)
    return read


@given(fixed=st.floats(0.001, 0.03), each=st.floats(1e-5, 1e-3), tail=st.integers(1, 1024))
def test_the_longest_pieces_that_are_short_enough_are_found(fixed: float, each: float, tail: int) -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.06)
    policy.record_chunk(tail, fixed + each * tail, now=0.0)  # of a prompt, which may be very short
    sizes = [1024 >> bit for bit in range(7)]
    longest = next(size for size in sizes if fixed + each * size <= 0.06)
    found = prefill_for_a_while(policy, fixed, each)[20:]
    usual = sorted(found)[len(found) // 2]
    assert usual == longest or fixed + each * 2 * longest == pytest.approx(0.06), "rounding decides"
    assert fixed + each * max(found) <= 1.34 * 0.06, "now and then a longer one is tried"


def test_the_short_end_of_a_prompt_does_not_make_the_next_pieces_short() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    for tokens, seconds in [(1024, 0.02), (20, 0.007), (400, 0.01), (3, 0.007), (9, 0.007)]:
        policy.record_chunk(tokens, seconds, now=0.0)
        assert policy.chunk_size(others_decode=True) == 1024


def test_a_single_token_says_nothing_where_long_pieces_were_slow_for_other_reasons() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=128, max_decode_stall_s=0.06)
    for tokens, seconds in [(1, 0.014), (64, 0.04), (128, 0.11)]:  # the fitted line would begin below zero
        policy.record_chunk(tokens, seconds, now=0.0)
    assert policy.chunk_size(others_decode=True) == 64


def test_one_slow_short_piece_does_not_make_the_next_ones_long() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=128, max_decode_stall_s=0.06)
    for tokens, seconds in [*[(64, 0.061)] * 8, (5, 0.2)]:
        policy.record_chunk(tokens, seconds, now=0.0)
    assert max(prefill_for_a_while(policy, 0.01, 0.0008)) <= 64


def test_what_has_not_settled_says_nothing() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.06)
    for _ in range(20):
        policy.record_chunk(1024, seconds=0.006, now=0.0, synchronized=False)
    read = prefill_for_a_while(policy, 0.01, 0.00019)
    assert read[0] == 1024 and max(read[1:]) <= 256


@pytest.mark.parametrize("seconds", [0.03, 0.3])
def test_ends_of_a_few_tokens_do_not_let_a_long_piece_pass(seconds: float) -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    for _ in range(16):
        policy.record_chunk(3, seconds, now=0.0)
    assert policy.chunk_size(others_decode=True) == 16


@pytest.mark.parametrize("largest", [1000, 24, 16, 7])
def test_a_largest_piece_of_any_length_is_found_again(largest: int) -> None:
    policy = ChunkedPrefillPolicy(largest, max_decode_stall_s=0.05)
    policy.record_chunk(largest, seconds=3.0, now=0.0)
    read = prefill_for_a_while(policy, 0.006, 1e-5)
    assert read[-1] == largest and min(read) >= min(largest, 16)


def test_a_piece_that_took_long_once_is_forgotten() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    policy.record_chunk(1024, seconds=3.0, now=0.0)  # a kernel had to be compiled
    read = prefill_for_a_while(policy, 0.006, 1e-5)
    assert read[0] == 16 and read[-1] == 1024


def test_longer_pieces_are_tried_step_by_step() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    for tokens in (16, 17, 18, 20):
        policy.record_chunk(tokens, seconds=0.01, now=0.0)
    assert policy.chunk_size(others_decode=True) == 32, "the cost of 1024 is unknown"


def test_where_none_is_short_enough_those_are_read_that_take_little_longer() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    policy.record_chunk(1024, seconds=0.5, now=0.0)
    policy.record_chunk(16, seconds=0.2, now=0.0)
    assert policy.chunk_size(others_decode=True) == 256
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    policy.record_chunk(64, seconds=64.0, now=0.0)
    assert policy.chunk_size(others_decode=True) == 16


def test_reading_and_writing_take_the_same_time() -> None:
    policy = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    assert policy.may_prefill(0.0, others_decode=True)
    policy.record_chunk(100, seconds=0.04, now=1.0)
    assert policy.may_prefill(1.0, others_decode=False)
    assert not policy.may_prefill(2.0, others_decode=True), "at least one step comes before the next piece"
    policy.record_decode()
    assert not policy.may_prefill(1.039, others_decode=True)
    assert policy.may_prefill(1.041, others_decode=True)
