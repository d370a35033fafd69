"""Test the tools around the editor in Chromium: undo, branches, variants, words, guidance, files, saving."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import OpenTab
from tests.browser.page_actions import (
    STORY,
    VARIANTS,
    begin,
    expect_nothing_outside,
    expect_unlocked,
    place_cursor,
    reload,
    select_tab,
    set_most_tokens,
    status,
    stop,
    story,
    wait_for_status,
)
from tests.ui.served import Served, wait_until

pytestmark = pytest.mark.browser


@pytest.fixture
def quick(tab: Page, served: Served) -> Page:
    """Return the page over an engine that generates six words at once."""
    served.engine.tokens_per_second = 400
    set_most_tokens(tab, 6)
    return tab


def words(letter: str, number: int = 6) -> str:
    """Return the words that the stand-in generates."""
    return "".join(f" {letter}{index}" for index in range(number))


def write(page: Page, text: str) -> str:
    """Type a beginning and let the model continue it to its end; return the whole text."""
    begin(page, text)
    expect_unlocked(page)
    expect(page.locator(STORY)).to_have_value(text + words(text.strip()[0]))
    return story(page)


def test_undo_and_redo_go_back_through_typing_and_writing(quick: Page) -> None:
    written = write(quick, "A")
    quick.click(STORY)
    quick.keyboard.press("Control+End")
    quick.keyboard.type(" and I went on.")
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value(written)
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value("A")
    quick.click("#jet-redo")
    quick.click("#jet-redo")
    expect(quick.locator(STORY)).to_have_value(written + " and I went on.")
    expect(quick.locator("#jet-redo")).to_be_disabled()


def test_undo_by_key_is_the_same_undo(quick: Page) -> None:
    written = write(quick, "A")
    quick.click(STORY)
    quick.keyboard.press("Control+z")
    expect(quick.locator(STORY)).to_have_value("A")
    quick.keyboard.press("Control+Shift+z")
    expect(quick.locator(STORY)).to_have_value(written)


def test_retry_makes_a_branch_and_the_tree_leads_back(quick: Page) -> None:
    written = write(quick, "A")
    set_most_tokens(quick, 2)
    select_tab(quick, "branches")
    quick.click("#jet-retry")
    expect(quick.locator(STORY)).to_have_value("A A0 A1")
    expect_unlocked(quick)
    expect(quick.locator("#jet-tree li")).to_have_count(2)
    quick.click("#jet-tree li:first-child [data-command]:first-child")
    expect(quick.locator(STORY)).to_have_value(written)
    quick.click("#jet-tree li:nth-child(2) >> text=Compare")
    expect(quick.locator("#jet-compare")).to_contain_text("A2 A3 A4 A5")


def test_on_a_phone_a_branch_has_the_whole_width(quick: Page) -> None:
    write(quick, "A")
    select_tab(quick, "branches")
    quick.click("#jet-retry")
    expect(quick.locator("#jet-tree li")).to_have_count(2)
    quick.set_viewport_size({"width": 390, "height": 900})
    box = quick.locator("#jet-tree li:first-child .jet-branch").bounding_box()
    assert box is not None and box["width"] > 280
    expect_unlocked(quick)


def test_branches_can_be_named_and_deleted(quick: Page) -> None:
    write(quick, "A")
    select_tab(quick, "branches")
    quick.click("#jet-retry")
    expect(quick.locator("#jet-tree li")).to_have_count(2)
    expect_unlocked(quick)
    name = quick.locator("#jet-tree input")
    quick.click("#jet-tree li:nth-child(2) >> text=Name")
    name.fill("not this one")
    name.press("Escape")
    expect(name).to_have_count(0)
    quick.click("#jet-tree li:nth-child(2) >> text=Name")
    name.fill("The dark <b>end</b>")
    name.press("Enter")
    expect(quick.locator("#jet-tree li:nth-child(2)")).to_contain_text("The dark <b>end</b>")
    quick.click("#jet-tree li:first-child >> text=Delete version")
    expect(quick.locator("#jet-tree li")).to_have_count(0)  # one branch is no tree
    quick.click("#jet-undo")
    expect(quick.locator("#jet-tree li")).to_have_count(2)


def test_a_branch_begins_at_the_cursor(quick: Page) -> None:
    written = write(quick, "A")
    select_tab(quick, "branches")
    place_cursor(quick, 4)
    quick.click("#jet-fork")
    expect(quick.locator(STORY)).to_have_value(written[:4])
    expect(quick.locator("#jet-tree li")).to_have_count(2)
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value(written)


def test_going_on_from_the_cursor(quick: Page) -> None:
    quick.fill(STORY, "\N{DRAGON} flew. The end.")
    set_most_tokens(quick, 2)
    place_cursor(quick, len("\N{DRAGON} flew.") + 1)  # the dragon has two of the browser's units
    quick.click("#jet-continue-at")
    expect(quick.locator(STORY)).to_have_value("\N{DRAGON} flew. \N{DRAGON}0 \N{DRAGON}1 The end.")
    expect_unlocked(quick)


def test_three_variants_stream_side_by_side_and_one_is_picked(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 4
    set_most_tokens(tab, 12)
    tab.fill(STORY, "A")
    tab.click("#jet-write-variants")
    wait_until(lambda: len(served.engine.live) == 3)  # at once
    columns = tab.locator(f"{VARIANTS} pre")
    expect(columns).to_have_count(3)
    for column in columns.all():
        expect(column).to_contain_text("A1")
    expect_unlocked(tab)
    assert story(tab) == "A"
    tab.click(f"{VARIANTS} .jet-select-variant >> nth=1")
    expect(tab.locator(STORY)).to_have_value("A" + words("A", 12))


def test_variants_that_undo_takes_back_are_gone(quick: Page) -> None:
    quick.fill(STORY, "A")
    quick.click("#jet-write-variants")
    expect(quick.locator(f"{VARIANTS} pre")).to_have_count(3)
    expect_unlocked(quick)
    quick.click("#jet-undo")
    expect(quick.locator("#jet-variants")).to_be_hidden()
    quick.click("#jet-write-variants")
    expect(quick.locator(f"{VARIANTS} pre >> nth=2")).to_be_visible()
    expect_unlocked(quick)


def test_a_variant_picked_early_ends_the_others(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 15
    tab.fill(STORY, "A")
    tab.click("#jet-write-variants")
    expect(tab.locator(f"{VARIANTS} pre >> nth=2")).to_contain_text("A1")
    tab.click(f"{VARIANTS} .jet-select-variant >> nth=2")
    wait_for_status(tab, "Stopped")
    expect_unlocked(tab)
    assert re.fullmatch(r"A( A\d+)+", story(tab))
    assert not served.engine.live


def test_a_variant_is_picked_at_once_whatever_else_was_pressed(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 15
    tab.fill(STORY, "A")
    tab.click("#jet-write-variants")
    expect(tab.locator(f"{VARIANTS} pre >> nth=2")).to_contain_text("A1")
    tab.click("#jet-tab-branches")  # asks for the tree, which waits
    tab.click(f"{VARIANTS} .jet-select-variant >> nth=2")
    wait_for_status(tab, "Stopped")
    expect_unlocked(tab)
    expect(tab.locator("#jet-tree li")).to_have_count(4)


def test_the_variants_of_a_story_go_with_it(quick: Page) -> None:
    quick.fill(STORY, "A")
    quick.click("#jet-write-variants")
    expect_unlocked(quick)
    expect(quick.locator(f"{VARIANTS} .jet-select-variant").first).to_be_visible()
    select_tab(quick, "stories")
    quick.click("#jet-new")
    expect(quick.locator(STORY)).to_have_value("")
    expect(quick.locator("#jet-variants .jet-select-variant").first).to_be_hidden()


def test_another_word_goes_on_as_a_branch(quick: Page) -> None:
    written = write(quick, "A")
    place_cursor(quick, 5)
    quick.click("#jet-other-words")
    choices = quick.locator("#jet-popover button[data-generate]")
    expect(choices.first).to_contain_text("A1")
    expect(choices.nth(1)).to_contain_text("20.0 %")
    quick.wait_for_function("jetStories.isKept()")  # which takes an order, and leaves the words there
    quick.click("#jet-popover button >> text=else1")
    expect(quick.locator(STORY)).to_have_value("A A0 else1" + words("A"))
    expect_unlocked(quick)
    quick.click("#jet-undo")
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value(written)


def test_what_words_were_drawn_with_can_be_set_again(quick: Page, served: Served) -> None:
    temperature, top_k = (quick.get_by_label(f"number input for {name}") for name in ("Temperature", "Top-k"))
    temperature.fill("1.35")
    top_k.fill("33")
    write(quick, "A")
    drawn = served.engine.requests[-1].sampling
    quick.click("text=Steady")
    expect(temperature).to_have_value("0.6")
    place_cursor(quick, 5)
    quick.click("#jet-other-words")
    expect(quick.locator("#jet-popover")).to_contain_text(
        f"top-k 33, min-p 0.05, repetition penalty 1.05, at most 6, seed {drawn.seed}"
    )
    quick.click("text=How was this written?")
    quick.click("#jet-popover .jet-reuse >> nth=0")
    expect(quick.locator("#jet-popover")).to_have_count(0)
    expect(temperature).to_have_value("1.35")
    quick.click("#jet-undo")
    expect(quick.locator(STORY)).to_have_value("A")
    quick.click("#jet-continue")
    expect_unlocked(quick)
    assert served.engine.requests[-1].sampling == drawn


def test_stops_and_guidance_of_words_can_be_had_again(quick: Page, served: Served) -> None:
    select_tab(quick, "guidance")
    quick.fill("#jet-memory", "It rains.")
    select_tab(quick, "settings")
    quick.fill("#jet-stops", "I5")
    quick.fill(STORY, "A")
    quick.click("#jet-continue")
    expect_unlocked(quick)
    expect(quick.locator(STORY)).to_have_value("A" + words("I", 5) + " ")
    quick.fill("#jet-stops", "")
    select_tab(quick, "guidance")
    quick.fill("#jet-memory", "It snows.")
    select_tab(quick, "settings")
    place_cursor(quick, 5)
    quick.click("#jet-other-words")
    expect(quick.locator("#jet-popover")).to_contain_text("stops at “I5”")
    expect(quick.locator("#jet-popover")).to_contain_text("With memory")
    quick.click("text=How was this written?")
    quick.click("#jet-popover .jet-reuse >> nth=1")
    expect(quick.locator("#jet-memory")).to_have_value("It rains.")
    expect(quick.locator("#jet-stops")).to_have_value("I5")
    quick.click("#jet-retry")
    expect_unlocked(quick)
    assert served.engine.requests[-1].prompt == served.engine.requests[-2].prompt
    quick.wait_for_function("jetStories.isKept()")
    reload(quick)
    expect(quick.locator("#jet-stops")).to_have_value("I5")
    quick.fill("#jet-stops", "")


def test_escape_leads_from_the_other_words_back_to_the_story(quick: Page) -> None:
    write(quick, "A")
    place_cursor(quick, 5)
    quick.keyboard.press("Alt+w")
    expect(quick.locator("#jet-popover button:enabled").first).to_be_focused()
    quick.keyboard.press("Escape")
    expect(quick.locator("#jet-popover")).to_have_count(0)
    expect(quick.locator(STORY)).to_be_focused()


def test_the_models_words_are_marked_and_can_be_unmarked(quick: Page) -> None:
    write(quick, "Mine")
    assert marked(quick, "jet-model") == words("M").strip()
    place_cursor(quick, len("Mine M0"))
    quick.keyboard.type(" my own word")
    # and not what was put between them, nor blanks at the ends
    assert marked(quick, "jet-model") == words("M").replace("M0 ", "M0").strip()
    quick.select_option("#jet-highlight", "plain")
    quick.wait_for_function("!CSS.highlights.has('jet-model')")
    quick.select_option("#jet-highlight", "latest")


def test_the_models_confidence_is_a_highlight(quick: Page) -> None:
    write(quick, "A")
    quick.select_option("#jet-highlight", "confidence")
    quick.wait_for_function("CSS.highlights.get('jet-confidence-2')?.size > 0")
    assert marked(quick, "jet-confidence-2") == "A3"  # a tenth
    quick.select_option("#jet-highlight", "latest")


def test_the_mirror_lies_exactly_on_the_text(quick: Page) -> None:
    select_tab(quick, "tools")
    quick.wait_for_selector("[data-paragraphs=narrow]")
    heights = []
    for width, blank_lines in ((390, "narrow"), (1280, "narrow"), (1280, "wide")):
        quick.set_viewport_size({"width": width, "height": 900})
        quick.select_option("#jet-view-paragraphs", blank_lines)
        write(quick, "Long words wrap, and   spaces stay. " * 30 + "\n" * 300 + "word " * 80)
        sizes = quick.evaluate(
            """(selector) => [document.querySelector(selector), document.querySelector("#jet-mirror")].map(
                (element) => [element.scrollHeight, element.clientWidth, element.scrollTop])""",
            STORY,
        )
        assert all(abs(one - other) <= 1 for one, other in zip(*sizes, strict=True)), sizes
        heights.append(sizes[0][0])
    assert heights[1] < 0.6 * heights[2]
    quick.fill(STORY, "彼は港へ歩いた。\n\n海は静かだった。")
    quick.wait_for_selector("[data-paragraphs=wide]")  # its lines would come too close
    quick.select_option("#jet-view-paragraphs", "narrow")
    quick.wait_for_selector("[data-paragraphs=wide]")
    quick.fill(STORY, "One.\n\nTwo.")
    quick.wait_for_selector("[data-paragraphs=narrow]")
    select_tab(quick, "settings")


def test_presets_move_the_sliders_and_neutral_takes_everything_away(quick: Page) -> None:
    temperature = quick.get_by_label("number input for Temperature")
    quick.click("text=Steady")
    expect(temperature).to_have_value("0.6")
    quick.click("text=Neutral")
    expect(temperature).to_have_value("1")
    expect(quick.get_by_label("number input for Length in tokens")).to_have_value("6")
    quick.click("text=Balanced")
    expect(temperature).to_have_value("0.8")


def test_a_tab_can_be_opened_while_the_model_writes(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 20
    set_most_tokens(tab, 2000)
    begin(tab, "A")
    select_tab(tab, "branches")
    expect(tab.locator("#jet-tree")).to_contain_text("One version so far")
    select_tab(tab, "guidance")
    expect(tab.locator("#jet-context")).to_contain_text("What the model sees")
    assert status(tab) == "Writing"
    stop(tab)
    assert re.fullmatch(r"A( A\d+)+", story(tab)), "what the box had meanwhile was not taken for the story"


def test_a_command_just_before_a_generation_goes_before_it(quick: Page, served: Served) -> None:
    quick.fill(STORY, "A")
    quick.evaluate(
        """() => {
            document.getElementById("jet-tab-branches").click();
            const memory = document.getElementById("jet-memory");
            memory.value = "It rains.";
            memory.dispatchEvent(new Event("change", { bubbles: true }));
            document.getElementById("jet-continue").click();
        }"""
    )
    expect(quick.locator(STORY)).to_have_value(re.compile(r"^A I0 I1"))
    assert served.engine.requests[-1].prompt.startswith("It rains.")
    expect_unlocked(quick)


def test_settings_are_kept_as_a_preset_of_ones_own(quick: Page) -> None:
    temperature = quick.get_by_label("number input for Temperature")
    temperature.fill("1.35")
    quick.get_by_label("number input for Length in tokens").fill("7")
    quick.click("#jet-name-preset")
    quick.fill(".jet-presets input", " Odd <b>dreams</b> ")
    quick.press(".jet-presets input", "Enter")
    mine = quick.locator("#jet-own-presets button.jet-chip")
    expect(mine).to_have_text("Odd <b>dreams</b>")
    quick.click("text=Steady")
    expect(temperature).to_have_value("0.6")
    reload(quick)
    quick.get_by_label("number input for Length in tokens").fill("6")
    mine.click()
    expect(temperature).to_have_value("1.35")
    expect(quick.get_by_label("number input for Length in tokens")).to_have_value("6")
    quick.click("#jet-own-presets .jet-text-button")
    expect(mine).to_have_count(0)
    reload(quick)
    expect(mine).to_have_count(0)
    quick.wait_for_function("jetStories.isKept()")  # the story's own settings have come back


def test_dry_and_xtc_reach_the_model(quick: Page, served: Served) -> None:
    quick.click("text=Advanced")
    quick.get_by_label("number input for DRY strength").fill("0.8")
    quick.get_by_label("number input for XTC probability").fill("0.5")
    write(quick, "A")
    sampling = served.engine.requests[-1].sampling
    assert (sampling.dry_multiplier, sampling.xtc_probability) == (0.8, 0.5)


def test_a_stop_string_ends_the_continuation(quick: Page) -> None:
    quick.fill("#jet-stops", "A3")
    begin(quick, "A")
    expect(quick.locator(STORY)).to_have_value("A A0 A1 A2 ")
    expect_unlocked(quick)
    assert status(quick) == "Stop string found"
    quick.fill("#jet-stops", "")


def test_guidance_is_what_the_model_sees(quick: Page) -> None:
    select_tab(quick, "guidance")
    quick.fill("#jet-memory", "Memory: <i>it rains</i>.")
    quick.click("#jet-lore-add")
    quick.fill("#jet-lore [data-lore=keywords]", "rose")
    quick.fill("#jet-lore [data-lore=content]", "Rose is a fox.")
    begin(quick, "A Rose")
    expect(quick.locator(STORY)).to_have_value("A Rose" + words("M"))  # the first letter of what it sees
    expect_unlocked(quick)
    seen = quick.locator("#jet-context")
    expect(seen).to_contain_text("Memory")
    expect(seen).to_contain_text(re.compile(r"\d+ of \d+ tokens"))
    seen.locator("summary").first.click()
    expect(seen.locator("pre").first).to_have_text("Memory: <i>it rains</i>.\n\n")
    quick.fill("#jet-memory", "")


def test_what_is_pressed_does_not_move_away(quick: Page) -> None:
    select_tab(quick, "guidance")
    quick.fill("#jet-memory", "Memory.")
    begin(quick, "A")
    expect_unlocked(quick)
    quick.locator("#jet-context summary").first.click()
    quick.fill("#jet-memory", "")  # the desk hears of it when the field is left, and the page becomes shorter
    tab = quick.locator("#jet-tab-settings")
    tab.hover()
    quick.mouse.down()
    quick.wait_for_timeout(500)  # as long as a hand may take, and the answer seldom does
    quick.mouse.up()
    expect(tab).to_have_attribute("aria-selected", "true")
    expect(quick.locator("#jet-context")).not_to_contain_text("Memory.")  # and is drawn then


def test_the_authors_note_stands_as_deep_as_it_is_told_to(quick: Page, served: Served) -> None:
    select_tab(quick, "guidance")
    quick.fill("#jet-note", "Be calm.")
    quick.fill("#jet-depth", "2")
    begin(quick, "One.\nTwo.\nThree.\nFour.")
    expect_unlocked(quick)
    assert served.engine.requests[-1].prompt == "One.\nTwo.\n[Author's note: Be calm.]\nThree.\nFour."


def test_a_story_of_kobold_ai_can_be_opened(quick: Page, tmp_path: Path) -> None:
    saved = {
        "gamestarted": True,
        "prompt": "Once",
        "memory": "A tale.",
        "authorsnote": "Calm.",
        "actions": [" upon", " a time"],
        "worldinfo": [{"key": "tower", "keysecondary": "", "content": "Tall.", "constant": False}],
    }
    file = tmp_path / "saved_story.json"
    file.write_text(json.dumps(saved))
    select_tab(quick, "stories")
    quick.set_input_files("#jet-import", file)
    expect(quick.locator(STORY)).to_have_value("Once upon a time")
    select_tab(quick, "guidance")
    expect(quick.locator("#jet-memory")).to_have_value("A tale.")
    expect(quick.locator("#jet-lore [data-lore=keywords]")).to_have_value("tower")


def test_a_model_that_can_be_asked_is_asked(open_tab: OpenTab, served: Served) -> None:
    served.engine.tokens_per_second, served.engine.chat_tokens = 400, 7
    page = open_tab()
    page.wait_for_selector(".jet-model-info b")
    set_most_tokens(page, 6)
    page.fill("#jet-about-what", "a <b>fox</b>")
    page.press("#jet-about-what", "Enter")
    expect(page.locator(STORY)).to_have_value(words("X"))
    expect_unlocked(page)
    assert served.engine.requests[-1].instruction == "Write me a story about a <b>fox</b>"
    select_tab(page, "guidance")
    expect(page.locator("#jet-context")).to_contain_text("What it is about")
    page.fill("#jet-about-what", "")  # from here on it only goes on
    page.press("#jet-about-what", "Tab")
    page.click("#jet-continue")
    expect_unlocked(page)
    assert served.engine.requests[-1].instruction == ""


def test_a_model_that_cannot_be_asked_is_not(quick: Page) -> None:
    expect(quick.locator("#jet-about-what")).to_be_hidden()


def test_the_history_lists_requests_and_saves_them(quick: Page) -> None:
    write(quick, "A")
    select_tab(quick, "engine")
    expect(quick.locator("#jet-request-history tbody tr").first).to_contain_text("length")
    time = quick.locator("#jet-request-history time").first
    here = time.evaluate("(time) => new Date(time.dateTime).toLocaleTimeString()")
    expect(time).to_have_text(here)
    with quick.expect_download() as download:
        quick.click("#jet-tab-panel-engine >> text=Save as csv")
    assert download.value.suggested_filename == "requests.csv"


@pytest.mark.parametrize("ending", ["txt", "md", "json"])
def test_a_saved_file_can_be_opened_again(quick: Page, tmp_path: Path, ending: str) -> None:
    written = write(quick, "A <b>bold</b> story")
    select_tab(quick, "stories")
    quick.fill("#jet-title", "The Tower")
    quick.press("#jet-title", "Tab")
    label = {"txt": "Text", "md": "Markdown", "json": "Everything"}[ending]
    with quick.expect_download() as download:
        quick.click(f".jet-files button >> text={label}")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == f"The_Tower.{ending}"
    quick.fill(STORY, "something else")
    quick.set_input_files("#jet-import", file)
    expect(quick.locator(STORY)).to_have_value(written)


def test_garbage_is_refused_in_words(quick: Page, tmp_path: Path) -> None:
    quick.fill(STORY, "Mine")
    select_tab(quick, "stories")
    garbage = tmp_path / "garbage.json"
    garbage.write_text('{"format": "something else"}')
    quick.set_input_files("#jet-import", garbage)
    expect(quick.locator("#jet-toast")).to_contain_text("format")
    assert story(quick) == "Mine"


def test_a_reload_brings_back_branches_and_undo_goes_on(quick: Page) -> None:
    written = write(quick, "A")
    quick.click("#jet-retry")
    expect_unlocked(quick)
    wait_until_kept(quick, branches=2)
    reload(quick)
    expect(quick.locator(STORY)).to_have_value(written)
    select_tab(quick, "branches")
    expect(quick.locator("#jet-tree li")).to_have_count(2)


def test_what_was_typed_last_survives_a_reload(quick: Page) -> None:
    quick.fill(STORY, "typed a moment ago \N{DRAGON}")
    reload(quick)
    expect(quick.locator(STORY)).to_have_value("typed a moment ago \N{DRAGON}")


def test_a_server_that_has_forgotten_the_story_is_sent_it_again(quick: Page, served: Served) -> None:
    written = write(quick, "A")
    wait_until_kept(quick)
    served.forget()
    quick.click("#jet-fork")
    expect(quick.locator("#jet-toast")).to_contain_text("it has it back now")
    expect(quick.locator(STORY)).to_have_value(written)
    quick.click("#jet-retry")  # it knows what the model had written
    expect(quick.locator(STORY)).to_have_value("A" + words("A"))
    expect_unlocked(quick)


def test_kept_stories_are_listed_in_a_new_tab(quick: Page, open_tab: OpenTab) -> None:
    write(quick, "A story to find again.")
    wait_until_kept(quick)
    other = open_tab()
    assert story(other) == ""
    select_tab(other, "stories")
    other.click("#jet-library >> text=A story to find again")
    expect(other.locator(STORY)).to_have_value(re.compile(r"^A story to find again\. A0 .*"))


def test_a_story_come_back_to_is_not_kept_twice(quick: Page) -> None:
    select_tab(quick, "stories")
    for text in ("The first story.", "The second story."):
        quick.click("#jet-new")
        expect(quick.locator(STORY)).to_have_value("")
        quick.fill(STORY, text)
        wait_until_listed(quick, text)
    quick.click("#jet-library >> text=The first story.")
    expect(quick.locator(STORY)).to_have_value("The first story.")
    quick.fill("#jet-title", "The Fox")
    quick.press("#jet-title", "Tab")
    expect(quick.locator("#jet-library [aria-current]")).to_contain_text("The Fox")
    quick.fill(STORY, "The first story, longer.")
    wait_until_listed(quick, "The first story, longer.")
    assert not [text for text in listed(quick) if text == "The first story."]


def test_storage_that_is_full_is_said(quick: Page) -> None:
    quick.evaluate(
        """() => {
            window.realSetItem = Storage.prototype.setItem;
            Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };
        }"""
    )
    quick.fill(STORY, "There is no room for this")
    expect(quick.locator("#jet-save-status")).to_contain_text("storage is full")
    quick.evaluate("() => { Storage.prototype.setItem = window.realSetItem; }")


def test_the_tabs_fit_every_screen(quick: Page) -> None:
    write(quick, "A")
    quick.click("#jet-write-variants")
    expect_unlocked(quick)
    for width in (390, 1600):
        quick.set_viewport_size({"width": width, "height": 900})
        for drawer in ("guidance", "branches", "stories", "engine", "tools", "settings"):
            select_tab(quick, drawer)
            expect_nothing_outside(quick, width)


def marked(page: Page, name: str) -> str:
    """Wait for text with this highlight, and return it."""
    page.wait_for_function("(name) => CSS.highlights.get(name)?.size > 0", arg=name)
    found = page.evaluate(
        "(name) => [...CSS.highlights.get(name)].map((range) => range.toString()).join('')", name
    )
    return str(found)


def listed(page: Page) -> list[str]:
    """Return the beginnings of the stories in the browser's storage."""
    index = page.evaluate("localStorage.getItem('jet-stories:index')") or "{}"
    return [entry["preview"] for entry in json.loads(index).values()]


def wait_until_listed(page: Page, beginning: str) -> None:
    """Wait until the story with this beginning is stored and the page is idle."""
    page.wait_for_function(
        """(beginning) => Object.values(JSON.parse(localStorage.getItem("jet-stories:index") ?? "{}"))
            .some(({ preview }) => preview === beginning)""",
        arg=beginning,
    )
    page.wait_for_function("window.jetStories.isKept()")


def wait_until_kept(page: Page, branches: int = 1) -> None:
    """Wait until the story is stored with its branches and the model's words."""
    page.wait_for_function(
        """(branches) => {
            const id = sessionStorage.getItem("jet-stories:id");
            const story = JSON.parse(localStorage.getItem(`jet-stories:copy:${id}`) ?? "{}");
            return story.branches?.length === branches && JSON.stringify(story).includes("stand-in");
        }""",
        arg=branches,
    )
