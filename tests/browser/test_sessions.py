"""Test a whole session by keyboard alone, and one by roles and names of the accessibility tree alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.ui.served import Served

pytestmark = pytest.mark.browser

MOST_TABS = 60  # stops of the Tab key from one end of the page to the other, at most


@pytest.fixture
def fresh(browser: Browser, served: Served) -> BrowserContext:
    """Return a new browser context, and make the engine fast."""
    served.engine.tokens_per_second = 400
    context = browser.new_context(viewport={"width": 1366, "height": 768}, accept_downloads=True)
    context.set_default_timeout(20_000)
    return context


def open_page(context: BrowserContext, url: str) -> Page:
    """Open the page; wait until it names its model and its script is ready."""
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_text("stand-in <model>")).to_be_visible()
    page.wait_for_function("window.jetStories")
    return page


def is_focused(place: Locator) -> bool:
    """Return whether an element has the focus."""
    return bool(place.evaluate("(one) => one === document.activeElement"))


def walk_to(page: Page, place: Locator, key: str = "Tab") -> None:
    """Press a key until an element has the focus; check that the focus is visible and on screen."""
    for _ in range(MOST_TABS):
        if is_focused(place):
            seen = place.evaluate(
                """(one) => one.matches("textarea") || parseFloat(getComputedStyle(one).outlineWidth) > 0
                    || getComputedStyle(one).boxShadow !== "none" """
            )
            assert seen, "no outline"
            expect(place).to_be_in_viewport()
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} does not lead to {place}")


def written(page: Page) -> str:
    """Return the story."""
    return page.get_by_role("textbox", name="Your story").input_value()


def wait_until_written(page: Page) -> None:
    """Wait until the generation has ended and Continue is enabled."""
    expect(page.get_by_role("button", name="Continue", exact=True)).to_be_enabled()
    page.wait_for_function("jetStories.isSettled()")


def test_a_whole_session_by_keyboard_alone(fresh: BrowserContext, served: Served) -> None:
    page = open_page(fresh, served.url)
    press = page.keyboard.press
    sheet = page.get_by_role("textbox", name="Your story")
    walk_to(page, sheet)
    press("Tab")  # takes the beginning in gray
    expect(sheet).to_have_value(re.compile("."))
    beginning = written(page)
    page.keyboard.type(" One came. One left.")
    walk_to(page, page.get_by_role("combobox", name="Length"))
    press("Home")  # the shortest
    expect(page.get_by_role("combobox", name="Length")).to_have_value("40")
    walk_to(page, page.get_by_role("button", name="Continue", exact=True), "Shift+Tab")
    press("Enter")
    wait_until_written(page)
    first = written(page)
    assert first.startswith(f"{beginning} One came. One left.") and " One" in first
    press("Alt+r")  # Retry, by its shortcut
    expect(page.get_by_role("group", name="Versions of this continuation")).to_contain_text("2/2")
    wait_until_written(page)
    walk_to(page, page.get_by_role("button", name="Previous version"))
    press("Enter")
    expect(page.get_by_role("group", name="Versions of this continuation")).to_contain_text("1/2")
    expect(sheet).to_have_value(first)

    served.engine.tokens_per_second = 20
    walk_to(page, sheet, "Shift+Tab")
    press("Control+Enter")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_enabled()
    expect(sheet).not_to_have_value(first)
    press("Escape")
    wait_until_written(page)
    served.engine.tokens_per_second = 400

    press("Control+f")
    page.keyboard.type("One")
    press("Tab")
    page.keyboard.type("Ann")
    walk_to(page, page.get_by_role("button", name="Replace all"))
    press("Enter")
    expect(sheet).to_have_value(re.compile("Ann came. Ann left."))
    press("Escape")
    expect(page.get_by_role("search")).to_be_hidden()
    page.wait_for_function("jetStories.isSettled()")
    walk_to(page, sheet, "Shift+Tab")
    press("Control+z")
    expect(sheet).to_have_value(re.compile("One came. One left."))
    page.wait_for_function("jetStories.isSettled()")

    walk_to(page, page.get_by_role("tab", name="Story"))
    press("Enter")
    for name in ("World", "Versions", "Library"):
        press("ArrowRight")
        expect(page.get_by_role("tab", name=name)).to_be_focused()
    walk_to(page, page.get_by_role("button", name="Text", exact=True))
    with page.expect_download() as saved:
        press("Enter")
    assert "One came." in saved.value.path().read_text(encoding="utf-8")
    walk_to(page, page.get_by_role("tab", name="Library"), "Shift+Tab")
    press("End")
    walk_to(page, page.get_by_role("combobox", name="Colors"))
    press("End")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    press("Escape")  # closes the drawer
    expect(page.get_by_role("combobox", name="Colors")).to_be_hidden()
    expect(sheet).to_be_focused()
    text = written(page)
    page.wait_for_function("jetStories.isKept()")
    page.close()

    again = open_page(fresh, served.url)
    walk_to(again, again.get_by_role("button", name=re.compile("^Go on with")))
    again.keyboard.press("Enter")
    expect(again.get_by_role("textbox", name="Your story")).to_have_value(text)
    expect(again.locator("body")).to_have_class(re.compile("dark"))
    fresh.close()


def test_a_whole_session_by_roles_and_names_alone(fresh: BrowserContext, served: Served) -> None:
    page = open_page(fresh, served.url)
    button = lambda name: page.get_by_role("button", name=name, exact=True)  # noqa: E731
    sheet = page.get_by_role("textbox", name="Your story")
    beginnings = page.get_by_role("group", name="Beginnings").get_by_role("button")
    expect(beginnings.first).to_be_visible()
    beginnings.first.click()
    expect(sheet).to_have_value(re.compile("."))
    page.get_by_role("textbox", name="Title").fill("The keeper")
    page.get_by_role("combobox", name="Length").select_option("a sentence")
    button("Continue").click()
    wait_until_written(page)
    first = written(page)
    button("Retry").click()
    versions = page.get_by_role("group", name="Versions of this continuation")
    expect(versions).to_contain_text("2/2")
    wait_until_written(page)
    versions.get_by_role("button", name="Previous version").click()
    expect(sheet).to_have_value(first)
    served.engine.tokens_per_second = 20
    button("Continue").click()
    expect(sheet).not_to_have_value(first)
    button("Stop").click()
    wait_until_written(page)
    expect(page.get_by_role("status").filter(has_text="Stopped").first).to_be_attached()
    served.engine.tokens_per_second = 400
    button("Undo").click()
    expect(sheet).to_have_value(first)

    tabs = page.get_by_role("tablist", name="Beside the story")
    tabs.get_by_role("tab", name="Tools").click()
    panel = page.get_by_role("tabpanel", name="Tools")
    panel.get_by_role("button", name="Find and replace").click()
    finding = page.get_by_role("search", name="Find and replace")
    finding.get_by_role("textbox", name="Find").fill(first.split()[1])
    expect(finding.get_by_role("status")).to_have_text(re.compile(r"\d"))
    finding.get_by_role("textbox", name="Replace with").fill("XYZ")
    finding.get_by_role("button", name="Replace all").click()
    expect(sheet).to_have_value(re.compile("XYZ"))
    finding.get_by_role("button", name="Close find and replace").click()
    panel.get_by_role("combobox", name="Colors").select_option("dark")
    tabs.get_by_role("tab", name="World").click()
    page.get_by_role("textbox", name=re.compile("^Memory")).fill("Ann keeps the light.")
    tabs.get_by_role("tab", name="Library").click()
    with page.expect_download() as saved:
        page.get_by_role("tabpanel", name="Library").get_by_role("button", name="Markdown").click()
    assert "XYZ" in saved.value.path().read_text(encoding="utf-8")
    tabs.get_by_role("tab", name="Library").click()  # and closed
    expect(page.get_by_role("tabpanel")).to_have_count(0)
    text = written(page)
    page.wait_for_function("jetStories.isKept()")
    page.close()

    page = open_page(fresh, served.url)
    page.get_by_role("button", name=re.compile("^Go on with “The keeper”")).click()
    expect(page.get_by_role("textbox", name="Your story")).to_have_value(text)
    fresh.close()
