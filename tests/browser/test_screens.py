"""Test every size of screen in Chromium: nothing overlaps or scrolls sideways, Continue is always there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from playwright.sync_api import Page, expect

from tests.browser.input_devices import caret, place_of, settle
from tests.browser.page_actions import (
    STORY,
    close_drawer,
    empty_editor,
    expect_unlocked,
    place_cursor,
    press,
    select_tab,
    set_most_tokens,
)
from tests.ui.served import Served

pytestmark = pytest.mark.browser

SCREENS = (
    (360, 740),
    (390, 844),
    (390, 460),  # with the keyboard up
    (844, 390),
    (820, 1180),
    (1366, 768),
    (1440, 900),
    (2560, 1440),
    (683, 384),  # 1366 at 200 %
    (342, 192),  # and at 400 %
    (360, 225),  # 1440 at 400 %
)
FEW = ((360, 740), (844, 390), (820, 1180), (1366, 768), (342, 192))  # one of each arrangement
GERMAN = (
    "Die Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft prüfte das "
    "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz. "
)
ARABIC = "كان الحارس العجوز يفتح باب المنارة كل مساء.\nثم كتب: One line in English, وعاد إلى الصمت.\n"
JAPANESE = (
    "灯台守は毎晩、扉を開けた。「海はまだそこにある」と彼は言った。\n"
    "波の音だけが答えた。ラーメンを食べながら、彼は考えた。\n"
)

# Tells what is wrong with the page as it stands on this screen.
FAULTS = """() => {
    const wrong = [], page = document.getElementById("jet-page");
    const width = document.documentElement.clientWidth, height = innerHeight;
    const box = (one) => one.getBoundingClientRect();
    const shown = (one) => one && box(one).width > 2 && one.checkVisibility({ visibilityProperty: true });
    const isClipped = (one) => one !== page && (getComputedStyle(one.parentElement).overflowX !== "visible"
        || isClipped(one.parentElement));
    const name = (one) => one.id || one.className || one.textContent.trim().slice(0, 20);
    const overlaps = (parts) => parts.forEach((one, at) => parts.slice(at + 1).forEach((other) => {
        const [a, b] = [box(one), box(other)];
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const along = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 1 && along > 1 && !one.contains(other))
            wrong.push(`${name(one)} overlaps ${name(other)}`);
    }));
    if (document.documentElement.scrollWidth > width) wrong.push("it scrolls sideways");
    for (const one of page.querySelectorAll("*")) {
        const { left, right, width: wide } = box(one);
        const beyond = wide > 2 && (left < -0.5 || right > width + 0.5);
        if (beyond && shown(one) && !isClipped(one))
            wrong.push(`${name(one)} is outside`);
    }
    const bar = document.getElementById("jet-actions");
    const fixed = getComputedStyle(bar).position === "fixed"; // over what scrolls below it
    const parts = ["#jet-head", "#jet-tab-strip", "#jet-find-bar", "#jet-story textarea", "#jet-variants",
        "#jet-panel-column", "#jet-tabs-column"].map((one) => document.querySelector(one));
    overlaps([...parts, ...(fixed ? [] : [bar])].filter(shown));
    overlaps([...bar.querySelectorAll("button, select, summary, #jet-walk span")].filter(shown));
    overlaps([...document.querySelectorAll(".jet-header > *, .jet-tabs button")].filter(shown));
    const offers = document.getElementById("jet-openings");
    if (shown(offers)) {
        const sheet = box(document.getElementById("jet-story")), { top, bottom } = box(offers);
        if (top < sheet.top + 60 || bottom > sheet.bottom + 1) wrong.push("the beginnings leave the sheet");
    }
    const go = box(document.getElementById("jet-continue"));
    const hit = document.elementFromPoint((go.left + go.right) / 2, (go.top + go.bottom) / 2);
    if (go.top < 0 || go.bottom > height || hit?.id !== "jet-continue")
        wrong.push("Continue is out of reach");
    const sheet = document.querySelector("#jet-story textarea");
    const mirror = document.getElementById("jet-mirror");
    if (sheet.clientHeight < 60) wrong.push("the sheet is too low");
    if (mirror && !mirror.hidden && mirror.scrollHeight !== sheet.scrollHeight)
        wrong.push("the marks are not on their words");
    return wrong;
}"""


def expect_no_faults(page: Page, what: str, screens: Sequence[tuple[int, int]] = FEW) -> None:
    """Expect no fault on any of these screen sizes; leave the page at 1366 × 768 pixels."""
    for width, height in (*screens, (1366, 768)):
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("() => { scrollTo(0, 0); return new Promise(requestAnimationFrame); }")
        for _ in range(40):  # what follows the sheet's size does so a frame later
            faults = page.evaluate(FAULTS)
            if not faults:
                break
            page.wait_for_timeout(50)
        assert not faults, (what, width, height, faults)


def write(page: Page, text: str) -> None:
    """Put a text into the editor, and let the model continue it to its end."""
    page.fill(STORY, text)
    page.click("#jet-continue")
    expect_unlocked(page)
    settle(page)


def test_every_screen_by_day_by_night_and_in_forced_colors(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 60)
    close_drawer(tab)
    expect_no_faults(tab, "empty", SCREENS)
    tab.fill("#jet-title", GERMAN * 2)
    write(tab, GERMAN * 6)
    press(tab, "#jet-retry")
    expect(tab.locator("#jet-walk")).to_contain_text("2/2")
    expect_unlocked(tab)
    expect_no_faults(tab, "written", SCREENS)
    for scheme, forced in (("dark", "none"), ("light", "active")):
        tab.emulate_media(color_scheme=scheme, forced_colors=forced)  # type: ignore[arg-type]
        expect_no_faults(tab, f"{scheme}, forced colors {forced}")
    tab.emulate_media(color_scheme="light", forced_colors="none")
    for name in ("settings", "guidance", "stories", "tools"):
        select_tab(tab, name)
        expect_no_faults(tab, f"drawer {name}")
    close_drawer(tab)
    tab.focus(STORY)
    tab.keyboard.press("Control+f")
    expect(tab.locator("#jet-find-text")).to_be_focused()
    expect_no_faults(tab, "find and replace")
    tab.keyboard.press("Escape")
    empty_editor(tab)


@pytest.mark.parametrize("text", [ARABIC, JAPANESE], ids=["arabic", "japanese"])
def test_marks_and_caret_stand_where_the_words_do_in_any_script(tab: Page, served: Served, text: str) -> None:
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 20)
    close_drawer(tab)
    write(tab, text * 4)
    expect_no_faults(tab, text[:8], SCREENS[:2])
    assert tab.eval_on_selector(STORY, "(sheet) => sheet.matches(':dir(rtl)')") == (text is ARABIC)
    # A click on a letter puts the caret beside it, and the mark of a word is where its letters are.
    start = 3
    x, y = place_of(tab, start, start + 1)
    tab.mouse.click(x, y)
    assert caret(tab)[0] in (start, start + 1)
    place_cursor(tab, len(text) * 4 + 4)
    press(tab, "#jet-other-words")
    expect(tab.locator("#jet-popover")).to_be_visible()
    tab.wait_for_function("CSS.highlights.has('jet-pointed')")  # painted in the frame behind the card
    marked = tab.evaluate(
        """() => { const [range] = CSS.highlights.get("jet-pointed");
            const { left, right, top, bottom } = range.getClientRects()[0];
            return [String(range), (left + right) / 2, (top + bottom) / 2]; }"""
    )
    at = tab.input_value(STORY).index(marked[0], len(text) * 4)
    x, y = place_of(tab, at, at + len(marked[0]))
    assert abs(marked[1] - x) < 2 and abs(marked[2] - y) < 3
    tab.keyboard.press("Escape")
