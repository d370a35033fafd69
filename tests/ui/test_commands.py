"""Test that commands of a page are validated field by field, with an error message for bad ones."""

from __future__ import annotations

import json

import pytest

from jet.story.errors import StoryError
from jet.story.guidance import AuthorsNote
from jet.ui.commands import MAX_GUIDANCE, MAX_LORE, parse_command, parse_guidance, parse_stops
from jet.ui.sessions import MAX_SESSIONS, SESSION_TTL_S, SessionStore
from jet.ui.stop_strings import MAX_STOP_CHARACTERS, MAX_STOPS

LORE = {"title": "", "keywords": " rose, ,fox ", "content": "Red.", "enabled": True, "constant": False}
GUIDE = {"type": "set_guidance", "memory": "M", "note": "N", "depth": 2, "unit": "paragraphs", "lore": [LORE]}


def test_guidance_arrives_where_it_belongs() -> None:
    guidance = parse_guidance(parse_command(json.dumps(GUIDE)).fields)
    assert (guidance.memory, guidance.note) == ("M", AuthorsNote("N", 2, "paragraphs"))
    assert guidance.lore[0].keywords == ("rose", "fox")


@pytest.mark.parametrize(
    "change",
    [
        {"memory": 1},
        {"memory": "m" * (MAX_GUIDANCE + 1)},
        {"depth": 0},
        {"depth": "2"},
        {"unit": "miles"},
        {"lore": [{}]},
        {"lore": [LORE] * (MAX_LORE + 1)},
    ],
)
def test_other_guidance_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(StoryError):
        parse_guidance(parse_command(json.dumps(GUIDE | change)).fields)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"type": 1}', '{"type": "sync", "highlight": "red"}']
)
def test_other_commands_are_refused(text: object) -> None:
    with pytest.raises(StoryError):
        parse_command(text)


def test_stops_are_bounded_and_empty_ones_are_none() -> None:
    assert parse_stops(parse_command('{"type": "continue", "stops": ["", "The End", 5]}').fields) == (
        "The End",
    )
    assert parse_stops(parse_command('{"type": "continue"}').fields) == ()
    for stops in (["x"] * (MAX_STOPS + 1), ["x" * (MAX_STOP_CHARACTERS + 1)]):
        with pytest.raises(StoryError, match="texts to stop at"):
            parse_stops(parse_command(json.dumps({"type": "continue", "stops": stops})).fields)


def test_only_so_many_tabs_are_remembered_and_no_busy_one_is_forgotten() -> None:
    visits = SessionStore()
    visits.get("busy").generating = True
    for number in range(MAX_SESSIONS + 5):
        visits.get(f"tab {number}")
    assert visits.has("busy") and visits.has(f"tab {MAX_SESSIONS + 4}")
    assert not visits.has("tab 0")


def test_json_nested_without_end_is_no_command() -> None:
    with pytest.raises(StoryError):
        parse_command("[" * 100_000)


def test_a_tab_that_went_away_may_come_back_for_a_while() -> None:
    now = [0.0]
    visits = SessionStore(lambda: now[0])
    story = visits.get("tab")
    visits.disconnect("tab")
    now[0] = SESSION_TTL_S - 1
    assert visits.has("tab") and visits.get("tab") is story
    now[0] = 3 * SESSION_TTL_S  # it is there again, however long
    assert visits.has("tab")
    visits.disconnect("tab")
    visits.disconnect("unknown")
    now[0] += SESSION_TTL_S + 1
    assert not visits.has("tab")
