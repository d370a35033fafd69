from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jet.story.history import History


def test_undo_and_redo() -> None:
    history = History("a", limit=10)
    assert not history.undo()
    assert not history.redo()
    history.step("b")
    history.replace("B")
    assert history.undo()
    assert history.present == "a"
    assert history.redo()
    assert history.present == "B"


def test_what_was_taken_back_is_behind_a_new_step() -> None:
    history = History(0, limit=10)
    for state in (1, 2, 3):
        history.step(state)
    history.undo()
    history.undo()
    history.step(9)
    assert not history.redo()
    found = [history.present]
    while history.undo():
        found.append(history.present)
    assert found == [9, 1, 3, 2, 1, 0]


@given(st.lists(st.sampled_from(["step", "undo", "redo"]), max_size=40))
def test_nothing_is_lost_but_by_the_bound(actions: list[str]) -> None:
    large, small = History(0, limit=10_000), History(0, limit=3)
    seen = {0}
    for number, action in enumerate(actions, start=1):
        if action == "step":
            large.step(number)
            small.step(number)
            seen.add(number)
            assert {*large.past, large.present, *large.future} == seen
        else:
            before = large.past, large.present, large.future
            there, back = (large.undo, large.redo) if action == "undo" else (large.redo, large.undo)
            if there():
                assert back()
                assert before == (large.past, large.present, large.future)
                there()
            (small.undo if action == "undo" else small.redo)()
        assert len(small.past) + len(small.future) <= 3 + 3
        assert len(small.past) <= 3 or action != "step"
