"""Test in Chromium that words are selected as in any editor, with alternatives beside the selection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.input_devices import InputDevices, caret, place_of, settle
from tests.browser.page_actions import STORY, begin, expect_unlocked, place_cursor, set_most_tokens, story
from tests.ui.served import Served

pytestmark = pytest.mark.browser

CARD = "#jet-popover"
WORDS = "".join(f" A{index}" for index in range(6))


@pytest.fixture
def written(tab: Page, served: Served) -> Page:
    """Return the page with a word of the writer and six words of the model in the editor."""
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 6)
    begin(tab, "A")
    expect_unlocked(tab)
    settle(tab)
    assert story(tab) == "A" + WORDS
    return tab


@pytest.fixture
def devices(tab: Page) -> Iterator[InputDevices]:
    devices = InputDevices(tab)
    yield devices
    devices.session.detach()


def double_click(page: Page, start: int, end: int) -> None:
    page.mouse.dblclick(*place_of(page, start, end))


def test_a_double_click_selects_and_what_is_typed_takes_its_place(written: Page) -> None:
    double_click(written, 5, 7)
    assert caret(written)[0] == 5
    expect(written.locator(CARD)).to_contain_text("else1")  # beside it
    expect(written.locator(STORY)).to_be_focused()
    chosen = caret(written)
    assert chosen in ([5, 7], [5, 8])  # some systems take the blank, too
    written.keyboard.type("the fox ran")
    expect(written.locator(CARD)).to_have_count(0)
    settle(written)
    typed = "A A0 the fox ran" + ("A" + WORDS)[chosen[1] :]
    assert story(written) == typed
    double_click(written, 5, 8)
    expect(written.locator(STORY)).to_be_focused()
    written.keyboard.press("Control+c")
    written.keyboard.press("Delete")
    settle(written)
    assert len(story(written)) < len(typed) and story(written).startswith("A A0 ")
    written.keyboard.press("Control+End")
    written.keyboard.press("Control+v")
    settle(written)
    assert story(written).rstrip().endswith("the")


@pytest.mark.thorough
def test_letters_typed_before_the_other_words_have_come_are_not_lost(
    written: Page, devices: InputDevices
) -> None:
    with devices.latency(300):
        double_click(written, 5, 7)
        end = caret(written)[1]
        written.keyboard.type("x y")
        settle(written)
        written.wait_for_timeout(200)
        assert story(written) == "A A0 x y" + ("A" + WORDS)[end:]
        expect(written.locator(CARD)).to_have_count(0)
        expect(written.locator(STORY)).to_be_focused()
    devices.compose("n")
    devices.commit("你")
    settle(written)
    assert story(written) == "A A0 x y你" + ("A" + WORDS)[end:]


@pytest.mark.thorough
def test_triple_click_drag_and_shift_select_as_everywhere(written: Page) -> None:
    text = "One two three.\nFour five."
    written.fill(STORY, text)
    settle(written)
    written.mouse.click(*place_of(written, 5, 6), click_count=3)
    written.wait_for_timeout(100)
    assert caret(written) in ([0, 14], [0, 15])
    written.keyboard.press("ArrowRight")  # what is selected would be dragged
    written.mouse.move(*place_of(written, 4, 5))
    written.mouse.down()
    written.mouse.move(*place_of(written, 12, 13), steps=4)
    written.mouse.up()
    settle(written)
    start, end = caret(written)
    assert start in (4, 5) and end in (12, 13)
    written.keyboard.press("Shift+ArrowRight")
    assert caret(written) == [start, end + 1]
    written.keyboard.type("-")
    assert story(written) == text[:start] + "-" + text[end + 1 :]
    expect(written.locator(CARD)).to_have_count(0)


def test_another_word_is_chosen_by_mouse(written: Page) -> None:
    double_click(written, 5, 7)
    written.click(f"{CARD} >> text=else1")
    expect(written.locator(STORY)).to_have_value("A A0 else1" + WORDS)
    expect_unlocked(written)
    settle(written)
    assert caret(written) == [len(story(written))] * 2


def test_another_word_is_chosen_by_keys_of_their_own(written: Page) -> None:
    place_cursor(written, 5)
    written.keyboard.press("Alt+w")
    expect(written.locator(f"{CARD} button").nth(1)).to_be_focused()  # the first stands there
    assert caret(written) == [5, 5]
    written.keyboard.type(" b c")  # whatever writes goes on in the story, a blank too
    expect(written.locator(CARD)).to_have_count(0)
    settle(written)
    assert story(written) == "A A0  b cA1" + WORDS[6:]
    written.keyboard.press("Control+z")
    expect(written.locator(STORY)).to_have_value("A" + WORDS)
    settle(written)
    place_cursor(written, 5)
    written.keyboard.press("Alt+w")
    expect(written.locator(f"{CARD} button").nth(1)).to_be_focused()
    written.keyboard.press("ArrowDown")
    written.keyboard.press("Enter")
    expect(written.locator(STORY)).to_have_value("A A0 never1" + WORDS)
    expect_unlocked(written)
    place_cursor(written, 5)
    written.keyboard.press("Alt+w")
    expect(written.locator(CARD)).to_be_visible()
    written.keyboard.press("Escape")
    expect(written.locator(CARD)).to_have_count(0)
    expect(written.locator(STORY)).to_be_focused()


def test_a_double_tap_on_a_phone_offers_other_words(written: Page, devices: InputDevices) -> None:
    devices.session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 1})
    try:
        devices.tap(*place_of(written, 5, 7), times=2)
        expect(written.locator(CARD)).to_contain_text("else1")
        choice = written.locator(f"{CARD} >> text=else1").bounding_box()
        assert choice is not None
        devices.tap(choice["x"] + 5, choice["y"] + choice["height"] / 2)
        expect(written.locator(STORY)).to_have_value("A A0 else1" + WORDS)
        expect_unlocked(written)
    finally:
        devices.session.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
