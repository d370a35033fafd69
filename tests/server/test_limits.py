"""Test admission: requests within the limits start, others are refused with the reason."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from jet.api import RequestError, SamplingParams
from jet.server.limits import PUBLIC, AdmissionLimiter, Limits, read_limits


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_user_may_have_so_many_stories_at_once() -> None:
    limiter = AdmissionLimiter(Limits(stories_per_user=2))
    with limiter.admit("a"), limiter.admit("a"):
        with (
            pytest.raises(RequestError, match=r"2 of your stories.*Your text is still here"),
            limiter.admit("a"),
        ):
            pass
        with limiter.admit("b"):
            assert limiter.active == 3
    assert limiter.active == 0
    with limiter.admit("a"):
        pass


def test_all_together_may_have_so_many() -> None:
    limiter = AdmissionLimiter(Limits(stories=3))
    with ExitStack() as stack:
        for user in "abc":
            stack.enter_context(limiter.admit(user))
        with pytest.raises(RequestError, match="Very many stories are being written"), limiter.admit("d"):
            pass
    with limiter.admit("d"):
        pass


def test_a_place_is_free_again_whatever_happened() -> None:
    limiter = AdmissionLimiter(Limits(stories_per_user=1))
    with pytest.raises(ValueError, match="oops"), limiter.admit("a"):
        raise ValueError("oops")
    with limiter.admit("a"):
        pass


def test_so_many_times_a_minute() -> None:
    clock = Clock()
    limiter = AdmissionLimiter(Limits(starts_per_minute=3), clock)
    for _ in range(3):
        with limiter.admit("a"):
            clock.now += 10
    with pytest.raises(RequestError, match="3 times in a minute: please wait 30 s"), limiter.admit("a"):
        pass
    with limiter.admit("b"):
        pass
    clock.now = 60.0
    with limiter.admit("a"):
        pass


def test_a_closing_server_takes_nothing_more_and_lets_the_rest_end() -> None:
    limiter = AdmissionLimiter(Limits())
    with limiter.admit("a"):
        limiter.close()
        assert limiter.active == 1
        with pytest.raises(RequestError, match="about to be restarted"), limiter.admit("b"):
            pass
    assert limiter.active == 0


def test_lengths() -> None:
    limiter = AdmissionLimiter(Limits(max_new_tokens=100, characters=10))
    limiter.check("x" * 10, SamplingParams(max_new_tokens=100))
    with pytest.raises(RequestError, match="At most 100 new tokens at a time here, not 101"):
        limiter.check("", SamplingParams(max_new_tokens=101))
    with pytest.raises(RequestError, match="10 characters here, and this has 11"):
        limiter.check("x" * 11, SamplingParams(max_new_tokens=1))
    AdmissionLimiter(Limits()).check("x" * 10**6, SamplingParams(max_new_tokens=10**6))


def test_who_was_there_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jet.server.limits._MAX_USERS", 50)
    limiter = AdmissionLimiter(Limits(starts_per_minute=5))
    for number in range(500):
        with limiter.admit(str(number)):
            pass
    assert len(limiter._starts) == 50 and not limiter._active


def test_changes_to_the_limits() -> None:
    assert read_limits(PUBLIC, []) == PUBLIC
    changed = read_limits(PUBLIC, ["stories=8", "deadline_s=none", "stories=9"])
    assert (changed.stories, changed.deadline_s, changed.characters) == (9, None, PUBLIC.characters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("storys=8", "there is no limit 'storys', but stories, stories_per_user"),
        ("stories", "stories must be a whole number from 1 on or none"),
        ("stories=0", "from 1 on or none"),
        ("stories=-1", "from 1 on or none"),
        ("stories=1.5", "from 1 on or none"),
        ("body_bytes=none", "body_bytes must be a whole number from 1 on$"),
    ],
)
def test_changes_that_are_none(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_limits(PUBLIC, [change])
