"""Test that the page's text, put together from patches, is the story."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.ui.deltas import DELTA_MIN_CHARACTERS, TextDelta, apply_patch

PIECES = st.text(alphabet="ab \n\N{DRAGON}é", max_size=12)


def units(text: str) -> int:
    """Return the length of a text in UTF-16 units, as browsers count."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def take(before: str, **patch: object) -> str:
    """Apply a patch as the browser does."""
    return apply_patch(before, Fields({"of": units(before), **patch}, "the edit"))


@given(PIECES, PIECES, PIECES, PIECES, PIECES)
def test_a_patch_makes_the_one_text_of_the_other(
    head: str, removed: str, added: str, tail: str, filling: str
) -> None:
    filling = (filling or "x") * DELTA_MIN_CHARACTERS
    before, now = head + filling + removed + tail, head + filling + added + tail
    story, patch = TextDelta(before).diff(now)
    assert story is None and patch is not None
    assert take(before, **patch) == now
    assert len(str(patch["text"])) <= len(added)


def test_a_short_story_is_sent_whole() -> None:
    assert TextDelta("x" * (DELTA_MIN_CHARACTERS - 1)).diff("new") == ("new", None)


def test_a_patch_may_cut_a_character_in_two() -> None:
    dragon, other = "\N{DRAGON}", "\N{DRAGON FACE}"  # whose first units are the same
    half = other.encode("utf-16-le")[2:].decode("utf-16-le", "surrogatepass")
    assert take(f"a {dragon} b", **{"from": 3, "to": 4, "text": half}) == f"a {other} b"


@pytest.mark.parametrize(
    "wrong", [{"of": 2}, {"of": 4}, {"from": -1}, {"to": 4}, {"from": 3, "to": 2}, {"text": 1}, {"from": "0"}]
)
def test_a_patch_of_another_text_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(StoryError):
        take("abc", **{"from": 0, "to": 3, "text": "", **wrong})
