"""Test keys, caret, words and commands from a writer's devices in Chromium: no input is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.input_devices import (
    ALT,
    CONTROL,
    InputDevices,
    caret,
    in_sight,
    put_on_clipboard,
    settle,
)
from tests.browser.page_actions import (
    STORY,
    begin,
    expect_unlocked,
    place_cursor,
    select_tab,
    set_most_tokens,
    story,
    wait_for_words,
)
from tests.browser.test_long_stories import put
from tests.ui.served import Served

pytestmark = pytest.mark.browser


@pytest.fixture
def devices(tab: Page) -> Iterator[InputDevices]:
    devices = InputDevices(tab)
    yield devices
    devices.session.detach()


@pytest.fixture
def slow(tab: Page, served: Served) -> Page:
    """Return the page over an engine that generates for as long as a test takes."""
    served.engine.tokens_per_second = 20
    set_most_tokens(tab, 2000)
    return tab


@pytest.fixture
def quick(tab: Page, served: Served) -> Page:
    """Return the page over an engine that generates six words at once."""
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 6)
    return tab


def write(page: Page, text: str) -> str:
    """Type a beginning and let the model continue it to its end; return the whole text."""
    begin(page, text)
    expect_unlocked(page)
    settle(page)
    return story(page)


# --- typing while it writes ------------------------------------------------------------------------------


def taken_over(page: Page, act: Callable[[], object], beginning: str = "A") -> str:
    """Act while the model generates, check that this stops it, and return the text after its words."""
    begin(page, beginning)
    scrolled = page.evaluate("scrollY")
    act()
    expect_unlocked(page)
    settle(page)
    text = story(page)
    page.wait_for_timeout(150)
    assert story(page) == text, "it goes on writing"
    assert page.evaluate("scrollY") == scrolled
    found = re.fullmatch(rf"{beginning}(?: {beginning[0]}\d+)+(.*)", text, re.DOTALL)
    assert found is not None, text
    return found[1]


def test_keys_typed_while_it_writes_stop_it_and_stand_behind_its_words(slow: Page) -> None:
    assert taken_over(slow, lambda: slow.keyboard.type("x, said she")) == "x, said she"
    assert taken_over(slow, lambda: slow.keyboard.type(" and so on")) == " and so on"
    assert taken_over(slow, lambda: slow.keyboard.press("Enter")) == "\n"

    def without_focus() -> None:
        slow.evaluate("document.activeElement.blur()")
        slow.keyboard.type(" to no one")

    assert taken_over(slow, without_focus) == " to no one"


def test_paste_drop_input_methods_and_autocorrection_stop_it_too(slow: Page, devices: InputDevices) -> None:
    put_on_clipboard(slow, " pasted words")
    assert taken_over(slow, lambda: slow.keyboard.press("Control+v")) == " pasted words"
    assert taken_over(slow, lambda: devices.commit(" corrected")) == " corrected"

    def compose() -> None:
        devices.compose("n", "ni", "nih")
        slow.wait_for_timeout(300)  # more words would come
        devices.compose("你好")
        devices.commit("你好")

    assert taken_over(slow, compose) == "你好"
    box = slow.locator(STORY).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2  # messages stand at the foot
    assert taken_over(slow, lambda: devices.drop(" dropped", x, y)) == " dropped"


def test_a_phone_corrects_a_word_of_ones_own_while_it_writes(slow: Page, devices: InputDevices) -> None:
    begin(slow, "Teh lamp.")
    helps = slow.eval_on_selector(
        STORY,
        """(sheet) => [sheet.spellcheck, sheet.autocapitalize, sheet.autocorrect !== false,
            sheet.autocomplete !== "off", !sheet.readOnly && !sheet.disabled]""",
    )
    assert helps == [True, "sentences", True, True, True]
    place_cursor(slow, 3)
    devices.correct("The", 0, 3)
    expect_unlocked(slow)
    settle(slow)
    text = story(slow)
    assert re.fullmatch(r"The lamp\.(?: T\d+)+", text), text
    slow.keyboard.press("Control+z")
    settle(slow)
    assert story(slow).startswith("Teh lamp."), story(slow)


@pytest.mark.thorough
def test_typing_goes_where_the_caret_was_put_while_it_writes(slow: Page, devices: InputDevices) -> None:
    begin(slow, "A first sentence.")
    place_cursor(slow, 7)
    words = story(slow)
    wait_for_words(slow, words)
    slow.keyboard.type(", very first,")
    expect_unlocked(slow)
    settle(slow)
    assert re.fullmatch(r"A first, very first, sentence\.( A\d+)+", story(slow)), story(slow)
    assert caret(slow) == [20, 20]
    slow.fill(STORY, "One. Two.")
    place_cursor(slow, 4)
    slow.keyboard.press("Control+Shift+Enter")
    wait_for_words(slow, "One. Two.")
    slow.keyboard.type(" mine")
    expect_unlocked(slow)
    settle(slow)
    assert re.fullmatch(r"One\.( O\d+)+ mine Two\.", story(slow)), story(slow)
    begin(slow, "A")
    wait_for_words(slow, "A A0 A1")
    slow.keyboard.press("Backspace")
    expect_unlocked(slow)
    settle(slow)
    assert re.fullmatch(r"A( A\d+)+ A\d*", story(slow)), story(slow)
    with devices.latency(300):
        slow.fill(STORY, "A")
        slow.keyboard.press("Control+Enter")
        slow.keyboard.type(" before anything came")
        expect_unlocked(slow)
        settle(slow)
    assert story(slow) == "A before anything came"


@pytest.mark.thorough
def test_what_was_never_in_the_editor_does_not_come_back_by_undo(
    slow: Page, devices: InputDevices, served: Served
) -> None:
    served.engine.tokens_per_second = 100
    with devices.latency(300):
        begin(slow, "A")
        slow.keyboard.type(" mine")
        seen = story(slow)
        expect_unlocked(slow)
        settle(slow)
        assert story(slow) == seen
        slow.keyboard.press("Control+z")
        expect(slow.locator(STORY)).to_have_value(seen.removesuffix(" mine"))
        settle(slow)
        slow.keyboard.press("Control+z")
        expect(slow.locator(STORY)).to_have_value("A")
        slow.keyboard.press("Control+Shift+z")
        expect(slow.locator(STORY)).to_have_value(seen.removesuffix(" mine"))
        settle(slow)


# --- stop ------------------------------------------------------------------------------------------------


def stopped(page: Page, start: Callable[[], object], stop: Callable[[], object], wait_ms: int = 0) -> str:
    """Start generation and stop it after `wait_ms`; return the text that was added."""
    before = story(page)
    start()
    page.wait_for_timeout(wait_ms)
    stop()
    expect_unlocked(page)
    settle(page)
    assert story(page).startswith(before)
    return story(page).removeprefix(before)


def test_stop_before_the_first_answer_writes_nothing(slow: Page, devices: InputDevices) -> None:
    slow.fill(STORY, "A")
    settle(slow)
    with devices.latency(300):
        for start in ("#jet-continue", "#jet-write-variants", "#jet-continue-at"):
            assert (
                stopped(slow, lambda start=start: slow.click(start), lambda: slow.keyboard.press("Escape"))
                == ""
            )
        go = lambda: slow.keyboard.press("Control+Enter")  # noqa: E731
        assert stopped(slow, go, lambda: slow.click("#jet-stop", force=True), wait_ms=150) == ""


@pytest.mark.thorough
def test_stop_at_any_moment_and_pressed_twice(slow: Page, devices: InputDevices) -> None:
    written = stopped(slow, lambda: begin(slow, "A"), lambda: slow.keyboard.press("Escape"))
    assert written
    whole = story(slow)

    def escape() -> None:
        for _ in range(3):
            slow.keyboard.press("Escape")

    with devices.latency(400):
        for wait in (0, 100, 250, 500):
            slow.dblclick("#jet-continue")
            slow.wait_for_timeout(wait)
            escape()
            expect_unlocked(slow)
            settle(slow)
            assert len(story(slow).split()) - len(whole.split()) < 25
        before = story(slow)
        slow.keyboard.press("Alt+r")
        escape()
        expect_unlocked(slow)
        settle(slow)
        assert story(slow) in (before, "A")
        slow.keyboard.press("Control+Enter")
        slow.wait_for_timeout(100)
        slow.keyboard.press("Escape")
        slow.keyboard.press("Control+Enter")  # a wish behind the other: it goes on
        before = story(slow)
        wait_for_words(slow, before)
        slow.keyboard.press("Escape")
        expect_unlocked(slow)


# --- undo ------------------------------------------------------------------------------------------------

DELTA_MIN_CHARACTERS = "\n".join(
    f"Line {index} of a story that is longer than the sheet." for index in range(120)
)


def test_undo_puts_caret_and_view_where_the_change_was(quick: Page) -> None:
    quick.fill(STORY, DELTA_MIN_CHARACTERS)
    settle(quick)
    at = DELTA_MIN_CHARACTERS.index("Line 12 ") + 8
    place_cursor(quick, at)
    quick.keyboard.type("new ")
    settle(quick)
    quick.wait_for_timeout(1000)
    settle(quick)
    quick.keyboard.press("Control+End")
    quick.keyboard.press("Control+z")
    expect(quick.locator(STORY)).to_have_value(DELTA_MIN_CHARACTERS)
    settle(quick)
    assert caret(quick) == [at, at]
    assert in_sight(quick, at)
    quick.keyboard.type("x")
    assert story(quick) == DELTA_MIN_CHARACTERS[:at] + "x" + DELTA_MIN_CHARACTERS[at:]
    settle(quick)
    place_cursor(quick, len(DELTA_MIN_CHARACTERS))
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value(DELTA_MIN_CHARACTERS)
    settle(quick)
    assert caret(quick) == [at, at] and in_sight(quick, at)
    quick.click("#jet-tab-branches")
    quick.keyboard.press("Control+Shift+z")  # from a tab, as from any button
    expect(quick.locator(STORY)).to_have_value(DELTA_MIN_CHARACTERS[:at] + "x" + DELTA_MIN_CHARACTERS[at:])
    settle(quick)
    assert caret(quick) == [at + 1, at + 1]
    quick.keyboard.press("Control+z")
    expect(quick.locator(STORY)).to_have_value(DELTA_MIN_CHARACTERS)
    settle(quick)


def test_typing_right_behind_undo_loses_no_letter(quick: Page, devices: InputDevices) -> None:
    written = write(quick, "A")
    with devices.latency(400):
        quick.keyboard.type(" one")
        settle(quick)
        quick.wait_for_timeout(1000)
        settle(quick)
        quick.keyboard.press("Control+z")
        quick.keyboard.type(" two three")
        settle(quick)
        expect(quick.locator(STORY)).to_have_value(written + " two three")
        quick.keyboard.press("Control+z")
        quick.keyboard.type("Q")
        quick.keyboard.press("Control+z")
        quick.keyboard.type(" four")
        settle(quick)
        # A pause in the typing, as on a busy machine, ends a step: Undo may have taken back the last of two.
        left = story(quick).removeprefix(written).removesuffix(" four")
        assert story(quick) == written + left + " four" and " two three".startswith(left)
        assert left != " two three"


SENTENCES = (
    "It was late. The sea came in, and no one saw it. " + "She ran and ran and ran, " * 8 + "and he, too."
)


def test_undo_takes_back_a_sentence_and_not_an_hour(quick: Page) -> None:
    quick.click(STORY)
    quick.keyboard.type(SENTENCES)
    for _ in range(30):
        before = story(quick)
        quick.keyboard.press("Control+z")
        quick.wait_for_function("([s, t]) => document.querySelector(s).value !== t", arg=[STORY, before])
        settle(quick)
        assert 0 < len(before) - len(story(quick)) <= 160
        assert SENTENCES.startswith(story(quick))
        if not story(quick):
            break
    assert story(quick) == ""
    while quick.is_enabled("#jet-redo"):
        quick.click("#jet-redo")
        settle(quick)
    assert story(quick) == SENTENCES
    quick.fill(STORY, "The kala went")
    settle(quick)
    quick.eval_on_selector(STORY, "(sheet) => sheet.setSelectionRange(4, 8)")
    quick.keyboard.type("a bear")  # what is typed over begins with a letter that was there
    quick.keyboard.press("Control+z")
    expect(quick.locator(STORY)).to_have_value("The kala went")
    settle(quick)


def test_undo_takes_back_the_last_thing_of_any_kind(quick: Page) -> None:
    written = write(quick, "A")
    select_tab(quick, "guidance")
    quick.click("#jet-lore-add")
    quick.fill("#jet-lore [data-lore=keywords]", "rose")
    quick.fill("#jet-lore [data-lore=content]", "Rose is a fox.")
    quick.keyboard.press("Tab")
    settle(quick)
    quick.click("#jet-lore [data-lore-remove]")
    settle(quick)
    expect(quick.locator("#jet-lore .jet-entry")).to_have_count(0)
    quick.keyboard.press("Control+z")
    expect(quick.locator("#jet-lore [data-lore=content]")).to_have_value("Rose is a fox.")
    settle(quick)
    assert story(quick) == written
    quick.fill("#jet-memory", "It rains.")
    quick.click("#jet-undo")
    expect(quick.locator("#jet-memory")).to_have_value("")
    settle(quick)
    assert story(quick) == written
    select_tab(quick, "branches")
    place_cursor(quick, 4)
    quick.click("#jet-fork")
    expect(quick.locator(STORY)).to_have_value(written[:4])
    settle(quick)
    quick.keyboard.press("Control+z")
    expect(quick.locator(STORY)).to_have_value(written)
    settle(quick)
    expect(quick.locator("#jet-tree li")).to_have_count(0)


@pytest.mark.thorough
def test_undo_by_menu_by_cut_and_by_paste(quick: Page) -> None:
    written = write(quick, "A")
    put_on_clipboard(quick, "pasted. ")
    settle(quick)
    quick.fill(STORY, written)
    settle(quick)
    place_cursor(quick, 1)
    quick.keyboard.type(" b")
    quick.keyboard.press("Control+v")
    quick.keyboard.type("c")
    assert story(quick) == "A b" + "pasted. " + "c" + written[1:]
    for left in ("A bpasted. ", "A b", "A"):
        quick.evaluate(
            """(selector) => document.querySelector(selector).dispatchEvent(
                new InputEvent("beforeinput",
                    { inputType: "historyUndo", bubbles: true, cancelable: true }))""",
            STORY,
        )  # as the menu says it
        expect(quick.locator(STORY)).to_have_value(left + written[1:])
        settle(quick)
        assert caret(quick) == [len(left), len(left)]
    quick.keyboard.press("Control+a")
    quick.keyboard.press("Control+x")
    quick.keyboard.press("Control+z")
    expect(quick.locator(STORY)).to_have_value(written)
    settle(quick)


# --- the caret behind new words --------------------------------------------------------------------------


def test_the_caret_stands_behind_the_new_words(quick: Page) -> None:
    quick.fill(STORY, "One. Two.")
    place_cursor(quick, 4)
    quick.click("#jet-continue-at")
    expect_unlocked(quick)
    settle(quick)
    words = "".join(f" O{index}" for index in range(6))
    assert story(quick) == "One." + words + " Two."
    assert caret(quick) == [4 + len(words)] * 2
    quick.click("#jet-continue-at")  # and there the second goes on
    expect_unlocked(quick)
    settle(quick)
    assert story(quick) == "One." + 2 * words + " Two."
    place_cursor(quick, 2)
    quick.keyboard.press("Control+Enter")
    expect_unlocked(quick)
    settle(quick)
    assert caret(quick) == [len(story(quick))] * 2


def test_caret_and_view_follow_in_a_long_story(quick: Page) -> None:
    at = DELTA_MIN_CHARACTERS.index("Line 60 ")
    quick.fill(STORY, DELTA_MIN_CHARACTERS)
    settle(quick)
    place_cursor(quick, at)
    quick.eval_on_selector(STORY, "(sheet) => { sheet.scrollTop = 0; }")
    quick.keyboard.press("Control+Shift+Enter")
    expect_unlocked(quick)
    settle(quick)
    end = at + len(story(quick)) - len(DELTA_MIN_CHARACTERS)
    assert caret(quick) == [end, end]
    quick.wait_for_timeout(200)
    assert in_sight(quick, end)


@pytest.mark.thorough
def test_caret_and_view_follow_in_a_story_that_is_sent_in_patches(quick: Page, served: Served) -> None:
    long = "\n".join([DELTA_MIN_CHARACTERS] * 12)  # beyond 40,000 characters
    at = long.index("Line 60 ", len(long) // 2)
    put(quick, long)
    settle(quick)
    place_cursor(quick, at)
    for _ in range(2):
        before = story(quick)
        quick.keyboard.press("Control+Shift+Enter")
        wait_for_words(quick, before)
        expect_unlocked(quick)
        settle(quick)
        added = len(story(quick)) - len(before)
        at += added
        assert caret(quick) == [at, at]
        quick.wait_for_timeout(200)
        assert in_sight(quick, at)
    assert story(quick)[: at - 2 * added] + story(quick)[at:] == long
    set_most_tokens(quick, 2000)
    quick.focus(STORY)
    served.engine.tokens_per_second = 20
    for act, said in (
        (lambda: quick.keyboard.type(" mine"), " mine"),
        (lambda: quick.keyboard.press("Enter"), "\n"),
    ):
        before = story(quick)
        quick.keyboard.press("Control+Enter")
        expect(quick.locator("#jet-overlay .jet-new-words")).to_contain_text("3")
        act()
        expect_unlocked(quick)
        settle(quick)
        assert story(quick).startswith(before)
        assert re.fullmatch(r"( \w\d+)+" + said, story(quick).removeprefix(before))


# --- shortcuts -------------------------------------------------------------------------------------------


def test_altgr_writes_and_is_no_shortcut(quick: Page, devices: InputDevices) -> None:
    written = write(quick, "A")
    place_cursor(quick, 4)
    for key, code in (("”", "KeyB"), ("ł", "KeyW"), ("¶", "KeyR"), ("ż", "KeyZ"), ("ü", "KeyY")):
        devices.key(key, code, ALT | CONTROL, key)
        quick.evaluate(
            """([selector, told]) => document.querySelector(selector).dispatchEvent(
                new KeyboardEvent("keydown", { ...told, modifierAltGraph: true, bubbles: true }))""",
            [STORY, {"key": key, "code": code, "ctrlKey": True, "altKey": True}],
        )
    settle(quick)
    assert story(quick) == written
    assert quick.locator("#jet-popover").count() == 0
    select_tab(quick, "branches")
    settle(quick)
    expect(quick.locator("#jet-tree li")).to_have_count(0)


@pytest.mark.thorough
def test_shortcuts_go_by_the_letter_and_on_a_mac_leave_option_to_the_keyboard(
    quick: Page, devices: InputDevices
) -> None:
    written = write(quick, "A")
    place_cursor(quick, 4)
    taken = """([selector, told]) => !document.querySelector(selector).dispatchEvent(
        new KeyboardEvent("keydown", { ...told, bubbles: true, cancelable: true }))"""

    def takes(key: str, code: str, *held: str) -> bool:
        told = {"key": key, "code": code, **{f"{name}Key": True for name in held}}
        found = bool(quick.evaluate(taken, [STORY, told]))
        settle(quick)
        return found

    assert takes("z", "KeyY", "ctrl")  # on a German keyboard
    expect(quick.locator(STORY)).to_have_value("A")
    assert takes("y", "KeyZ", "ctrl")
    expect(quick.locator(STORY)).to_have_value(written)
    assert takes("\N{CYRILLIC SMALL LETTER YA}", "KeyZ", "ctrl")  # on a Russian one
    expect(quick.locator(STORY)).to_have_value("A")
    assert takes("Z", "KeyZ", "ctrl", "shift")
    expect(quick.locator(STORY)).to_have_value(written)
    for key, code in (("∫", "KeyB"), ("∑", "KeyW"), ("®", "KeyR"), ("Dead", "KeyE")):
        assert not takes(key, code, "alt")
    for key, code in (("b", "KeyB"), ("w", "KeyW"), ("z", "KeyZ")):
        assert not takes(key, code, "ctrl", "alt")
    assert story(quick) == written
    place_cursor(quick, 4)
    assert takes("w", "KeyW", "alt")
    expect(quick.locator("#jet-popover")).to_be_visible()
    quick.keyboard.press("Escape")
