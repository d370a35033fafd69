"""Test a first visit with the shipped model: one click, and a story streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from jet.engine.holder import ModelHolder
from jet.engine.loading import STORY_MODEL, LocalConfig
from jet.ui.page import build, launch
from tests.browser.page_actions import STORY, best

pytestmark = [pytest.mark.browser, pytest.mark.alone]

STREAMING_S = 2.0

# Presses Continue as soon as it can be pressed, and tells when the first words are there. The clock of
# performance.now() starts with the loading of the page.
ONE_CLICK = """
addEventListener("DOMContentLoaded", () => {
    const look = () => {
        const [sheet, go] = ["#jet-story textarea", "#jet-continue"].map(
            (one) => document.querySelector(one));
        if (!window.clicked && window.jetStories && go && !go.disabled) {
            window.clicked = performance.now();
            go.click();
        }
        if (window.clicked && sheet?.value) window.streaming = performance.now();
        else requestAnimationFrame(look);
    };
    look();
})
"""


@pytest.fixture(scope="module")
def real_page() -> Iterator[str]:
    """Load the shipped model and serve the page over it; yield the URL."""
    holder = ModelHolder()
    source = holder.handle(LocalConfig(STORY_MODEL, device="cpu"))
    source.engine()
    demo = build(source)
    yield launch(demo)
    demo.close(verbose=False)
    holder.close()


def test_a_story_streams_two_seconds_after_the_page_was_asked_for(browser: Browser, real_page: str) -> None:
    def from_load_to_words() -> float:
        context = browser.new_context()  # with nothing in its cache
        page = context.new_page()
        page.add_init_script(ONE_CLICK)
        page.goto(real_page)
        page.wait_for_function("window.streaming > 0", timeout=30_000)
        took = page.evaluate("window.streaming") / 1000
        page.click("#jet-stop", timeout=10_000, force=True)
        context.close()
        return float(took)

    assert best(from_load_to_words, STREAMING_S) < STREAMING_S


def test_retry_and_branch_are_seen_and_say_what_they_do(browser: Browser, real_page: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(real_page)
    page.wait_for_selector(".jet-model-info b")
    expect(page.locator(STORY)).to_be_visible()
    assert page.locator("#jet-retry svg, #jet-fork svg").count() == 2  # told apart without reading
    for name in ("Continue", "Retry", "New version from here", "3 options", "Undo"):
        button = page.get_by_role("button", name=name, exact=True)
        expect(button).to_be_in_viewport()  # without scrolling or unfolding anything
    assert "beside" in str(page.get_attribute("#jet-retry", "title"))
    assert "version" in str(page.get_attribute("#jet-fork", "title"))
    page.close()
