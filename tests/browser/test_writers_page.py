"""Test in Chromium what a writer meets: the empty editor, coming back, length, versions, and tools."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.page_actions import (
    STORY,
    begin,
    expect_unlocked,
    press,
    select_tab,
    set_most_tokens,
    stop,
    story,
)
from tests.ui.served import Served

pytestmark = pytest.mark.browser

CHAPTERS = "# One\n\nAnn left. Anna stayed.\n\n# Two\n\nAnn came back.\n\nChapter 3\n\nThe end."


def test_a_first_visit_and_coming_back_are_a_click_each(browser: Browser, served: Served) -> None:
    served.engine.tokens_per_second = 400
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    page = context.new_page()
    page.goto(served.url)
    page.wait_for_selector(".jet-model-info b")
    ghost = str(page.get_attribute(STORY, "placeholder"))
    expect(page.locator(".jet-card:visible")).to_have_count(4)
    for button in ("Continue", "Retry", "Undo"):  # found without unfolding anything
        expect(page.get_by_role("button", name=button, exact=True)).to_be_in_viewport()
    page.focus(STORY)
    page.keyboard.press("Tab")
    expect(page.locator(STORY)).to_have_value(ghost)
    page.keyboard.press("Control+z")
    expect(page.locator(STORY)).to_have_value("")
    page.select_option("#jet-length", label="a sentence")
    page.click("#jet-continue")  # goes on from the beginning in gray
    expect_unlocked(page)
    assert story(page).startswith(ghost) and len(story(page)) > len(ghost)
    assert served.engine.requests[-1].sampling.max_new_tokens == 40
    expect(page.locator("#jet-save-status")).to_have_text(re.compile(r"Saved on this device ✓ \d+:\d\d"))
    expect(page.locator("#jet-words")).to_contain_text(re.compile(r"\d+ words"))
    written = story(page)
    page.wait_for_function("jetStories.isKept()")
    page.close()

    again = context.new_page()
    again.goto(served.url)
    again.get_by_role("button", name=re.compile("^Go on with “.*”, today$")).click()
    expect(again.locator(STORY)).to_have_value(written)
    again.fill("#jet-title", "Mara")
    expect(again).to_have_title("Mara · Jet Stories")
    context.close()


def test_retry_makes_versions_that_two_arrows_walk(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 6)
    begin(tab, "A")
    expect_unlocked(tab)
    expect(tab.locator("#jet-walk")).to_be_empty()
    first = story(tab)
    press(tab, "#jet-retry")
    expect(tab.locator("#jet-walk span")).to_have_text("2/2")
    expect_unlocked(tab)
    second = story(tab)
    press(tab, "#jet-continue")
    expect_unlocked(tab)
    tab.get_by_role("button", name="Previous version").click()
    expect(tab.locator(STORY)).to_have_value(first)
    expect(tab.locator("#jet-walk span")).to_have_text("1/2")
    expect(tab.get_by_role("button", name="Previous version")).to_be_disabled()
    tab.get_by_role("button", name="Next version").click()
    expect(tab.locator(STORY)).to_have_value(re.compile("^" + re.escape(second)))


def test_the_length_and_the_style_show_what_is_set(tab: Page) -> None:
    tab.select_option("#jet-length", label="a paragraph")
    expect(tab.get_by_label("number input for Length in tokens")).to_have_value("120")
    tab.fill("#jet-length-words", "75")
    tab.press("#jet-length-words", "Tab")
    expect(tab.get_by_label("number input for Length in tokens")).to_have_value("100")
    expect(tab.locator("#jet-length")).to_have_value("")
    expect(tab.locator("#jet-length option:checked")).to_have_text("about 75 words")
    for name in ("Wild", "Balanced"):
        tab.click(f"text={name}")
        expect(tab.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "true")
        expect(tab.locator("[data-preset][aria-pressed=true]")).to_have_count(1)


def test_a_double_click_on_continue_stops_nothing(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 20
    set_most_tokens(tab, 1000)  # for as long as a busy machine takes
    tab.fill(STORY, "A")
    box = tab.locator("#jet-continue").bounding_box()
    assert box is not None
    tab.mouse.dblclick(box["x"] + 20, box["y"] + 10)
    tab.wait_for_timeout(400)
    expect(tab.locator("#jet-stop")).to_be_enabled()
    stop(tab)
    assert story(tab) != "A"


def test_find_and_replace_is_one_undo(tab: Page) -> None:
    tab.fill(STORY, CHAPTERS)
    tab.focus(STORY)
    tab.keyboard.press("Control+Home")
    tab.keyboard.press("Control+f")
    tab.keyboard.type("ann")
    expect(tab.locator("#jet-find-count")).to_have_text("1 of 3")
    tab.check("#jet-find-whole")
    expect(tab.locator("#jet-find-count")).to_have_text("1 of 2")
    tab.focus("#jet-find-text")
    tab.keyboard.press("Enter")
    expect(tab.locator("#jet-find-count")).to_have_text("2 of 2")
    tab.fill("#jet-find-replacement", "Bea")
    tab.click("#jet-find-all")
    expect(tab.locator(STORY)).to_have_value(CHAPTERS.replace("Ann ", "Bea "))
    tab.click("#jet-toast button:text-is('Undo')")
    expect(tab.locator(STORY)).to_have_value(CHAPTERS)
    tab.uncheck("#jet-find-whole")
    tab.check("#jet-find-regex")
    tab.fill("#jet-find-text", r"(\w+) (left|stayed)\.")
    tab.fill("#jet-find-replacement", r"$1 $2!\n")
    tab.focus("#jet-find-replacement")
    expect(tab.locator("#jet-find-count")).to_have_text("1 of 2")
    tab.keyboard.press("Enter")  # the first of them only
    expect(tab.locator(STORY)).to_have_value(re.compile(r"Ann left!\n Anna stayed"))
    tab.fill("#jet-find-text", "(")
    expect(tab.locator("#jet-find-count")).to_contain_text("cannot be read")
    tab.fill("#jet-find-text", "(a+)+$")
    tab.fill(STORY, "a" * 40 + "!")
    tab.click("#jet-find-next")
    expect(tab.locator("#jet-find-count")).to_contain_text("takes too long")
    tab.focus("#jet-find-text")
    tab.keyboard.press("Escape")
    expect(tab.locator("#jet-find")).to_be_hidden()
    tab.evaluate(
        "for (const one of document.querySelectorAll('#jet-find input')) "
        "{ one.value = one.type === 'checkbox' ? one.value : ''; one.checked = false; }"
    )


def test_chapters_are_an_outline_to_jump_and_drag(tab: Page) -> None:
    tab.fill(STORY, CHAPTERS)
    select_tab(tab, "tools")
    rows = tab.locator("#jet-outline li")
    expect(rows).to_have_count(3)
    tab.click("#jet-outline >> text=Two")
    at = tab.eval_on_selector(STORY, "(box) => box.selectionStart")
    assert CHAPTERS[at:].startswith("# Two")
    rows.nth(2).drag_to(rows.nth(0), target_position={"x": 20, "y": 2})
    expect(tab.locator(STORY)).to_have_value(re.compile(r"^Chapter 3\n\nThe end\.\n\n# One\n"))
    tab.get_by_role("button", name="Move down: Chapter 3").click()
    expect(tab.locator(STORY)).to_have_value(re.compile(r"^# One[^#]*Chapter 3\n\nThe end\.\n\n# Two\n"))
    tab.click("#jet-undo")
    expect(tab.locator(STORY)).to_have_value(re.compile("^Chapter 3"))
    expect(tab.locator("#jet-summary")).to_contain_text(re.compile(r"Words\s*\d+"))


def test_the_sheet_looks_as_its_writer_likes_it(tab: Page) -> None:
    size = "(box) => parseFloat(getComputedStyle(box).fontSize)"
    select_tab(tab, "tools")
    before = tab.eval_on_selector(STORY, size)
    tab.select_option("#jet-view-size", "large")
    tab.select_option("#jet-view-theme", "dark")
    assert tab.eval_on_selector(STORY, size) > before
    tab.reload()
    tab.wait_for_selector(".jet-model-info b")
    assert tab.eval_on_selector(STORY, size) > before
    assert tab.evaluate("document.body.classList.contains('dark')")
    select_tab(tab, "tools")
    tab.select_option("#jet-view-size", "medium")
    tab.select_option("#jet-view-theme", "light")
    tab.click("#jet-enter-focus")
    for hidden in (".jet-header", ".jet-tabs", ".jet-panel", "#jet-outline"):
        expect(tab.locator(hidden)).to_be_hidden()
    expect(tab.locator("#jet-continue")).to_be_in_viewport()
    tab.click("#jet-leave-focus")
    expect(tab.locator(".jet-header")).to_be_visible()
    select_tab(tab, "settings")


SPEECH = """() => {
    window.said = [];
    const speech = {
        getVoices: () => [{ name: "Test", lang: "en" }],
        addEventListener() {},
        cancel() { window.said.push("(cancel)"); },
        speak(one) {
            window.said.push(one.text);
            one.onstart?.();
            setTimeout(() => one.onend?.(), 20);
        },
    };
    Object.defineProperty(window, "speechSynthesis", { configurable: true, value: speech });
    window.SpeechSynthesisUtterance = class { constructor(text) { this.text = text; } };
}"""


def test_the_story_is_read_aloud_sentence_by_sentence(tab: Page) -> None:
    tab.evaluate(SPEECH)
    tab.fill(STORY, "One here. Two there.\n\nThree.")
    select_tab(tab, "tools")
    tab.click("#jet-read")
    tab.wait_for_function("said.length >= 4")
    assert tab.evaluate("said") == ["One here.", "Two there.", "Three.", "(cancel)"]
    expect(tab.locator("#jet-read")).to_have_text("Read aloud")
    select_tab(tab, "settings")


def test_a_selection_is_rewritten_in_its_place_and_versions_walked(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 400
    tab.fill(STORY, "One came. Two left. Three stayed.")
    expect(tab.locator("#jet-rewrite")).to_be_disabled()
    tab.focus(STORY)
    tab.eval_on_selector(STORY, "(box) => box.setSelectionRange(9, 20)")
    expect(tab.locator("#jet-rewrite")).to_be_enabled()
    tab.select_option("#jet-rewrite", "shorten")
    expect(tab.locator("#jet-toast")).to_contain_text("takes no instructions")
    expect_unlocked(tab)
    first = story(tab)
    assert re.fullmatch(r"One came\. (.*\w.*) Three stayed\.", first) and "Two" not in first
    press(tab, "#jet-retry")
    expect(tab.locator("#jet-walk span")).to_have_text("2/2")
    expect_unlocked(tab)
    assert story(tab).startswith("One came. ") and story(tab).endswith(" Three stayed.")
    tab.get_by_role("button", name="Previous version").click()
    expect(tab.locator(STORY)).to_have_value(first)
    tab.click("#jet-undo")
    tab.click("#jet-undo")
    tab.click("#jet-undo")
    expect(tab.locator(STORY)).to_have_value("One came. Two left. Three stayed.")
