"""Time the page in a browser: until it can be used, from a key to the screen, and from frame to frame.

Each function returns seconds, the median of several measurements. The figures mean something only on a quiet
machine.
"""

from __future__ import annotations

import statistics
from typing import Any

from playwright.sync_api import Browser, Page

USABLE_S, KEYSTROKE_S, FRAME_S = 1.0, 0.05, 1 / 30
TAKES = 5
STORY = "#jet-story textarea"
_MEGABYTE = 1_000_000
_KEYS, _KEY_PAUSE_MS = 25, 60

_KEY_TO_PAINT = """() => {
    window.delays = [];
    document.addEventListener("keydown", () => {
        const pressed = performance.now();
        requestAnimationFrame(() => {
            const painted = new MessageChannel();
            painted.port1.onmessage = () => window.delays.push(performance.now() - pressed);
            painted.port2.postMessage(null);
        });
    }, true);
}"""
_FRAMES = """([selector, most]) => new Promise((resolve) => {
    const sheet = document.querySelector(selector), times = [];
    const look = (now) => {
        if (sheet.value) times.push(now);
        const writes = document.querySelector("#jet-stop:enabled") || times.length < 5;
        if (writes && times.length < most) return requestAnimationFrame(look);
        return resolve((times.at(-1) - times[0]) / (times.length - 1) / 1000);
    };
    document.querySelector("#jet-continue").click();
    requestAnimationFrame(look);
})"""


def usable(browser: Browser, url: str, ready: str) -> float:
    """Return the seconds from the request of the page, with an empty cache, until the page can be used.

    Args:
        browser: a Chromium.
        url: URL of the page.
        ready: selector of an element that appears once the page can be used.
    """
    took = []
    for _ in range(TAKES):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url, wait_until="commit")
        page.wait_for_selector(ready)
        if page.locator("#jet-story").count():
            page.wait_for_function("window.jetStories")
        took.append(float(page.evaluate("performance.now()")) / 1000)
        context.close()
    return statistics.median(took)


def keystroke(browser: Browser, url: str) -> float:
    """Return the seconds from a key press in the middle of a megabyte of text until it is painted."""
    context, page = _opened(browser, url)
    text = ("The old keeper opened the door and the sea came in with salt. " * 6 + "\n\n") * 2700
    page.eval_on_selector(
        STORY,
        """(sheet, text) => {
            sheet.value = text;
            sheet.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        text[:_MEGABYTE],
    )
    page.wait_for_function("jetStories.isKept()", timeout=60_000)
    page.evaluate(_KEY_TO_PAINT)
    page.focus(STORY)
    page.eval_on_selector(STORY, "(sheet, at) => sheet.setSelectionRange(at, at)", _MEGABYTE // 2)
    for _ in range(_KEYS):
        page.keyboard.press("x")
        page.wait_for_timeout(_KEY_PAUSE_MS)
    page.wait_for_function(f"window.delays.length === {_KEYS}")
    delays: list[float] = page.evaluate("window.delays")
    context.close()
    return statistics.median(delays) / 1000


def frame(browser: Browser, url: str, tokens: int) -> float:
    """Return the mean seconds between frames while a story of `tokens` tokens streams."""
    took = []
    for _ in range(TAKES):
        context, page = _opened(browser, url)
        page.click("#jet-tab-settings")
        page.get_by_label("number input for Length in tokens").fill(str(tokens))
        page.click("#jet-tab-settings")
        took.append(float(page.evaluate(_FRAMES, [STORY, 100_000])))
        context.close()
    return statistics.median(took)


def _opened(browser: Browser, url: str) -> tuple[Any, Page]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".jet-model-info b")
    page.wait_for_function("window.jetStories")
    return context, page
