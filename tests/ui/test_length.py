"""Test the page's Length control: text behind the last whole sentence is cut off, and can be restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jet.ui.finish_messages import CUT_BACK
from jet.ui.length import CHOICES, PAGE_END_AT
from tests.ui.stand_in import StandInSource
from tests.ui.test_handlers import CONTROLS, SETTINGS, Tab, run_in_tab, words


@pytest.fixture
def source() -> Iterator[StandInSource]:
    source = StandInSource()
    source.stand_in.tokens_per_second = 2000
    source.stand_in.unfinished = " and then"
    yield source
    source.load()
    source.stand_in.close()


async def write(tab: Tab, end_at: str, do: str = "continue", **fields: object) -> str:
    settings = dict(zip(SETTINGS, CONTROLS, strict=True)) | {"max_new_tokens": 5, "end_at": end_at}
    return await tab.write(do, settings=settings, **fields)


def test_what_is_no_whole_sentence_is_cut_off_and_can_be_had(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        assert await write(tab, "sentence") == "A" + words("A", 5)
        assert tab.reply["say"] == CUT_BACK
        offer = tab.reply["offer"]["write"]
        await write(tab, "sentence", offer.pop("type"), **offer, alternatives=True)
        assert tab.text == "A" + words("A", 5) + " and then" + words("A", 1) + " and then"
        assert "offer" not in tab.reply
        asked = source.stand_in.requests[-1]
        assert asked.prompt == "A" + words("A", 5) + " and then" and not asked.healing
        assert (asked.sampling.max_new_tokens, asked.sampling.end_at) == (1, "sentence")
        await tab.act("undo")
        assert tab.text == "A" + words("A", 5)

    run_in_tab(source, story)


def test_it_is_cut_off_in_the_midst_of_a_text_too(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A😀 behind"
        assert await write(tab, "sentence", "continue_at", at=3) == "A😀" + words("A", 5) + " behind"
        assert tab.reply["offer"]["write"]["at"] == len("A😀" + words("A", 5)) + 1

    run_in_tab(source, story)


def test_off_is_exact_and_a_stop_string_needs_no_cut(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        tab.text = "A"
        await write(tab, "none")
        assert tab.text == "A" + words("A", 5) and "offer" not in tab.reply
        await write(tab, "sentence", stops=["A3"])
        assert tab.text == "A" + words("A", 5) + words("A", 3) + " " and "offer" not in tab.reply

    run_in_tab(source, story)


def test_the_page_ends_at_a_sentence_unless_told_otherwise() -> None:
    assert PAGE_END_AT == "sentence" and {value for _, value in CHOICES} == {
        *("none", "sentence", "paragraph", "scene")
    }
