"""Test that a selection is rewritten in its place, as asked where the model takes instructions."""

from __future__ import annotations

import pytest

from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.ui import rewriting
from tests.ui.stand_in import StandInSource
from tests.ui.test_handlers import Tab, run_in_tab

STORY = "One came. Two left. Three stayed."
SELECTED = {"at": 9, "until": 20, "way": "rewrite"}  # with a blank on either side


def fields(**given: object) -> Fields:
    return Fields({**SELECTED, **given}, "the command")


@pytest.mark.parametrize("given", [{"until": 9}, {"way": "sing"}, {"at": 9, "until": 10}])
def test_what_cannot_be_rewritten_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(StoryError):
        rewriting.parse_rewrite(fields(**given), STORY)


def test_the_length_follows_the_passage_and_ends_with_a_sentence() -> None:
    document = Document.from_text("word " * 400)
    long = rewriting.Rewrite(0, 1999, "expand", document.text)
    short = rewriting.Rewrite(0, 1999, "shorten", document.text)
    tokens = [rewriting.sampling_of(one, document.sampling).max_new_tokens for one in (long, short)]
    assert tokens[0] > 3 * tokens[1] > 600
    assert rewriting.sampling_of(short, document.sampling).end_at == "sentence"


def test_a_chat_model_is_asked_and_gets_story_and_passage(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        source.stand_in.chat_tokens = 7
        tab.text = STORY
        text = await tab.write("rewrite", **SELECTED)
        request = source.stand_in.requests[-1]
        assert request.prompt == "" and "One came." in request.instruction
        assert (
            "\n\nTwo left.\n\n" in request.instruction and "in other and better words" in request.instruction
        )
        assert text.startswith("One came. ") and text.endswith(" Three stayed.") and "Two left" not in text
        assert tab.reply["say"].startswith("Rewritten as asked")
        await tab.act("undo")
        assert tab.text == STORY

    run_in_tab(source, play)


def test_another_model_writes_on_in_the_place_and_says_so(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        tab.text = STORY
        first = await tab.write("rewrite", **SELECTED)
        assert source.stand_in.requests[-1].prompt.strip() == "One came."
        assert first.endswith(" Three stayed.") and "Two left" not in first
        assert "takes no instructions" in tab.reply["say"]
        until = len(first) - len(" Three stayed.")
        await tab.write("rewrite", at=10, until=until, way="rewrite", passage="Two left.")
        assert (tab.reply["versions"]["at"], tab.reply["versions"]["of"]) == (2, 2)
        await tab.act("select_branch", branch=tab.reply["versions"]["previous"])
        assert tab.text == first

    run_in_tab(source, play)


def test_to_expand_the_passage_stays_and_is_gone_on_from(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        tab.text = STORY
        text = await tab.write("rewrite", **{**SELECTED, "way": "expand"})
        assert (
            text.startswith("One came. Two left.")
            and text.endswith(" Three stayed.")
            and len(text) > len(STORY)
        )

    run_in_tab(source, play)


def test_a_story_too_long_to_go_along_is_shortened(source: StandInSource) -> None:
    async def play(tab: Tab) -> None:
        source.stand_in.chat_tokens, source.stand_in.context = 7, 120
        tab.text = "word " * 300 + "Two left."
        await tab.write("rewrite", at=1500, until=1509, way="shorten")
        request = source.stand_in.requests[-1]
        assert len(request.instruction.split()) < 120 and "Two left." in request.instruction

    run_in_tab(source, play)
