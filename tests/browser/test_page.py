"""Test the page in Chromium over the stand-in engine: generating, stopping, locking, saving, showing."""

from __future__ import annotations

import re
import time
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenTab
from tests.browser.page_actions import (
    STORY,
    begin,
    best,
    close_drawer,
    expect_locked,
    expect_no_overlap,
    expect_nothing_outside,
    expect_unlocked,
    reload,
    set_most_tokens,
    show_numbers,
    status,
    stop,
    story,
    time_of,
    wait_for_status,
    wait_for_words,
)
from tests.ui.served import Served, wait_until

pytestmark = pytest.mark.browser

FILLED = (
    r"\d+\.?\d*\s+tokens a second",
    r"\d+% of the \d+ that memory bandwidth allows",
    r"Mean\s+[\d.]+ tok/s",
    r"Context used\s+\d+ of 1,000, \d+%",
    r"Running\s+\d",
    r"With full attention in every layer\s+\d",
    r"Generated tokens\s+[1-9]",
    r"Prompt tokens\s+8\b",
    r"Time to first token\s+\d+ ms",
    r"Seed\s+\d+",
    r"Recurrent state\s+27.0 MiB",
    r"Convolution\s+576.0 KiB",
    r"KV, sliding windows\s+\d",
    r"KV, full attention\s+\d",
    r"This process\s+512.0 MiB",
    r"no accelerator",
    r"Loaded in\s+1.25 s",
    r"Warmed up in\s+500 ms",
)

STOP_S, CLOSED_S = 0.3, 1.0  # what the page promises


def test_continue_fills_editor_and_panel_and_stop_keeps_both(tab: Page, served: Served) -> None:
    show_numbers(tab)
    set_most_tokens(tab, 900)  # more than are written before Stop, however slow the machine
    served.engine.tokens_per_second = 40
    tab.click("#jet-openings >> text=Lighthouse")
    expect(tab.locator(STORY)).to_have_value(re.compile("^The old lighthouse keeper"))
    beginning = story(tab)
    tab.click("#jet-continue")
    wait_for_words(tab, beginning)
    earlier = story(tab)
    wait_for_words(tab, earlier)
    expect_locked(tab)
    wait_for_status(tab, "Writing")
    expect(tab.locator(".jet-panel")).to_contain_text(re.compile(r"Running\s*1"))

    time_of(tab, "#jet-stop", "Stopped")
    expect_unlocked(tab)
    kept = story(tab)
    assert kept.startswith(earlier) and kept.startswith(beginning)
    panel = tab.inner_text(".jet-panel")
    for shown in FILLED:
        assert re.search(shown, panel), shown
    time.sleep(0.3)
    assert story(tab) == kept

    tab.click("#jet-continue")
    wait_for_words(tab, kept)
    stop(tab)


def test_the_page_names_what_runs(tab: Page) -> None:
    expect(tab.get_by_text("22.0 million parameters")).to_be_hidden()
    tab.click(".jet-model-info summary")
    about = tab.inner_text(".jet-model-info")
    tab.click(".jet-model-info summary")
    assert "stand-in <model>" in about and "22.0 million parameters" in about
    assert "a processor, 2 threads, float32" in about
    assert "license: Apache-2.0" in about


def test_an_empty_page_begins_a_story(tab: Page) -> None:
    tab.click("#jet-continue")
    wait_for_words(tab, "")
    stop(tab)


@pytest.mark.alone
@pytest.mark.parametrize("moment", ["writing", "prefill", "line", "loading", "deaf"])
def test_stop_acts_at_once_whatever_the_engine_does(tab: Page, served: Served, moment: str) -> None:
    engine = served.engine
    engine.deaf = moment == "deaf"
    engine.slots = 0 if moment == "line" else 1
    engine.prefill_s = 3 if moment in ("prefill", "deaf") else 0

    def time_to_stop() -> float:
        if moment == "loading":
            served.source.unload()
        tab.fill(STORY, "A beginning")
        tab.click("#jet-continue")
        expect_locked(tab)
        if moment == "writing":
            wait_for_words(tab, "A beginning")
        took = time_of(tab, "#jet-stop", "Stopped")
        expect_unlocked(tab)
        assert story(tab).startswith("A beginning")
        assert moment == "writing" or story(tab) == "A beginning"
        return took

    assert best(time_to_stop, STOP_S) < STOP_S


def test_what_is_typed_up_to_the_last_moment_is_sent(tab: Page, served: Served) -> None:
    tab.click(STORY)
    tab.keyboard.type("Zebras ran")
    tab.keyboard.press("Control+Enter")
    assert tab.is_enabled("#jet-stop")  # at once, before the server has heard of it
    wait_for_words(tab, "Zebras ran")
    tab.keyboard.press("Escape")
    expect_unlocked(tab)
    assert re.fullmatch(r"Zebras ran( Z\d+)+", story(tab))


def test_keys_continue_and_stop_and_the_writer_types_on(tab: Page) -> None:
    tab.click(STORY)
    tab.keyboard.type("A")
    tab.keyboard.press("Control+Enter")
    wait_for_words(tab, "A")
    tab.keyboard.press("Escape")
    wait_for_status(tab, "Stopped")
    expect_unlocked(tab)
    expect(tab.locator(STORY)).to_be_focused()
    tab.keyboard.press("Control+End")
    tab.keyboard.type(" and I went on.")
    assert story(tab).endswith(" and I went on.")


@pytest.mark.alone
@pytest.mark.parametrize("moment", ["writing", "prefill", "line"])
def test_closing_the_tab_frees_the_request(open_tab: OpenTab, served: Served, moment: str) -> None:
    served.engine.prefill_s = 60 if moment == "prefill" else 0
    served.engine.slots = 0 if moment == "line" else 1

    def time_to_free() -> float:
        page = open_tab()
        page.fill(STORY, "A")
        page.click("#jet-continue")
        expect_locked(page)
        wait_until(lambda: bool(served.engine.live))
        aborted = len(served.engine.aborted_at)
        page.close()
        took = wait_until(lambda: not served.engine.live)
        assert len(served.engine.aborted_at) == aborted + 1
        return took

    assert best(time_to_free, CLOSED_S) < CLOSED_S


def test_two_tabs_do_not_mix(open_tab: OpenTab, served: Served) -> None:
    served.engine.tokens_per_second = 60
    tabs = {letter: open_tab() for letter in "AB"}
    for letter, page in tabs.items():
        page.fill(STORY, letter)
        page.click("#jet-continue")
    for letter, page in tabs.items():
        wait_for_words(page, letter)
    stop(tabs["A"])
    longer = story(tabs["B"])
    wait_for_words(tabs["B"], longer)  # the other one is not stopped
    stop(tabs["B"])
    for letter, page in tabs.items():
        assert re.fullmatch(rf"{letter}( {letter}\d+)+", story(page))


@pytest.mark.alone
def test_about_twenty_updates_a_second(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 500
    set_most_tokens(tab, 2000)
    tab.evaluate(
        """(selector) => {
            window.changes = 0;
            let last = "";
            const look = () => {
                const value = document.querySelector(selector).value;
                if (value !== last) window.changes += 1;
                last = value;
                requestAnimationFrame(look);
            };
            look();
        }""",
        STORY,
    )
    begin(tab, "A")
    before = tab.evaluate("window.changes")
    time.sleep(1.5)
    updates = (tab.evaluate("window.changes") - before) / 1.5
    stop(tab)
    assert 12 <= updates <= 24


def test_nothing_moves_while_a_story_grows(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 30  # it goes on for as long as this takes
    set_most_tokens(tab, 2000)
    show_numbers(tab)
    watched = [
        STORY,
        "#jet-actions",
        "#jet-retry",
        "#jet-more",
        ".jet-panel",
        ".jet-panel h2 + .jet-bar",
        ".jet-panel h2:last-of-type",
        "#jet-seed",
    ]

    # Every change of the panel is looked at: a row that comes and goes between two looks would move it, too.
    tab.evaluate(
        """() => {
            window.heights = new Set();
            new MutationObserver(() => heights.add(document.querySelector(".jet-panel").offsetHeight))
                .observe(document.body, { subtree: true, childList: true });
        }"""
    )

    def boxes() -> list[object]:
        return [tab.locator(selector).bounding_box() for selector in watched]

    before = boxes()
    begin(tab, "word " * 400)
    during = boxes()
    tab.wait_for_function("(sheet) => sheet.scrollTop > 50", arg=tab.query_selector(STORY))
    later = boxes()
    stop(tab)
    assert before == during == later == boxes()
    assert len(tab.evaluate("[...heights]")) == 1
    # Neither does the longest of all numbers take a second line.
    used = tab.locator(".jet-panel dd", has_text="of 1,000")
    assert used.evaluate(
        """(row) => {
            const before = row.offsetHeight;
            row.textContent = "131,072 of 131,072, 100%";
            return row.offsetHeight === before;
        }"""
    )


def test_the_editor_follows_the_text(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 600
    set_most_tokens(tab, 2000)
    begin(tab, "A")
    tab.wait_for_function(
        "(sheet) => sheet.scrollHeight > 1.5 * sheet.clientHeight", arg=tab.query_selector(STORY)
    )
    stop(tab)
    tab.wait_for_function(
        "(sheet) => sheet.scrollHeight - sheet.clientHeight - sheet.scrollTop < 2",
        arg=tab.query_selector(STORY),
    )


def test_a_reader_who_scrolls_up_is_left_alone(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 30  # it goes on for as long as this takes
    begin(tab, "word\n" * 40)
    below = tab.eval_on_selector(STORY, "(sheet) => sheet.scrollTop")
    tab.hover(STORY)
    tab.mouse.wheel(0, -400)
    tab.wait_for_function(
        "([sheet, below]) => sheet.scrollTop < below - 200", arg=[tab.query_selector(STORY), below]
    )
    wait_for_words(tab, story(tab))
    place = tab.eval_on_selector(STORY, "(e) => e.scrollTop")
    wait_for_words(tab, story(tab))
    assert tab.eval_on_selector(STORY, "(e) => e.scrollTop") == place
    stop(tab)


def test_markup_in_a_story_is_text(tab: Page) -> None:
    hostile = "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script> ${harm} {{harm}}"
    begin(tab, hostile)
    stop(tab)
    assert story(tab).startswith(hostile)
    assert tab.evaluate("window.harmed") is None


def test_a_failure_is_shown_in_its_place_and_the_text_stays(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second, served.engine.fail_after = 40, 4
    begin(tab, "A")
    expect_unlocked(tab)
    assert status(tab) == "That did not work"
    assert tab.inner_text(".jet-detail") == "Writing failed: the device caught <b>fire</b>"
    assert "the device caught <b>fire</b>" in tab.inner_text("[data-testid=toast-body]")
    kept = story(tab)
    assert kept.startswith("A A0")
    served.engine.fail_after = None
    tab.click("#jet-continue")
    wait_for_words(tab, kept)
    stop(tab)


def test_a_text_beyond_the_context_loses_its_beginning_for_the_model_only(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 30  # it goes on for as long as this takes
    text = "word " * 3000
    begin(tab, text)
    stop(tab)
    assert story(tab).startswith(text)
    assert len(served.engine.requests[-1].prompt.split()) < served.engine.context


def test_the_seed_used_is_shown_and_can_be_used_again(tab: Page) -> None:
    show_numbers(tab)
    begin(tab, "A")
    stop(tab)
    shown = re.search(r"Seed\s+(\d+)", tab.inner_text(".jet-panel"))
    assert shown is not None
    tab.click("text=last used")
    expect(tab.locator("#jet-seed input")).to_have_value(shown.group(1))
    begin(tab, "B")
    stop(tab)
    assert f"Seed\n{shown.group(1)}" in tab.inner_text(".jet-panel")


def test_undo_brings_back_what_was_there_before_the_model(tab: Page) -> None:
    begin(tab, "My own words")
    stop(tab)
    written = story(tab)
    tab.click("#jet-undo")
    expect(tab.locator(STORY)).to_have_value("My own words")
    tab.click("#jet-redo")
    expect(tab.locator(STORY)).to_have_value(written)


def test_beginnings_are_there_while_the_sheet_is_empty(tab: Page) -> None:
    tab.click("text=Dragon")
    expect(tab.locator(STORY)).to_have_value(re.compile("^The dragon"))
    expect(tab.locator("#jet-openings")).to_be_hidden()
    tab.click("#jet-undo")
    expect(tab.locator(STORY)).to_have_value("")
    tab.click("text=Robot")
    expect(tab.locator(STORY)).to_have_value(re.compile("^Unit Seven"))


def test_a_reload_keeps_the_text(tab: Page) -> None:
    begin(tab, "A")
    stop(tab)
    written = story(tab)
    reload(tab)
    expect(tab.locator(STORY)).to_have_value(written)


def test_the_page_is_there_before_its_model(open_tab: OpenTab, served: Served) -> None:
    served.source.unload()
    page = open_tab()
    expect(page.locator(".jet-model-info")).to_contain_text("Loading the model")
    page.fill(STORY, "A")
    page.click("#jet-continue")
    wait_for_status(page, "Waiting for the model")
    served.source.load()
    wait_for_words(page, "A")
    expect(page.locator(".jet-model-info")).to_contain_text("stand-in <model>")
    stop(page)


def test_a_place_in_line_is_shown(open_tab: OpenTab, served: Served) -> None:
    served.engine.slots, served.engine.tokens_per_second = 1, 20
    first, second = open_tab(), open_tab()
    begin(first, "A")
    second.fill(STORY, "B")
    second.click("#jet-continue")
    wait_for_status(second, "Queued: 1 ahead")
    stop(first)
    wait_for_words(second, "B")
    stop(second)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_by_day_and_by_night(
    tab: Page, served: Served, scheme: Literal["light", "dark"]
) -> None:
    tab.emulate_media(color_scheme=scheme)
    served.engine.tokens_per_second = 5  # it goes on for as long as this takes
    for width in (390, 768, 1024, 1600):
        tab.set_viewport_size({"width": width, "height": 900})
        expect_nothing_outside(tab, width)
        begin(tab, "A")
        expect_nothing_outside(tab, width)
        stop(tab)
        expect_nothing_outside(tab, width)
        expect_no_overlap(tab, [".jet-header", STORY, "#jet-actions", ".jet-status"])


def test_the_editor_is_light_by_day_and_dark_by_night(tab: Page) -> None:
    for scheme, least, most in (("light", 200, 255), ("dark", 0, 60)):
        tab.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        reload(tab)
        color = tab.eval_on_selector(STORY, "(sheet) => getComputedStyle(sheet).backgroundColor")
        red, green, blue = (int(part) for part in re.findall(r"\d+", color)[:3])
        assert least <= (red + green + blue) / 3 <= most


@pytest.mark.parametrize("width", [390, 1280])
def test_the_panel_is_one_line_until_it_is_unfolded(tab: Page, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 844})
    close_drawer(tab)
    memory = tab.locator(".jet-panel h2").first
    expect(memory).to_be_hidden()
    begin(tab, "A")
    expect(tab.locator(".jet-speed b")).to_contain_text(re.compile(r"\d"))
    box = tab.locator(".jet-panel").bounding_box()
    assert box is not None and box["height"] < 60
    stop(tab)
    wait_for_status(tab, "Stopped")
    tab.check("#jet-show-all-numbers")
    expect(memory).to_be_visible()
    reload(tab)
    expect(memory).to_be_visible()  # for whoever opened it
    tab.uncheck("#jet-show-all-numbers")
    expect(memory).to_be_hidden()
