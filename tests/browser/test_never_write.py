"""Test the Never write control in Chromium: it is sent with every command and survives a reload."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.page_actions import begin, expect_unlocked, reload, set_most_tokens
from tests.ui.served import Served

pytestmark = pytest.mark.browser


def test_phrases_and_lists_go_with_every_command_and_stay(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 3)
    tab.locator("#jet-banned").fill("zebra\n\n a testament to ")
    tab.locator("[data-banned-list='machine talk']").check()
    begin(tab, "Once")
    expect_unlocked(tab)
    banned = served.engine.requests[-1].banned
    assert banned[:2] == ("zebra", "a testament to") and "as an AI" in banned
    reload(tab)
    expect(tab.locator("#jet-banned")).to_have_value("zebra\n\n a testament to ")
    expect(tab.locator("[data-banned-list='machine talk']")).to_be_checked()
    tab.locator("#jet-banned").fill("")
    tab.locator("[data-banned-list='machine talk']").uncheck()
    begin(tab, "Twice")
    expect_unlocked(tab)
    assert served.engine.requests[-1].banned == ()
