"""Test story files in Chromium: formats out and in, several at once, and losses shown before opening."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.page_actions import STORY, select_tab, story
from tests.files.samples import PROSE, card_chunk, picture
from tests.files.test_foreign import CARD, WORLD

pytestmark = pytest.mark.browser

DROP = """([name, data]) => {
    const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


WATCH_CLIPBOARD = """() => {
    const set = DataTransfer.prototype.setData;
    DataTransfer.prototype.setData = function (kind, text) {
        if (kind === "text/html") globalThis.copied = text;
        return set.call(this, kind, text);
    };
}"""


@pytest.mark.parametrize("label", ["Word (docx)", "Book (epub)", "Web page"])
def test_a_book_is_saved_and_opened_again(tab: Page, tmp_path: Path, label: str) -> None:
    tab.fill(STORY, PROSE)
    select_tab(tab, "stories")
    for field, value in (("#jet-title", "The Tower"), ("#jet-author", "Ida Várga")):
        tab.fill(field, value)
        tab.press(field, "Tab")
    with tab.expect_download() as download:
        tab.click(f'.jet-files button:text-is("{label}")')
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.stem == "The_Tower"
    tab.click("#jet-new")
    expect(tab.locator(STORY)).to_have_value("")
    expect(tab.locator("#jet-author")).to_have_value("")
    tab.evaluate(DROP, [file.name, base64.b64encode(file.read_bytes()).decode()])
    expect(tab.locator(STORY)).to_have_value(PROSE)
    expect(tab.locator("#jet-title")).to_have_value("The Tower")
    expect(tab.locator("#jet-author")).to_have_value("Ida Várga")


def test_what_cannot_be_kept_is_told_before_a_file_is_opened(tab: Page, tmp_path: Path) -> None:
    tab.fill(STORY, "Mine")
    select_tab(tab, "stories")
    (tmp_path / "mira.png").write_bytes(picture(card_chunk({"spec": "chara_card_v2", "data": CARD})))
    tab.set_input_files("#jet-import", tmp_path / "mira.png")
    review = tab.locator("#jet-review")
    expect(review).to_contain_text("character card in a picture: 6 words, memory.")
    expect(review.locator("li")).to_have_text(
        ["who {{user}} is: “You” stands there now", "the picture itself"]
    )
    assert story(tab) == "Mine"
    review.get_by_text("Cancel").click()
    expect(review).to_be_empty()
    tab.set_input_files("#jet-import", tmp_path / "mira.png")
    review.get_by_text("Open", exact=True).click()
    expect(tab.locator(STORY)).to_have_value("*Mira looks at You.* “You again.”")
    select_tab(tab, "guidance")
    expect(tab.locator("#jet-memory")).to_have_value(re.compile("^Mira: Mira keeps the light for You"))


def test_a_lorebook_is_added_to_the_story_that_is_open(tab: Page, tmp_path: Path) -> None:
    tab.fill(STORY, "Mine")
    select_tab(tab, "stories")
    (tmp_path / "world.json").write_text(json.dumps({"entries": {"0": WORLD}}), encoding="utf-8")
    tab.set_input_files("#jet-import", tmp_path / "world.json")
    tab.click("#jet-review >> text=Add to this story")
    expect(tab.locator("#jet-toast")).to_contain_text("Added to this story: 1 lorebook entry.")
    assert story(tab) == "Mine"
    select_tab(tab, "guidance")
    expect(tab.locator("#jet-lore [data-lore=keywords]")).to_have_value("tower")


def test_an_encoding_can_be_chosen(tab: Page, tmp_path: Path) -> None:
    text = "Старый смотритель маяка открыл дверь и увидел море."
    (tmp_path / "old.txt").write_bytes(text.encode("koi8-r"))
    select_tab(tab, "stories")
    tab.set_input_files("#jet-import", tmp_path / "old.txt")
    choice = tab.locator("#jet-review select")
    expect(choice.locator("option").first).to_contain_text("KOI8-R, Cyrillic: Старый")
    choice.select_option("cp1251")
    expect(choice.locator("option").first).to_contain_text("Windows-1251")
    choice.select_option("koi8_r")
    expect(choice.locator("option").first).to_contain_text("KOI8-R")
    tab.click("#jet-review button:text-is('Open')")
    expect(tab.locator(STORY)).to_have_value(text)


def test_all_stories_are_saved_as_one_zip_and_several_files_come_back(tab: Page, tmp_path: Path) -> None:
    tab.fill(STORY, "The first one.")
    select_tab(tab, "stories")
    tab.wait_for_function("jetStories.isKept()")
    tab.click("#jet-new")
    expect(tab.locator(STORY)).to_have_value("")
    tab.fill(STORY, "The second one.")
    tab.wait_for_function("jetStories.isKept()")
    with tab.expect_download() as download:
        tab.click("#jet-save-all")
    download.value.save_as(tmp_path / "stories.zip")
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    stories = tab.evaluate("Object.keys(JSON.parse(localStorage.getItem('jet-stories:index'))).length")
    tab.set_input_files("#jet-import", [tmp_path / "stories.zip", tmp_path / "bad.json"])
    review = tab.locator("#jet-review")
    expect(review.locator("h2")).to_have_text(f"{stories} of {stories + 1} can be read")
    expect(review.locator(".jet-bad")).to_contain_text("This is not JSON")
    review.get_by_text(f"Keep all {stories} in the list").click()
    expect(tab.locator("#jet-toast")).to_contain_text(f"{stories} stories are in the list now.")
    expect(tab.locator("#jet-library li")).to_have_count(2 * stories)
    assert story(tab) == "The second one."


def test_a_story_is_copied_as_rich_text_and_printed_as_a_book(tab: Page) -> None:
    tab.fill(STORY, PROSE)
    select_tab(tab, "stories")
    tab.evaluate(WATCH_CLIPBOARD)
    tab.click("#jet-copy-rich")
    expect(tab.locator("#jet-toast")).to_contain_text("Copied as rich text.")
    copied = tab.evaluate("globalThis.copied")
    assert "<em>Quietly.</em>" in copied
    assert '<h1 dir="auto">The Lamp at Skell</h1>' in copied
    tab.emulate_media(media="print")
    try:
        tab.wait_for_selector("#jet-print h1", state="attached")
        assert tab.locator("#jet-print em").first.inner_text() == "Quietly."
        assert tab.locator("#jet-print .scene").inner_text() == "* * *"
    finally:
        tab.emulate_media(media="screen")
