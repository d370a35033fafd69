"""Provide one Chromium and one page server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser.page_actions import PATIENCE_MS, STORY, empty_editor, expect_unlocked
from tests.ui.served import Served, page_server, served

__all__ = ["page_server", "served"]

QUIET = (  # nothing that Chromium does of its own accord
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWPORT = {"width": 1280, "height": 900}

expect.set_options(timeout=PATIENCE_MS)
OpenTab = Callable[[], Page]


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def context(browser: Browser, page_server: Served) -> BrowserContext:
    """Return the browser context that all tabs share.

    Its cache opens pages faster, and tabs must be independent of each other anyway.
    """
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    return context


@pytest.fixture
def troubles(context: BrowserContext, page_server: Served) -> Iterator[list[str]]:
    """Collect requests to other hosts and logged errors; fail the test if there are any."""
    troubles: list[str] = []

    def note_request(url: str) -> None:
        if not url.startswith((page_server.url, "data:", "blob:")):
            troubles.append(f"request to {url}")

    def note_console(kind: str, text: str) -> None:
        if kind == "error":
            troubles.append(f"console: {text}")

    listeners = {
        "request": lambda request: note_request(request.url),
        "console": lambda message: note_console(message.type, message.text),
        "weberror": lambda error: troubles.append(f"error: {error.error}"),
    }
    for event, listener in listeners.items():
        context.on(event, listener)  # type: ignore[call-overload]
    yield troubles
    for event, listener in listeners.items():
        context.remove_listener(event, listener)
    assert not troubles


@pytest.fixture
def open_tab(context: BrowserContext, served: Served, troubles: list[str]) -> Iterator[OpenTab]:
    """Yield a function that opens the page in a new tab."""
    tabs = []

    def open_page() -> Page:
        tabs.append(context.new_page())
        tabs[-1].goto(served.url)
        tabs[-1].wait_for_selector(STORY)
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.close()


@pytest.fixture(scope="package")
def standing_tab(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def tab(standing_tab: Page, served: Served, troubles: list[str]) -> Iterator[Page]:
    """Yield the page with an empty editor and a loaded model.

    Opening the page takes seconds, so one tab serves many tests. A test that leaves the page locked fails.
    """
    page = standing_tab
    if not page.url.startswith(served.url):
        page.goto(served.url)
    page.set_viewport_size(VIEWPORT)  # type: ignore[arg-type]
    page.emulate_media(color_scheme="light")
    page.wait_for_selector(".jet-model-info b")
    empty_editor(page)
    yield page
    try:
        expect_unlocked(page)
    finally:
        page.evaluate("sessionStorage.clear(); localStorage.clear()")
        if page.is_disabled("#jet-continue"):
            page.goto("about:blank")
