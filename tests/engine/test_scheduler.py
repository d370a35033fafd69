"""The scheduler against what must be true of it, under random sequences of events."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.engine.scheduler import Scheduler

EVENTS = st.lists(st.sampled_from(["arrive", "turn", "turn", "turn", "leave"]), max_size=80)


@given(places=st.integers(1, 5), events=EVENTS, data=st.data())
def test_first_come_first_served_then_by_turns(places: int, events: list[str], data: st.DataObject) -> None:
    scheduler: Scheduler[int] = Scheduler(places)
    arrived, here, admitted = 0, [], []
    turns_since: dict[int, Counter[int]] = {}  # for each running job: turns of the others since its own
    for event in events:
        if event == "arrive":
            scheduler.add(arrived)
            here.append(arrived)
            arrived += 1
        elif event == "leave" and here:
            job = data.draw(st.sampled_from(here))
            here.remove(job)
            turns_since.pop(job, None)
            scheduler.remove(job)
            scheduler.remove(job)  # twice does no harm
        elif event == "turn":
            new = scheduler.admit()
            admitted += new
            turns_since |= {job: Counter() for job in new}
            served = scheduler.next()
            assert (served is None) == (not here)
            if served is not None:
                turns_since[served].clear()
                for job, others in turns_since.items():
                    others.update([served] * (job != served))
                    assert max(others.values(), default=0) <= 1 + (not scheduler.running)
            assert len(scheduler.running) == min(places, len(here))
        assert sorted(scheduler.jobs) == here
        assert admitted == sorted(admitted)
        free = places - len(scheduler.running)
        assert [scheduler.position(job) for job in scheduler.running] == [0] * len(scheduler.running)
        expected = [max(0, place - free) for place in range(1, len(scheduler.waiting) + 1)]
        assert [scheduler.position(job) for job in scheduler.waiting] == expected


def test_nobody_is_served_without_a_place() -> None:
    scheduler: Scheduler[str] = Scheduler(1)
    assert scheduler.admit() == [] and scheduler.next() is None
    scheduler.add("a")
    assert scheduler.next() is None
    assert scheduler.admit() == ["a"] and scheduler.next() == "a"


def test_at_least_one_place() -> None:
    with pytest.raises(ValueError, match="not 0"):
        Scheduler(0)
