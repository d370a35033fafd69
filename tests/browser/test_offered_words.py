"""Test in Chromium the words offered in gray: taken by Tab, dropped by anything else, never in the way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from jet.ui.offers import MAX_TOKENS
from tests.browser.page_actions import STORY, expect_unlocked, select_tab
from tests.browser.page_actions import set_most_tokens as set_length
from tests.ui.served import Served

pytestmark = pytest.mark.browser

GHOST = ".jet-ghost"
OFFERED = "".join(f" A{index}" for index in range(MAX_TOKENS - 1))


@pytest.fixture
def offering(tab: Page, served: Served) -> Iterator[Page]:
    """Yield the page with offered words switched on, and the caret in an empty editor."""
    served.engine.tokens_per_second = 400
    select_tab(tab, "settings")
    tab.check("#jet-offers")
    tab.click(STORY)
    yield tab
    select_tab(tab, "settings")
    tab.uncheck("#jet-offers")


def test_tab_takes_the_words_in_gray_and_typing_drops_them(offering: Page, served: Served) -> None:
    page, ghost = offering, offering.locator(GHOST)
    page.keyboard.type("A")
    expect(ghost).to_have_text(OFFERED)
    expect(page.locator(STORY)).to_have_value("A")
    expect(page.locator("#jet-state")).to_contain_text("Tab takes it")
    caret = page.evaluate("document.querySelector('.jet-ghost').getBoundingClientRect().left")
    box = page.locator(STORY).bounding_box()
    assert box is not None and caret > box["x"]
    page.keyboard.type("!")
    expect(ghost).to_have_count(0)
    expect(ghost).to_have_text(OFFERED)
    page.keyboard.press("Escape")
    expect(ghost).to_have_count(0)
    expect(page.locator("#jet-tab-settings")).to_have_attribute("aria-selected", "true")
    expect(page.locator(STORY)).to_have_value("A!")
    page.keyboard.press("Backspace")
    expect(ghost).to_have_text(OFFERED)
    page.keyboard.press("Tab")
    expect(page.locator(STORY)).to_have_value("A" + OFFERED)
    expect(page.locator(STORY)).to_be_focused()
    page.wait_for_function("CSS.highlights.get('jet-model')?.size > 0")  # they are the model's
    expect(ghost).to_have_text(OFFERED)  # and it goes on from there
    page.keyboard.press("ArrowLeft")
    expect(ghost).to_have_count(0)
    page.click("#jet-undo")
    expect(page.locator(STORY)).to_have_value("A")


def test_offers_hold_up_neither_continue_nor_leaving_nor_an_input_method(
    offering: Page, served: Served
) -> None:
    page, ghost, engine = offering, offering.locator(GHOST), served.engine
    set_length(page, 2)
    page.click(STORY)
    engine.tokens_per_second = 2
    page.keyboard.type("A")
    page.wait_for_function("jetStories.isSettled()")
    while not engine.live:
        page.wait_for_timeout(20)
    page.keyboard.press("Tab")  # there are no words in gray: the key leaves the sheet
    expect(page.locator(STORY)).not_to_be_focused()
    while engine.live:  # and the words are not waited for any longer
        page.wait_for_timeout(20)
    assert engine.aborted_at
    page.focus(STORY)
    page.keyboard.type("B")
    while not engine.live:
        page.wait_for_timeout(20)
    engine.tokens_per_second = 400
    page.keyboard.press("Control+Enter")
    expect(page.locator(STORY)).to_have_value("AB A0 A1")
    expect_unlocked(page)
    expect(ghost).to_have_count(0)

    page.keyboard.type(" ")
    expect(ghost).to_be_visible()
    session = page.context.new_cdp_session(page)
    session.send("Input.imeSetComposition", {"text": "か", "selectionStart": 1, "selectionEnd": 1})
    expect(ghost).to_have_count(0)
    session.send("Input.insertText", {"text": "蚊"})
    expect(page.locator(STORY)).to_have_value("AB A0 A1 蚊")
    expect(ghost).to_be_visible()
    page.locator("#jet-title").focus()
    expect(ghost).to_have_count(0)
    expect(page.locator(STORY)).to_have_value("AB A0 A1 蚊")
