"""Test an unstable network and a server that dies: the writer's text stays as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, CDPSession, Page, expect

from tests.browser.conftest import PATIENCE_MS, VIEWPORT
from tests.browser.page_actions import STORY, begin, expect_unlocked, place_cursor, select_tab, stop, story
from tests.ui.process import Process, process

pytestmark = pytest.mark.browser

LINE = "#jet-notices"
LOST = "Connection lost. Your text is here; you can go on writing."
DELTA_MIN_CHARACTERS = "".join(f"Line {number} of a story that scrolls.\n" for number in range(60))
SOON_MS = 12_000  # a few seconds, on a machine that may be busy


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    with process() as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: Process) -> Iterator[Page]:
    """Yield the page in a browser context of its own; fail if it was loaded again during the test."""
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector(".jet-model-info b")
    page.evaluate("window.sameLoad = true")
    yield page
    assert page.evaluate("window.sameLoad"), "the page was loaded again"
    context.close()


class Network:
    """The browser's network, which Chromium's debugging protocol can cut."""

    def __init__(self, page: Page) -> None:
        self._session: CDPSession = page.context.new_cdp_session(page)
        self._session.send("Network.enable")

    def set(self, offline: bool, latency_ms: int = 0) -> None:
        conditions = {"latency": latency_ms, "downloadThroughput": -1, "uploadThroughput": -1}
        self._session.send("Network.emulateNetworkConditions", {"offline": offline, **conditions})


def expect_lost(page: Page) -> None:
    expect(page.locator(LINE)).to_contain_text(LOST, timeout=SOON_MS)


def expect_back(page: Page) -> None:
    expect(page.locator(LINE)).not_to_contain_text("Connection lost")
    page.wait_for_function("jetStories.isSettled()")


def test_a_lost_network_changes_nothing_under_the_writers_hands(page: Page) -> None:
    network = Network(page)
    select_tab(page, "settings")
    page.get_by_label("number input for Temperature").fill("1.3")
    page.fill("#jet-stops", "The End")
    page.fill(STORY, DELTA_MIN_CHARACTERS)
    page.wait_for_timeout(1100)  # a step of Undo
    select_tab(page, "guidance")
    page.click("#jet-lore-add")
    page.locator("#jet-lore [data-lore=keywords]").press_sequentially("half a keyw")
    place_cursor(page, 600)
    page.keyboard.type("ONE ")
    page.eval_on_selector(STORY, "(sheet) => { sheet.scrollTop = 300; }")
    network.set(offline=True)
    page.wait_for_timeout(600)
    page.keyboard.type("TWO ")
    expect_lost(page)
    page.focus("#jet-memory")
    page.keyboard.type("It rai")  # and the field is not left
    page.click("#jet-undo")
    expect(page.locator("#jet-toast")).to_contain_text("could not be done")
    page.focus("#jet-memory")
    network.set(offline=False)
    expect_back(page)
    page.wait_for_timeout(2500)
    assert "ONE TWO " in story(page)
    assert page.input_value("#jet-memory") == "It rai"
    assert page.input_value("#jet-lore [data-lore=keywords]") == "half a keyw"
    assert page.input_value("#jet-stops") == "The End"
    expect(page.get_by_label("number input for Temperature")).to_have_value("1.3")
    expect(page.locator("#jet-tab-guidance")).to_have_attribute("aria-selected", "true")
    selection, scrolled = page.eval_on_selector(STORY, "(sheet) => [sheet.selectionStart, sheet.scrollTop]")
    assert (selection, scrolled) == (608, 300)
    page.focus(STORY)
    page.keyboard.type("THREE ")
    assert "ONE TWO THREE " in story(page)
    page.wait_for_timeout(1100)
    for _ in range(4):  # as far as typing has steps
        if "ONE" not in story(page):
            break
        page.click("#jet-undo")
        page.wait_for_function("jetStories.isSettled()")
    assert story(page) == DELTA_MIN_CHARACTERS


def test_a_server_that_dies_unlocks_the_page_and_one_that_comes_goes_on(page: Page, server: Process) -> None:
    begin(page, "A fine day.")
    server.kill()
    expect_lost(page)
    expect(page.locator("#jet-continue")).to_be_enabled(timeout=SOON_MS)
    expect(page.locator(".jet-status")).to_have_text("Connection lost")
    written = story(page)
    assert re.fullmatch(r"A fine day\.( A\d+)+", written)
    page.wait_for_timeout(300)
    page.focus(STORY)
    page.keyboard.press("Control+End")
    page.keyboard.type(" And mine.")
    for action in ("#jet-continue", "#jet-undo", "#jet-fork"):
        page.evaluate("document.getElementById('jet-toast')?.remove()")
        page.click(action)
        expect(page.locator("#jet-toast")).to_contain_text("There is no connection to the server")
        expect_unlocked(page)
    select_tab(page, "guidance")
    page.fill("#jet-memory", "It rains.")
    page.press("#jet-memory", "Tab")
    server.start()
    expect_back(page)
    assert story(page) == written + " And mine."
    assert page.input_value("#jet-memory") == "It rains."
    page.click("#jet-continue")
    page.wait_for_function(
        "([selector, length]) => document.querySelector(selector).value.length > length",
        arg=[STORY, len(written) + 10],
    )
    assert re.fullmatch(rf"{re.escape(written)} And mine\.( I\d+)+", story(page))  # the memory's letter
    stop(page)


def test_a_server_that_hangs_unlocks_the_page_within_seconds(page: Page, server: Process) -> None:
    begin(page, "A")
    server.hold()
    try:
        expect_lost(page)
        expect(page.locator("#jet-continue")).to_be_enabled(timeout=2000)
    finally:
        server.go_on()
    expect_back(page)
    page.wait_for_timeout(300)
    page.focus(STORY)
    page.keyboard.press("Control+End")
    page.keyboard.type(" Mine")
    begun = story(page)
    page.click("#jet-continue")
    page.wait_for_function(
        "([selector, length]) => document.querySelector(selector).value.length > length",
        arg=[STORY, len(begun)],
    )
    assert story(page).startswith(begun)
    stop(page)


@pytest.mark.thorough
@pytest.mark.parametrize("seconds", [0.5, 2.4, 8.0])
@pytest.mark.parametrize("writes", [False, True])
def test_however_long_the_network_is_away(page: Page, seconds: float, writes: bool) -> None:
    network = Network(page)
    if writes:
        begin(page, "A")
    else:
        page.fill(STORY, "A B")
    place_cursor(page, 1)
    network.set(offline=True)
    page.wait_for_timeout(seconds * 1000)
    network.set(offline=False)
    expect(page.locator("#jet-continue")).to_be_enabled()
    expect_back(page)
    before = story(page)
    page.click("#jet-continue")
    page.wait_for_function("([s, l]) => document.querySelector(s).value.length > l", arg=[STORY, len(before)])
    stop(page)
    assert story(page).startswith(before)


@pytest.mark.thorough
def test_a_line_that_flickers_loses_nothing(page: Page) -> None:
    network = Network(page)
    page.fill(STORY, "A")
    page.focus(STORY)
    page.keyboard.press("Control+End")
    for number in range(6):
        network.set(offline=number % 2 == 0, latency_ms=80)
        page.keyboard.type(f" word{number}")
        page.wait_for_timeout(350)
    network.set(offline=False)
    expect_back(page)
    assert story(page) == "A" + "".join(f" word{number}" for number in range(6))
    expect(page.locator(STORY)).to_be_focused()


@pytest.mark.thorough
def test_a_title_and_guidance_changed_meanwhile_reach_the_server(page: Page, server: Process) -> None:
    page.fill(STORY, "A")
    page.wait_for_function("jetStories.isKept()")
    network = Network(page)
    network.set(offline=True)
    expect_lost(page)
    select_tab(page, "stories")
    page.fill("#jet-title", "The Tower")
    page.press("#jet-title", "Tab")
    select_tab(page, "guidance")
    page.fill("#jet-note", "Be calm.")
    page.press("#jet-note", "Tab")
    page.wait_for_timeout(800)
    network.set(offline=False)
    expect_back(page)
    expect(page.locator("#jet-context")).to_contain_text("note", ignore_case=True)
    page.wait_for_function("jetStories.isKept()")
    kept = page.evaluate("Object.entries(localStorage).filter(([key]) => key.includes(':copy:'))[0][1]")
    assert "The Tower" in kept and "Be calm." in kept
    assert page.input_value("#jet-title") == "The Tower"
