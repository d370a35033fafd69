"""Test in Chromium what a reload and a new story keep, and what the panel says about the story."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.page_actions import (
    STORY,
    begin,
    expect_unlocked,
    place_cursor,
    press,
    reload,
    select_tab,
    set_most_tokens,
    show_numbers,
    stop,
    story,
)
from tests.ui.served import Served

pytestmark = pytest.mark.browser

DELTA_MIN_CHARACTERS = "".join(f"Line {number} of a long story.\n\n" for number in range(400))


def number(page: Page, label: str) -> str:
    return page.get_by_label(f"number input for {label}").input_value()


def row(page: Page, name: str) -> str:
    """Return the value that the panel shows beside a name."""
    shown = page.locator(".jet-panel dl", has_text=name).first.inner_text()
    found = re.search(rf"{name}\s+([^\n]+)", shown)
    assert found, shown
    return found[1]


def test_taste_survives_a_reload_and_a_new_story(tab: Page) -> None:
    tab.click("text=Wild")
    expect(tab.get_by_label("number input for Temperature")).to_have_value("1.2")
    tab.get_by_label("number input for Top-p").fill("0.7")
    set_most_tokens(tab, 33)
    tab.fill("#jet-stops", "The End\n* * *")
    tab.select_option("#jet-highlight", "confidence")
    tab.uncheck("#jet-alternatives")
    tab.fill(STORY, "A story.")
    tab.wait_for_function("jetStories.isKept()")

    def expect_taste() -> None:
        expect(tab.get_by_label("number input for Temperature")).to_have_value("1.2")
        tab.wait_for_timeout(200)  # whatever would change it comes with the story
        shown = [number(tab, label) for label in ("Top-p", "Length in tokens")]
        assert shown == ["0.7", "33"]
        assert tab.input_value("#jet-stops") == "The End\n* * *"
        assert tab.input_value("#jet-highlight") == "confidence" and not tab.is_checked("#jet-alternatives")

    reload(tab)
    expect(tab.locator(STORY)).to_have_value("A story.")
    expect_taste()
    tab.evaluate("document.getElementById('jet-new').click()")
    expect(tab.locator(STORY)).to_have_value("")
    tab.wait_for_function("jetStories.isSettled()")
    expect_taste()
    tab.fill(STORY, "B")
    tab.wait_for_function("jetStories.isKept()")
    select_tab(tab, "stories")
    tab.click("#jet-library >> text=A story.")
    expect(tab.locator(STORY)).to_have_value("A story.")
    tab.wait_for_function("jetStories.isSettled()")
    select_tab(tab, "settings")
    expect_taste()


def test_a_reload_comes_back_to_the_same_place(tab: Page) -> None:
    tab.fill(STORY, DELTA_MIN_CHARACTERS)
    tab.wait_for_function("jetStories.isKept()")
    select_tab(tab, "guidance")
    tab.locator("#jet-context summary").first.click()
    tab.fill("#jet-note", "Be calm")
    place_cursor(tab, 5000)
    tab.eval_on_selector(STORY, "(sheet) => { sheet.scrollTop = 3000; }")
    tab.focus("#jet-memory")
    tab.keyboard.type("half a mem")
    reload(tab)
    expect(tab.locator(STORY)).to_have_value(DELTA_MIN_CHARACTERS)
    expect(tab.locator("#jet-tab-guidance")).to_have_attribute("aria-selected", "true")
    expect(tab.locator("#jet-memory")).to_have_value("half a mem")
    expect(tab.locator("#jet-note")).to_have_value("Be calm")
    tab.wait_for_function(
        """([selector, ...place]) => {
            const { scrollTop, selectionStart } = document.querySelector(selector);
            return `${place}` === `${[scrollTop, selectionStart]}`;
        }""",
        arg=[STORY, 3000, 5000],
    )
    expect(tab.locator("#jet-context details[open]").first).to_be_visible()
    tab.wait_for_function("jetStories.isSettled()")


EARLY = """(() => {
    const sheet = () => document.querySelector("#jet-story textarea");
    const type = () => {
        sheet().focus();
        document.execCommand("insertText", false, "typed early");
        window.wasEmpty = sheet().value === "typed early";
    };
    const seen = new MutationObserver(() => {
        if (!sheet() || sessionStorage.getItem("early") === null) return;
        sessionStorage.removeItem("early");
        seen.disconnect();
        type();
    });
    seen.observe(document, { subtree: true, childList: true });
})()"""


def test_keys_before_the_page_is_ready_stand_behind_the_story(tab: Page) -> None:
    tab.add_init_script(EARLY)
    for text in ("", "A story. "):
        tab.fill(STORY, text)
        tab.wait_for_function("jetStories.isKept()")
        tab.evaluate("sessionStorage.setItem('early', '')")
        reload(tab)
        tab.wait_for_function("jetStories.isSettled()")
        tab.wait_for_timeout(300)
        assert tab.evaluate("window.wasEmpty"), "it was not early"
        assert story(tab) == text + "typed early"
    tab.focus(STORY)
    tab.keyboard.type("!")
    assert story(tab) == "A story. typed early!"
    tab.wait_for_function("jetStories.isSettled()")


def test_what_the_model_sees_stays_unfolded_while_one_types(tab: Page) -> None:
    select_tab(tab, "guidance")
    tab.fill("#jet-memory", "It rains.")
    tab.press("#jet-memory", "Tab")
    tab.fill(STORY, "A story.")
    expect(tab.locator("#jet-context details")).to_have_count(2)
    tab.wait_for_function("jetStories.isSettled()")
    tab.evaluate("for (const part of document.querySelectorAll('#jet-context details')) part.open = false")
    tab.locator("#jet-context summary").nth(1).click()
    place_cursor(tab, 8)
    for text in (" One.", " Two."):
        tab.keyboard.type(text)
        expect(tab.locator("#jet-context details[open] pre")).to_contain_text(text)
    expect(tab.locator("#jet-context details[open]")).to_have_count(1)
    expect(tab.locator(STORY)).to_be_focused()


def test_the_panel_tells_of_what_is_in_the_editor(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 6)
    show_numbers(tab)
    begin(tab, "A")
    expect_unlocked(tab)
    tab.wait_for_function("jetStories.isKept()")
    assert row(tab, "Context used").startswith("7 of")
    tab.fill(STORY, "word " * 300)  # pasted
    used = tab.locator(".jet-panel dl", has_text="Context used").first
    expect(used).to_contain_text("300 of 1,000")
    expect(used).not_to_contain_text("Generated tokens\t6")
    expect(tab.locator(".jet-status")).to_have_text("Ready")
    press(tab, "#jet-write-variants")
    expect_unlocked(tab)
    expect(used).to_contain_text(re.compile(r"Running\s*0"))
    tab.evaluate("document.getElementById('jet-new').click()")
    expect(used).to_contain_text("0 of 1,000")
    expect(tab.locator(".jet-status")).to_have_text("Ready")
    assert row(tab, "Generated tokens") in ("–", "0") and row(tab, "Seed") == "–"


@pytest.mark.thorough
def test_the_panel_follows_undo_branches_files_and_typing(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 6)
    used = tab.locator(".jet-panel dl", has_text="Context used").first
    begin(tab, "A b")
    expect_unlocked(tab)
    expect(used).to_contain_text("8 of 1,000")
    tab.click("#jet-undo")
    expect(used).to_contain_text("2 of 1,000")
    expect(tab.locator(".jet-status")).to_have_text("Ready")
    tab.click("#jet-redo")
    expect(used).to_contain_text("8 of 1,000")
    tab.focus(STORY)
    tab.keyboard.press("Control+End")
    tab.keyboard.type(" and more words")
    expect(used).to_contain_text("11 of 1,000")
    expect(tab.locator(".jet-status")).to_contain_text("Done")  # its words are there still
    tab.fill(STORY, "Something else.")
    expect(tab.locator(".jet-status")).to_have_text("Ready")
    count = len(story(tab).split())
    expect(used).to_contain_text(f"{count} of 1,000")


def test_a_screen_reader_is_told_of_writing_and_its_end_once(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 100
    set_most_tokens(tab, 30)
    tab.fill(STORY, "A")
    tab.wait_for_function("jetStories.isKept()")
    tab.evaluate(
        """() => {
            window.told = [];
            let before = new Map();
            const look = () => {
                for (const line of document.querySelectorAll("[role=status], [role=alert], [aria-live]")) {
                    const text = line.textContent.trim();
                    if (before.get(line) !== text && text) told.push(text);
                    before.set(line, text);
                }
            };
            look();
            told.length = 0;
            window.telling = new MutationObserver(look);
            telling.observe(document.body, { subtree: true, childList: true, characterData: true });
        }"""
    )
    tab.click("#jet-continue")
    expect_unlocked(tab)
    tab.wait_for_function("jetStories.isKept()")
    tab.wait_for_timeout(400)
    told = tab.evaluate("telling.disconnect(), told")
    assert [text for text in told if text == "Writing"] == ["Writing"]
    assert len([text for text in told if text.startswith("Done")]) == 1
    assert not [text for text in told if "Kept" in text] and len(told) == 2, told
    served.engine.tokens_per_second = 5  # it still writes when Stop is pressed, however slow the page is
    tab.click("#jet-continue")
    stop(tab)
    expect(tab.locator("#jet-state")).to_have_text("Stopped")


def test_every_control_has_its_name_and_tabs_are_one_stop(tab: Page) -> None:
    expect(tab.get_by_role("textbox", name="Seed", exact=True)).to_be_visible()
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("#jet-page :is(input, select, textarea, button)")]
            .filter((one) => one.offsetParent && !(one.labels?.length || one.ariaLabel || one.title
                || one.textContent.trim() || one.getAttribute("aria-labelledby")))
            .map((one) => one.outerHTML.slice(0, 100))"""
    )
    assert nameless == []
    stops = tab.locator(".jet-tabs [role=tab]:not([tabindex='-1'])")
    expect(stops).to_have_count(1)
    tab.focus("#jet-tab-settings")
    for key, wanted in (
        ("End", "tools"),
        ("Home", "settings"),
        ("ArrowRight", "guidance"),
        ("ArrowLeft", "settings"),
        ("ArrowLeft", "tools"),
        ("ArrowRight", "settings"),
    ):
        tab.keyboard.press(key)
        expect(tab.locator(f"#jet-tab-{wanted}")).to_be_focused()
        expect(tab.locator(f"#jet-tab-{wanted}")).to_have_attribute("aria-selected", "true")
        expect(stops).to_have_count(1)
    reload(tab)
    expect(stops).to_have_count(1)
