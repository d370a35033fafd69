"""Test that axe finds no fault: light, dark, in forced colors, narrow, wide, idle, and while generating."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.page_actions import begin, expect_unlocked, press, select_tab, set_most_tokens, stop
from tests.ui.served import Served

pytestmark = pytest.mark.thorough


def findings(page: Page) -> list[str]:
    """Return all findings of axe, once all transitions have ended."""
    page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {one['help']}, {one['nodes'][0]['html']}" for one in found]


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_nothing_keeps_anybody_out(tab: Page, served: Served, scheme: str, width: int) -> None:
    served.engine.tokens_per_second = 4  # for as long as it is looked at
    tab.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    tab.set_viewport_size({"width": width, "height": 900})
    tab.reload()
    tab.wait_for_selector(".jet-model-info b")
    assert not findings(tab)
    begin(tab, "A")
    assert not findings(tab)
    stop(tab)
    assert not findings(tab)
    tab.emulate_media(forced_colors="active")
    assert not findings(tab)
    tab.emulate_media(forced_colors="none")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_no_tab_blocks_the_page(tab: Page, scheme: str, width: int) -> None:
    tab.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    tab.set_viewport_size({"width": width, "height": 900})
    set_most_tokens(tab, 6)
    begin(tab, "A")
    expect_unlocked(tab)
    press(tab, "#jet-write-variants")
    expect_unlocked(tab)
    for drawer in ("guidance", "stories", "engine", "tools", "branches"):
        select_tab(tab, drawer)
        assert not findings(tab), drawer
    tab.click("#jet-tree >> text=Compare >> nth=0")  # where the pointer stays
    expect(tab.locator("#jet-compare pre").first).to_be_visible()
    assert not findings(tab)
