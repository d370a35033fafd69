"""Test in Chromium that settings, endings and line breaks that a form does not show stay unchanged."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.files import to_json
from jet.story.guidance import AuthorsNote, Guidance
from tests.browser.page_actions import STORY, begin, expect_unlocked, select_tab, set_most_tokens, story
from tests.ui import test_borders
from tests.ui.served import Served

pytestmark = pytest.mark.browser

LORE = replace(
    test_borders.LORE, keywords=("Doe, John", "two\nlines", 'the "Fox"', "“Rose”"), content="\n\nA man.\n"
)
STOPS = ("\n\n", "\nThe End", r"C:\new", "\t")


def saved(page: Page) -> dict[str, Any]:
    """Return the story as the page saves it in a JSON file."""
    select_tab(page, "stories")
    with page.expect_download() as download:
        page.click("[data-command*=json]")
    found: dict[str, Any] = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    return found


def settle(page: Page) -> None:
    page.wait_for_function("jetStories.isSettled()")


def test_what_the_forms_do_not_show_stays_and_endings_are_said(
    tab: Page, served: Served, tmp_path: Path
) -> None:
    served.engine.tokens_per_second = 400
    expect(tab.locator("#jet-retry")).to_be_disabled()  # there is nothing to retry
    document = Document.from_text("A fox")
    document.guidance = Guidance("\n\nMemory.\n", AuthorsNote("\nNote"), (LORE,), "one\ntwo")
    document.stops = STOPS
    (tmp_path / "a.json").write_text(to_json(document), encoding="utf-8")
    select_tab(tab, "stories")
    tab.set_input_files("#jet-import", tmp_path / "a.json")
    expect(tab.locator(STORY)).to_have_value("A fox")
    settle(tab)
    expect(tab.locator("#jet-stops")).to_have_value("\n".join((r"\n\n", r"\nThe End", r"C:\\new", r"\t")))
    select_tab(tab, "guidance")
    expect(tab.locator("#jet-memory")).to_have_value("\n\nMemory.\n")
    tab.fill("#jet-note", "Other")
    tab.press("#jet-note", "Tab")
    settle(tab)
    select_tab(tab, "settings")
    set_most_tokens(tab, 2)
    tab.click("#jet-continue")
    expect_unlocked(tab)
    kept = saved(tab)
    assert kept["guidance"]["lore"] == [json.loads(json.dumps(asdict(LORE)))]
    assert (kept["guidance"]["memory"], kept["guidance"]["about"]) == ("\n\nMemory.\n", "one\ntwo")
    assert kept["guidance"]["note"]["text"] == "Other"
    assert tuple(kept["stops"]) == STOPS
    those_of_the_browser = SamplingParams(max_new_tokens=2, end_at="sentence")
    assert SamplingParams(**kept["sampling"]) == those_of_the_browser

    # Retry is there now; the writer's sentence behind it is said to be kept, and so is another seed.
    select_tab(tab, "settings")
    tab.locator("#jet-seed").locator("input, textarea").fill("7")
    tab.click("#jet-continue")
    expect_unlocked(tab)
    tab.click(STORY)
    tab.keyboard.press("Control+End")
    tab.keyboard.type(" I wept.")
    tab.click("#jet-retry")
    expect_unlocked(tab)
    expect(tab.locator("#jet-toast")).to_contain_text("another seed")
    expect(tab.locator("#jet-toast")).to_contain_text("Your last sentence is on “Version 1”.")

    # A story that the model has closed goes on with one click.
    served.engine.closed = True
    before = story(tab)
    tab.click("#jet-continue")
    expect(tab.locator("#jet-toast")).to_contain_text("The model has ended this story. Continue anyway?")
    assert story(tab) == before
    tab.click(".jet-offer")
    expect_unlocked(tab)
    expect(tab.locator(STORY)).not_to_have_value(before)
    assert story(tab).startswith(before)


def test_a_long_story_with_windows_line_breaks_takes_every_command(
    tab: Page, served: Served, tmp_path: Path
) -> None:
    served.engine.tokens_per_second = 400
    served.engine.context = 100_000
    lines = [f"Line {n} of it." for n in range(3_500)]
    (tmp_path / "a.txt").write_bytes("\r\n".join(lines).encode())
    select_tab(tab, "stories")
    tab.set_input_files("#jet-import", tmp_path / "a.txt")
    expect(tab.locator(STORY)).to_have_value("\n".join(lines))
    settle(tab)
    tab.click(STORY)
    tab.keyboard.press("Control+End")
    tab.keyboard.type("Then")
    select_tab(tab, "branches")
    settle(tab)
    expect(tab.locator(".jet-bad")).to_have_count(0)
    tab.click("#jet-undo")
    expect(tab.locator(STORY)).to_have_value("\n".join(lines))


@pytest.mark.thorough
def test_typed_stops_retry_and_kobold_saves(tab: Page, served: Served, tmp_path: Path) -> None:
    served.engine.tokens_per_second = 400
    save = {
        "prompt": "A tale[<|p|1|p|>]",
        "actions": [None, " of\r\nold"],
        "memory": None,
        "worldinfo": [{"key": "tale", "content": "Long.", "widisabled": True}, None],
    }
    (tmp_path / "kobold.json").write_text(json.dumps(save), encoding="utf-8")
    select_tab(tab, "stories")
    tab.set_input_files("#jet-import", tmp_path / "kobold.json")
    expect(tab.locator("#jet-review li")).to_have_text(["1 picture"])
    tab.click("#jet-review button:text-is('Open')")
    expect(tab.locator(STORY)).to_have_value("A tale of\nold")
    select_tab(tab, "guidance")
    expect(tab.locator("#jet-lore [data-lore=enabled]")).not_to_be_checked()
    select_tab(tab, "settings")
    set_most_tokens(tab, 4)
    tab.fill("#jet-stops", r" A2\n" + "\n A2")
    begin(tab, "A")
    expect_unlocked(tab)
    expect(tab.locator(STORY)).to_have_value("A A0 A1")
    tab.fill("#jet-stops", " A0")
    tab.click("#jet-continue")
    expect_unlocked(tab)
    expect(tab.locator(STORY)).to_have_value(
        "A A0 A1 A0 A1 A2 A3"
    )  # the stop at the very beginning is skipped
