"""Test the Never write control: its lines and lists reach the engine, and an early end is explained."""

from __future__ import annotations

import pytest

from jet.api import RequestError, RequestStats
from jet.engine.banned_lists import ready_lists
from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.ui.commands import parse_command
from jet.ui.finish_messages import end_reply
from jet.ui.generation import GenerationState
from jet.ui.never_write import ENDED_BEFORE, control, parse_banned


def parse(**plain: object) -> tuple[str, ...]:
    return parse_banned(Fields(plain, "command"))


def test_lines_and_lists_become_phrases() -> None:
    assert parse() == ()
    assert parse(banned=["  zebra ", "", "a testament to"]) == ("zebra", "a testament to")
    assert set(ready_lists()["machine talk"].phrases) <= set(
        parse(banned=["x"], banned_lists=["machine talk"])
    )


@pytest.mark.parametrize(
    "plain", [{"banned": [3]}, {"banned": "x"}, {"banned_lists": ["nonsense"]}, {"banned": ["x" * 300]}]
)
def test_what_no_page_sends_is_refused_in_words(plain: dict[str, object]) -> None:
    with pytest.raises((RequestError, StoryError)):
        parse(**plain)


def test_every_list_has_a_box() -> None:
    html = control()
    assert all(f'data-banned-list="{name}"' in html for name in ready_lists())


@pytest.mark.parametrize("characters", [0, 20])
def test_an_end_before_a_phrase_is_explained(characters: int) -> None:
    stats = RequestStats(phase="done", finish_reason="banned")
    command = parse_command('{"type": "continue"}')
    reply = end_reply(GenerationState(stats, characters=characters, start=0), command, Document())
    assert reply == {"say": ENDED_BEFORE}
