"""Test in Chromium the settings of a story, the marks of the model's words, and text that was cut."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.page_actions import STORY, begin, expect_unlocked, place_cursor, press, select_tab, story
from tests.browser.page_actions import set_most_tokens as set_length
from tests.ui.served import Served

pytestmark = pytest.mark.browser


@pytest.fixture
def quick(tab: Page, served: Served) -> Page:
    """Return the page over an engine that generates three words at once."""
    served.engine.tokens_per_second = 400
    set_length(tab, 3)
    return tab


def slide(page: Page, name: str, key: str) -> None:
    """Move a slider by one key press."""
    page.get_by_label(name).focus()
    page.keyboard.press(key)


def test_one_slider_each_sets_the_numbers_and_tells_those_of_ones_own(quick: Page, served: Served) -> None:
    select_tab(quick, "settings")
    said = quick.locator(".jet-taste small")
    expect(said).to_have_text(["off", "off"])
    slide(quick, "Avoid repeats", "ArrowRight")
    expect(said).to_have_text(["a little", "off"])
    slide(quick, "Avoid clichés", "End")
    quick.click("text=Wild")  # a style of its own, which says nothing about either
    quick.wait_for_function("jetStories.isSettled()")
    slide(quick, "Avoid repeats", "End")
    slide(quick, "Avoid clichés", "Home")
    slide(quick, "Avoid clichés", "ArrowRight")
    quick.wait_for_function("jetStories.isSettled()")
    begin(quick, "A")
    expect_unlocked(quick)
    sent = served.engine.requests[-1].sampling
    assert (sent.dry_multiplier, sent.dry_base, sent.dry_allowed_length) == (2.0, 1.75, 2)
    assert (sent.xtc_probability, sent.xtc_threshold) == (0.25, 0.1)
    assert sent.temperature == 1.2 and sent.max_new_tokens == 3
    quick.click("text=Advanced")
    quick.get_by_label("number input for DRY strength").fill("1.35")
    expect(said).to_have_text(["own numbers", "a little"])
    expect(quick.get_by_label("Avoid repeats")).to_have_attribute("aria-valuetext", "own numbers")
    slide(quick, "Avoid repeats", "Home")
    expect(said).to_have_text(["off", "a little"])
    quick.click("text=Advanced")
    quick.wait_for_function("jetStories.isSettled()")


def test_where_to_stop_words_that_count_and_any_text_as_a_seed(quick: Page, served: Served) -> None:
    select_tab(quick, "settings")
    quick.get_by_label("a paragraph", exact=True).check()
    quick.fill("#jet-stops", r"nowhere\n")
    quick.fill("#jet-likelier", "moon: 5\nsea")
    quick.fill("#jet-rarer", "very")
    quick.locator("#jet-seed input").fill("blue moon")
    begin(quick, "A")
    expect_unlocked(quick)
    first = served.engine.requests[-1]
    assert first.sampling.end_at == "paragraph" and first.stop_strings == ("nowhere\n",)
    assert first.word_bias == (("moon", 5.0), ("sea", 3.0), ("very", -3.0))
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value("A")
    quick.click("#jet-continue")
    expect_unlocked(quick)
    assert served.engine.requests[-1].sampling == first.sampling
    quick.fill("#jet-rarer", "Sea\nsea")
    written = story(quick)
    quick.click("#jet-continue")
    expect(quick.locator(".jet-panel")).to_contain_text("both likelier and less likely")
    expect_unlocked(quick)
    assert story(quick) == written
    for name in ("likelier", "rarer", "stops"):
        quick.fill(f"#jet-{name}", "")
    quick.get_by_label("a sentence", exact=True).check()


def marked(page: Page, name: str) -> str:
    """Return the text that has this highlight."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(page.evaluate("(name) => [...(CSS.highlights.get(name) ?? [])].map(String).join('')", name))


def test_the_latest_words_glow_the_older_on_demand_and_a_legend_tells(quick: Page) -> None:
    begin(quick, "Mine")
    expect_unlocked(quick)
    assert marked(quick, "jet-model") == "M0 M1 M2"
    quick.click("#jet-continue")
    expect(quick.locator(STORY)).to_have_value("Mine M0 M1 M2 M0 M1 M2")
    expect_unlocked(quick)
    assert marked(quick, "jet-model") == "M0 M1 M2"
    quick.select_option("#jet-highlight", "authorship")
    quick.wait_for_function("String([...CSS.highlights.get('jet-model')][0]).length > 10")
    assert marked(quick, "jet-model") == "M0 M1 M2 M0 M1 M2"
    quick.select_option("#jet-highlight", "latest")
    legend = quick.locator("#jet-legend dl")
    expect(legend).to_be_hidden()
    quick.click("#jet-legend summary")
    expect(legend).to_contain_text("the model’s words")
    expect(legend).to_be_in_viewport(ratio=1)
    quick.keyboard.press("Enter")
    expect(legend).to_be_hidden()


def test_what_was_cut_can_be_had_and_the_seam_of_write_here_holds(quick: Page, served: Served) -> None:
    served.engine.unfinished = " and then"
    begin(quick, "A")
    expect_unlocked(quick)
    expect(quick.locator(STORY)).to_have_value("A A0 A1 A2")
    expect(quick.locator("#jet-toast")).to_contain_text("Cut back to the last whole sentence.")
    quick.get_by_role("button", name="Finish it").click()
    expect(quick.locator(STORY)).to_have_value(re.compile(r"^A A0 A1 A2 and then A0"))
    expect_unlocked(quick)
    asked = served.engine.requests[-1]
    assert asked.prompt == "A A0 A1 A2 and then"
    assert (asked.sampling.max_new_tokens, asked.sampling.end_at) == (1, "sentence")

    served.engine.unfinished = ""
    quick.fill(STORY, "One came. Three stayed.")
    place_cursor(quick, len("One came."))
    press(quick, "#jet-continue-at")
    expect(quick.locator(STORY)).to_have_value("One came. O0 O1 O2 Three stayed.")
    expect_unlocked(quick)
    caret = quick.eval_on_selector(STORY, "(box) => box.selectionStart")
    assert caret == len("One came. O0 O1 O2")
    press(quick, "#jet-retry")  # another version in the same place
    expect(quick.locator("#jet-walk span")).to_have_text("2/2")
    expect_unlocked(quick)
    assert story(quick).endswith(" Three stayed.")
    select_tab(quick, "settings")
