"""The scheduler against what must be true of it, under random sequences of events."""

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
    places=st.integers(1, 5),
    per_user=st.integers(1, 3),
    line=st.integers(0, 6),
    events=EVENTS,
    data=st.data(),
)
def test_first_come_first_served_up_to_a_limit_per_user(
    places: int, per_user: int, line: int, events: list[str], data: st.DataObject
) -> None:
    scheduler: Scheduler[int] = Scheduler(places, per_user, line)
    users: dict[int, str] = {}
    waiting: list[int] = []
    placed: list[int] = []

    def share(user: str) -> bool:
        """Return whether the user may run one more request."""
        return not user or sum(users[job] == user for job in placed) < per_user

    for number, event in enumerate(events):
        if event == "arrive":
            users[number] = data.draw(st.sampled_from(["", "ann", "bob"]))
            try:
                scheduler.add(number, users[number])
                waiting.append(number)
            except QueueFullError as error:
                assert f"{line} stories are waiting" in str(error)
                assert max(map(scheduler.position, scheduler.waiting), default=0) >= line
        elif event == "admit":
            job = scheduler.next_admissible()
            able = [one for one in waiting if share(users[one])]
            assert job == (able[0] if able and len(placed) < places else None)
            if job is not None:
                scheduler.admit(job)
                waiting.remove(job)
                placed.append(job)
        elif event == "read" and scheduler.prefilling:
            scheduler.finish_prefill(scheduler.prefilling[0])
        elif event == "lose" and scheduler.decoding:
            job = data.draw(st.sampled_from(scheduler.decoding))
            scheduler.preempt(job)
            assert scheduler.prefilling[0] == job
        elif event == "leave" and (waiting or placed):
            job = data.draw(st.sampled_from([*waiting, *placed]))
            (waiting if job in waiting else placed).remove(job)
            scheduler.remove(job)
            scheduler.remove(job)  # twice does no harm
        check(scheduler, waiting, placed, places)
        assert all(count <= per_user for user, count in Counter(users[job] for job in placed).items() if user)


def check(scheduler: Scheduler[int], waiting: list[int], placed: list[int], places: int) -> None:
    assert scheduler.waiting == waiting
    assert sorted(scheduler.running) == sorted(placed) and len(placed) <= places
    assert sorted(scheduler.requests) == sorted([*waiting, *placed])
    assert all(scheduler.position(job) == 0 for job in placed)
    positions = [position for job in waiting if (position := scheduler.position(job))]
    assert positions == list(range(1, len(positions) + 1))


def test_a_place_in_line_tells_how_many_come_before() -> None:
    scheduler: Scheduler[str] = Scheduler(2, max_running_per_user=1)
    for job, user in (("a", "ann"), ("b", "ann"), ("c", ""), ("d", "bob")):
        scheduler.add(job, user)
    assert [scheduler.position(job) for job in "abcd"] == [0, 1, 0, 2]


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
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    assert pace.chunk_size(others_decode=True) == 1024, "nothing is known yet"
    pace.record_chunk(1024, seconds=0.512, now=0.0)
    assert pace.chunk_size(others_decode=False) == 1024
    assert pace.chunk_size(others_decode=True) == 64
    pace.record_chunk(1024, seconds=0.001, now=0.0)
    assert pace.chunk_size(others_decode=True) == 64, "one fast piece is not believed"
    for _ in range(16):
        pace.record_chunk(1024, seconds=0.001, now=0.0)
    assert pace.chunk_size(others_decode=True) == 1024, "many are"


def read_for_a_while(pace: ChunkedPrefillPolicy, fixed: float, each: float, pieces: int = 100) -> list[int]:
    """The pieces that are read while others write, where each takes `fixed + each * tokens`."""
    read = []
    for _ in range(pieces):
        read.append(pace.chunk_size(others_decode=True))
        pace.record_chunk(read[-1], fixed + each * read[-1], now=0.0)
    return read


@given(fixed=st.floats(0.001, 0.03), each=st.floats(1e-5, 1e-3), tail=st.integers(1, 1024))
def test_the_longest_pieces_that_are_short_enough_are_found(fixed: float, each: float, tail: int) -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.06)
    pace.record_chunk(tail, fixed + each * tail, now=0.0)  # of a prompt, which may be very short
    sizes = [1024 >> bit for bit in range(7)]
    longest = next(size for size in sizes if fixed + each * size <= 0.06)
    found = read_for_a_while(pace, fixed, each)[20:]
    usual = sorted(found)[len(found) // 2]
    assert usual == longest or fixed + each * 2 * longest == pytest.approx(0.06), "rounding decides"
    assert fixed + each * max(found) <= 1.34 * 0.06, "now and then a longer one is tried"


def test_the_short_end_of_a_prompt_does_not_make_the_next_pieces_short() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    for tokens, seconds in [(1024, 0.02), (20, 0.007), (400, 0.01), (3, 0.007), (9, 0.007)]:
        pace.record_chunk(tokens, seconds, now=0.0)
        assert pace.chunk_size(others_decode=True) == 1024


def test_a_single_token_says_nothing_where_long_pieces_were_slow_for_other_reasons() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=128, max_decode_stall_s=0.06)
    for tokens, seconds in [(1, 0.014), (64, 0.04), (128, 0.11)]:  # the line would begin below nothing
        pace.record_chunk(tokens, seconds, now=0.0)
    assert pace.chunk_size(others_decode=True) == 64


def test_one_slow_short_piece_does_not_make_the_next_ones_long() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=128, max_decode_stall_s=0.06)
    for tokens, seconds in [*[(64, 0.061)] * 8, (5, 0.2)]:
        pace.record_chunk(tokens, seconds, now=0.0)
    assert max(read_for_a_while(pace, 0.01, 0.0008)) <= 64


def test_what_has_not_settled_says_nothing() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.06)
    for _ in range(20):
        pace.record_chunk(1024, seconds=0.006, now=0.0, synchronized=False)
    read = read_for_a_while(pace, 0.01, 0.00019)
    assert read[0] == 1024 and max(read[1:]) <= 256


@pytest.mark.parametrize("seconds", [0.03, 0.3])
def test_ends_of_a_few_tokens_do_not_let_a_long_piece_pass(seconds: float) -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    for _ in range(16):
        pace.record_chunk(3, seconds, now=0.0)
    assert pace.chunk_size(others_decode=True) == 16


@pytest.mark.parametrize("largest", [1000, 24, 16, 7])
def test_a_largest_piece_of_any_length_is_found_again(largest: int) -> None:
    pace = ChunkedPrefillPolicy(largest, max_decode_stall_s=0.05)
    pace.record_chunk(largest, seconds=3.0, now=0.0)
    read = read_for_a_while(pace, 0.006, 1e-5)
    assert read[-1] == largest and min(read) >= min(largest, 16)


def test_a_piece_that_took_long_once_is_forgotten() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    pace.record_chunk(1024, seconds=3.0, now=0.0)  # a kernel had to be compiled
    read = read_for_a_while(pace, 0.006, 1e-5)
    assert read[0] == 16 and read[-1] == 1024


def test_longer_pieces_are_tried_step_by_step() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    for tokens in (16, 17, 18, 20):
        pace.record_chunk(tokens, seconds=0.01, now=0.0)
    assert pace.chunk_size(others_decode=True) == 32, "the cost of 1024 is unknown"


def test_where_none_is_short_enough_those_are_read_that_take_little_longer() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    pace.record_chunk(1024, seconds=0.5, now=0.0)
    pace.record_chunk(16, seconds=0.2, now=0.0)
    assert pace.chunk_size(others_decode=True) == 256
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    pace.record_chunk(64, seconds=64.0, now=0.0)
    assert pace.chunk_size(others_decode=True) == 16


def test_reading_and_writing_take_the_same_time() -> None:
    pace = ChunkedPrefillPolicy(max_chunk=1024, max_decode_stall_s=0.05)
    assert pace.may_prefill(0.0, others_decode=True)
    pace.record_chunk(100, seconds=0.04, now=1.0)
    assert pace.may_prefill(1.0, others_decode=False)
    assert not pace.may_prefill(2.0, others_decode=True), "at least one step comes before the next piece"
    pace.record_decode()
    assert not pace.may_prefill(1.039, others_decode=True)
    assert pace.may_prefill(1.041, others_decode=True)
