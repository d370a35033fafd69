"""Test that browser storage of an earlier version is read, and that its values keep their names."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.browser.page_actions import STORY, select_tab
from tests.story.test_saved_files import SAVED
from tests.ui.served import Served

pytestmark = pytest.mark.browser

# An earlier version's index and copy of a story have one title.
COPY = json.dumps(
    {**json.loads((SAVED / "browser-copy.json").read_text(encoding="utf-8")), "title": "The Tower"}
)
DRAFT = "The door opened. did it?"
STORAGE = {
    "jet-stories:index": {"old": {"title": "The Tower", "preview": DRAFT, "saved": 1_764_000_000_000}},
    "jet-stories:presets": {"Mine": {"temperature": 0.7, "top_p": 0.9}},
    "jet-stories:taste": {"stops": "The End", "alternatives": False, "tint": "doubt"},
}


@pytest.fixture
def old_page(context: BrowserContext, served: Served, troubles: list[str]) -> Iterator[Page]:
    page = context.new_page()
    values = {key: json.dumps(value) for key, value in STORAGE.items()}
    values |= {"jet-stories:draft:old": DRAFT, "jet-stories:copy:old": COPY}
    page.add_init_script(
        f"for (const [key, value] of Object.entries({json.dumps(values)})) localStorage[key] ??= value;"
        'sessionStorage["jet-stories:id"] ??= "old";'
    )
    page.goto(served.url)
    page.wait_for_selector(".jet-model-info b")
    yield page
    page.evaluate("sessionStorage.clear(); localStorage.clear()")
    page.close()


def test_what_an_earlier_version_has_left_in_the_browser_is_there(old_page: Page) -> None:
    expect(old_page.locator(STORY)).to_have_value(DRAFT)
    assert old_page.input_value("#jet-highlight") == "confidence"
    assert old_page.input_value("#jet-stops") == "The End" and not old_page.is_checked("#jet-alternatives")
    expect(old_page.locator("#jet-own-presets button").first).to_have_text("Mine")
    select_tab(old_page, "branches")
    expect(old_page.locator("#jet-tree li")).to_have_count(len(json.loads(COPY)["branches"]))
    select_tab(old_page, "stories")
    expect(old_page.locator("#jet-library")).to_contain_text("The Tower")
    old_page.select_option("#jet-highlight", "authorship")
    assert json.loads(old_page.evaluate('localStorage["jet-stories:taste"]'))["tint"] == "whose"
