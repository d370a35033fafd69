"""Test offered words: they come only if no request waits, and count as the model's once they are taken."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jet.engine.whole_words import whole_words
from jet.server.hosting import Hosting
from jet.server.limits import Limits
from jet.ui.handlers import PageController
from jet.ui.offers import MAX_TOKENS
from tests.ui.served import wait_until
from tests.ui.stand_in import StandInSource
from tests.ui.test_handlers import Tab, run_in_tab, words

OFFERED = words("A", MAX_TOKENS - 1)


async def ask(tab: Tab, controller: PageController | None = None, **fields: object) -> str:
    """Return the words offered at the end of the tab's text; an empty string if there are none."""
    command = {"type": "offer", "n": 1, "of": len(tab.text), "settings": {}, **fields}
    answer = await (controller or tab._controller).offer_words(tab.request, json.dumps(command))
    return str(json.loads(answer)["text"]) if answer else ""


async def typed(tab: Tab, text: str) -> None:
    """Set the text of the tab, and send it to the server."""
    tab.text = text
    await tab.write("continue", unwanted=True)


def test_taken_words_are_the_models_and_one_undo(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        await tab._controller._generation.load()
        await typed(tab, "A")
        settings = {"temperature": 0.5, "max_new_tokens": 400, "end_at": "sentence"}
        assert await ask(tab, settings=settings, banned=["zebra"], alternatives=True) == OFFERED
        request = source.stand_in.requests[-1]
        assert (request.sampling.max_new_tokens, request.sampling.end_at) == (MAX_TOKENS, "none")
        assert request.sampling.temperature == 0.5 and request.banned == ("zebra",) and request.healing
        reply = await tab.act("sync", highlight="authorship")
        assert tab.text == "A" and reply["marks"] == [] and not reply["retry"]
        reply = await tab.act("take_offer", offer=1, highlight="authorship")
        assert tab.text == "A" + OFFERED and reply["marks"] == [1, len(tab.text), 0]
        assert reply["cursor"] == len(tab.text)
        assert "20.0 %" in (await tab.act("alternatives", at=5))["word"]["html"]
        await tab.act("take_offer", offer=1)  # a second press takes nothing
        assert tab.text == "A" + OFFERED
        await tab.act("undo")
        assert tab.text == "A"

    run_in_tab(source, story)


def test_words_for_another_text_are_neither_offered_nor_taken(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        await typed(tab, "A")
        assert await ask(tab) == ""  # no model yet, which is not loaded for this
        await tab._controller._generation.load()
        assert await ask(tab, of=7) == ""
        assert await ask(tab) == OFFERED
        tab.text = "A b"
        await tab.act("take_offer", offer=1)
        assert tab.text == "A b"

    run_in_tab(source, story)


def test_typing_on_and_continue_end_the_request_at_once(source: StandInSource) -> None:
    async def story(tab: Tab) -> None:
        engine = source.stand_in
        await tab._controller._generation.load()
        await typed(tab, "A")
        engine.tokens_per_second = 4
        for end in ({"off": True}, None):
            asked = asyncio.create_task(ask(tab))
            await asyncio.to_thread(wait_until, lambda: bool(engine.live))
            if end:
                assert await ask(tab, **end) == ""
            else:
                await tab.write(controls=(1, 0.8, 0.95, 0, 0.05, 1.05, ""))
                assert tab.text == "A A0"
            assert await asked == ""
            await asyncio.to_thread(wait_until, lambda: not engine.live)
        assert len(engine.aborted_at) == 2

    run_in_tab(source, story)


def test_nothing_is_offered_where_somebody_waits_or_there_is_no_room(source: StandInSource) -> None:
    async def play() -> None:
        hosting = Hosting(limits=Limits(stories_per_user=1, starts_per_minute=2))
        controller = PageController(source, hosting)
        await controller._generation.load()
        tab: Any = Tab(controller)
        await typed(tab, "A")
        engine = source.stand_in
        engine.slots = 0  # everybody waits
        assert await ask(tab) == ""
        wait_until(lambda: not engine.live)
        engine.slots = 4
        assert await ask(tab) == OFFERED
        assert await ask(tab) == ""  # that was all for this minute
        hosting.limiter.check(tab.text, tab._controller._sessions.get(("", "one")).document.sampling)
        with hosting.limiter.admit("somebody"):  # whose own starts are all there
            pass

    asyncio.run(asyncio.wait_for(play(), 20))


@pytest.mark.parametrize(
    ("text", "is_complete", "offered"),
    [
        (" house by the se", False, " house by the"),
        (" house by the sea", True, " house by the sea"),
        ("ouse. He sle", False, "ouse."),
        ("ouse\n\nHe sle", False, "ouse"),
        ("\n\nHe slept", False, ""),
        (" un", False, ""),
        ("ouse", False, "ouse"),
        ("。月が出", False, "。月が出"),
        ("月が出て", False, "月が出て"),
        (" “", True, ""),
        ("", True, ""),
    ],
)
def test_whole_words_of_one_sentence_are_offered(text: str, is_complete: bool, offered: str) -> None:
    assert whole_words(text, is_complete) == offered
