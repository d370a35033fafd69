"""Test in Chromium how text of any direction and origin appears: on screen, in forced colors, in print."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.input_devices import caret, settle
from tests.browser.page_actions import STORY, select_tab, story

pytestmark = pytest.mark.browser

HEBREW, ARABIC, PERSIAN = (
    "שומר המגדלור הזקן פתח את הדלת.",
    "فتح الحارس العجوز الباب.",
    "نگهبان پیر در را باز کرد.",
)


def test_text_from_right_to_left_stands_on_the_right(tab: Page) -> None:
    for text in (HEBREW, ARABIC, PERSIAN, f"“{HEBREW}”", f"… {ARABIC}", f"12 {HEBREW}"):
        tab.fill(STORY, text)
        assert tab.eval_on_selector(STORY, "(sheet) => sheet.matches(':dir(rtl)')"), text
    tab.fill(STORY, "The old keeper.\n" + HEBREW)
    assert tab.eval_on_selector(STORY, "(sheet) => sheet.matches(':dir(ltr)')")
    assert tab.eval_on_selector(STORY, "(sheet) => getComputedStyle(sheet).unicodeBidi") == "plaintext"
    select_tab(tab, "guidance")
    tab.fill("#jet-memory", HEBREW)
    assert tab.eval_on_selector("#jet-memory", "(field) => field.matches(':dir(rtl)')")
    tab.fill("#jet-memory", "")


SOFT = "one\vtwo\u2028three\u2029four\x85five\fsix"


def test_line_breaks_of_other_programs_are_line_breaks(tab: Page, tmp_path: Path) -> None:
    tab.fill(STORY, "Before. After.")
    tab.focus(STORY)
    tab.eval_on_selector(STORY, "(sheet) => sheet.setSelectionRange(8, 8)")
    tab.evaluate("(text) => document.execCommand('insertText', false, text)", SOFT)
    even = SOFT.translate(dict.fromkeys(map(ord, "\v\u2028\u2029\x85\f"), "\n"))
    assert story(tab) == "Before. " + even + "After."
    assert caret(tab) == [8 + len(even)] * 2
    settle(tab)
    file = tmp_path / "word.txt"
    file.write_bytes(SOFT.encode())
    select_tab(tab, "stories")
    tab.set_input_files("#jet-import", file)
    expect(tab.locator(STORY)).to_have_value(even)
    settle(tab)


def test_a_printer_gets_the_whole_story_and_nothing_else(tab: Page) -> None:
    text = "\n".join(f"Line {index} of a story." for index in range(200))
    tab.fill(STORY, text)
    settle(tab)
    tab.emulate_media(media="print")
    try:
        tab.wait_for_selector("#jet-print", timeout=5_000)
        shown = "[...document.body.children].filter((one) => one.offsetHeight).map((one) => one.id)"
        assert tab.evaluate(shown) == ["jet-print"]
        assert tab.inner_text("#jet-print") == text
        assert tab.evaluate("document.documentElement.scrollHeight") > 200 * 15
        assert not tab.locator("button:visible").count()
    finally:
        tab.emulate_media(media="screen")
    expect(tab.locator("#jet-print")).to_have_count(0)
    expect(tab.locator("#jet-continue")).to_be_visible()


def test_every_button_can_be_seen_in_forced_colors(tab: Page) -> None:
    tab.emulate_media(forced_colors="active")
    try:
        tab.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
        bare = tab.evaluate(
            """() => [...document.querySelectorAll("#jet-page button, #jet-page .jet-chip")]
                .filter((one) => one.offsetWidth > 2 && getComputedStyle(one).visibility === "visible")
                .filter((one) => { const { borderTopStyle, borderTopWidth } = getComputedStyle(one);
                    return borderTopStyle === "none" || parseFloat(borderTopWidth) < 1; })
                .map((one) => one.id || one.textContent.trim())"""
        )
        assert bare == []
    finally:
        tab.emulate_media(forced_colors="none")
