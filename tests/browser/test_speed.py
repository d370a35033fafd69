"""Test that at 500 tokens per second the page, with its panel, is smooth and ends with the engine."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Page

from tests.browser.page_actions import STORY, best, expect_unlocked, set_most_tokens, story
from tests.ui.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.alone]

SPEED, TOKENS = 500, 1000
FRAMES, LATE_S = 30, 0.3

# Counts frames from the first new words to the last, and notes when the last ones came (on the clock that
# Python's time.time() reads, too).
WATCH = """([selector, last]) => new Promise((resolve) => {
    const sheet = document.querySelector(selector);
    const [before, frames] = [sheet.value.length, []];
    const look = () => {
        if (sheet.value.length > before) frames.push(performance.now());
        if (!sheet.value.endsWith(last)) return requestAnimationFrame(look);
        return resolve([frames.length / (frames.at(-1) - frames[0]) * 1000, Date.now() / 1000]);
    };
    document.querySelector("#jet-continue").click();
    look();
})"""


def stream(page: Page, served: Served) -> tuple[float, float]:
    """Stream a story; return the frames per second, and the seconds from the engine's end to the page's."""
    page.fill(STORY, "A")
    frames, shown = page.evaluate(WATCH, [STORY, f" A{TOKENS - 1}"])
    expect_unlocked(page)
    assert story(page).count(" ") == TOKENS
    return frames, shown - served.engine.ended_at


@pytest.fixture
def fast(tab: Page, served: Served) -> Page:
    served.engine.tokens_per_second, served.engine.context = SPEED, 10_000
    set_most_tokens(tab, TOKENS)
    return tab


def test_at_500_tokens_a_second_the_page_draws_30_frames_a_second(fast: Page, served: Served) -> None:
    slowest = best(lambda: 1 / stream(fast, served)[0], 1 / FRAMES)
    assert 1 / slowest >= FRAMES
    assert "tokens a second" in fast.inner_text(".jet-panel")


def test_at_500_tokens_a_second_the_page_ends_with_the_engine(fast: Page, served: Served) -> None:
    assert best(lambda: stream(fast, served)[1], LATE_S) < LATE_S


def test_the_engine_was_as_fast_as_that(fast: Page, served: Served) -> None:
    started = time.time()
    stream(fast, served)
    assert served.engine.ended_at - started < 1.5 * TOKENS / SPEED + 1
