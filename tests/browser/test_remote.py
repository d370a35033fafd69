"""Test the page in Chromium over an engine that runs on another server."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from jet.engine.holder import ModelHolder
from jet.engine.remote.client import RemoteConfig
from jet.ui.page import build, launch
from tests.browser.conftest import PATIENCE_MS
from tests.browser.page_actions import (
    STORY,
    begin,
    expect_unlocked,
    set_most_tokens,
    show_numbers,
    status,
    story,
    wait_for_status,
)
from tests.engine.faulty_server import Answer, FaultyServer, faulty_server
from tests.engine.llama_server import llama_server


@contextmanager
def page_over(browser: Browser, url: str) -> Iterator[Page]:
    holder = ModelHolder()
    source = holder.handle(RemoteConfig(url))
    demo = build(source)
    address = launch(demo)
    source.engine()
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        page.goto(address)
        page.wait_for_selector(".jet-model-info b")
        yield page
        assert errors == []
    finally:
        page.close()
        demo.close(verbose=False)
        holder.close()


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture(scope="module")
def standing_page(browser: Browser, server: FaultyServer) -> Iterator[Page]:
    with page_over(browser, server.url) as page:
        yield page


@pytest.mark.browser
def test_a_real_server_writes_a_story(browser: Browser, tmp_path: Path) -> None:
    with llama_server(tmp_path) as url, page_over(browser, url) as page:
        set_most_tokens(page, 60)
        begin(page, "ba be bi")
        wait_for_status(page, "Done")
        expect_unlocked(page)
        words = story(page).removeprefix("ba be bi").split()
        assert len(words) > 30 and all(len(word) >= 2 for word in words)
        show_numbers(page)
        panel = page.inner_text(".jet-panel")
        assert "another server (llamacpp)" in str(page.text_content(".jet-model-info"))
        written = re.search(r"Generated tokens\s*(\d+)", panel)
        assert written is not None and 60 <= int(written[1]) <= 90  # a sentence is ended
        for said in ("not known here", "not known: the model runs elsewhere", "on another server"):
            assert said in panel


def tell_slowly(answer: Answer) -> None:
    answer.head()
    for number in count():
        answer.word(f" w{number}")
        time.sleep(0.05)


@pytest.mark.browser
@pytest.mark.alone
def test_stop_in_the_middle_keeps_the_text_and_hangs_up(server: FaultyServer, standing_page: Page) -> None:
    gone: list[float] = []

    def tell(answer: Answer) -> None:
        try:
            tell_slowly(answer)
        except OSError:
            gone.append(time.monotonic())
            raise

    page = standing_page
    server.answer(tell)
    begin(page, "Once upon")
    page.wait_for_function(f"document.querySelector('{STORY}').value.includes(' w5')")
    page.click("#jet-stop")
    stopped = time.monotonic()
    wait_for_status(page, "Stopped")
    expect_unlocked(page)
    written = story(page)
    assert written.startswith("Once upon w0 w1 w2 w3 w4 w5")
    page.wait_for_timeout(500)
    assert story(page) == written
    assert gone and gone[0] - stopped < 2, "the server was not told to stop"
    assert "about" in str(page.text_content(".jet-panel")), "pieces were counted, and the panel says so"


@pytest.mark.browser
def test_a_server_that_dies_in_the_middle_costs_no_text(server: FaultyServer, standing_page: Page) -> None:
    page = standing_page

    def die(answer: Answer) -> None:
        answer.head()
        answer.word(" and then")
        time.sleep(0.3)
        answer.drop()

    server.answer(die)
    page.fill(STORY, "A new one")
    page.click("#jet-continue")
    wait_for_status(page, "That did not work")
    expect(page.locator(".jet-detail")).to_contain_text("broke off in the middle of the story")
    expect_unlocked(page)
    assert story(page) == "A new one and then"
    server.answer(lambda answer: (answer.head(), answer.word(" it went on"), answer.done("stop")))
    page.click("#jet-continue")
    wait_for_status(page, "The story has ended")
    assert story(page) == "A new one and then it went on"
    assert status(page) != "That did not work"
