"""Test the browser storage in Chromium: one story in two tabs, and storage that is full or forbidden."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from jet.ui.page import build, launch
from tests.browser.conftest import PATIENCE_MS, QUIET, VIEWPORT
from tests.browser.page_actions import (
    STORY,
    begin,
    expect_unlocked,
    reload,
    select_tab,
    set_most_tokens,
    story,
)
from tests.ui.served import Served
from tests.ui.stand_in import StandInSource

pytestmark = pytest.mark.browser

HOST = "stories.test"  # no name that Chromium trusts without https
FORBIDDEN = """
    const forbidden = { get() { throw new DOMException("no", "SecurityError"); } };
    Object.defineProperty(window, "localStorage", forbidden);
"""
FULL = """
    const put = Storage.prototype.setItem;
    window.makeRoom = () => { Storage.prototype.setItem = put; };
    window.fill = () => { Storage.prototype.setItem = function (key, value) {
        if (this === localStorage) throw new DOMException("full", "QuotaExceededError");
        return put.call(this, key, value);
    }; };
"""


@pytest.fixture(scope="module")
def http_url(page_server: Served) -> Iterator[str]:
    """Yield the page's URL as other machines of the network use it: plain http, with a host name."""
    source = StandInSource()
    demo = build(source)
    url = launch(demo, "0.0.0.0")
    yield f"http://{HOST}:{url.rstrip('/').rsplit(':', 1)[1]}/"
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def http_browser(browser: Browser) -> Iterator[Browser]:
    """Yield a browser that resolves the host name of `http_url`."""
    other = browser.browser_type.launch(
        executable_path=browser_path(), args=[*QUIET, f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
    )
    yield other
    other.close()


def browser_path() -> str:
    from tests.chromium import find_chromium

    return str(find_chromium())


@pytest.fixture
def http_context(http_browser: Browser) -> Iterator[BrowserContext]:
    context = http_browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


def open_page(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector(".jet-model-info b")
    return page


def duplicate(page: Page) -> Page:
    """Open a second tab as "Duplicate" does, with the session storage of the first."""
    with page.expect_popup() as opened:
        page.evaluate("window.open(location.href)")
    opened.value.wait_for_selector(".jet-model-info b")
    return opened.value


def kept(page: Page) -> dict[str, str]:
    """Return the text that the browser has stored for each story, by the story's id."""
    plain = page.evaluate(
        "Object.entries(localStorage).filter(([key]) => key.startsWith('jet-stories:draft:'))"
    )
    return {key.rsplit(":", 1)[1]: text for key, text in plain}


def write(page: Page, text: str) -> None:
    page.fill(STORY, text)
    page.wait_for_function(
        "(text) => Object.entries(localStorage).some(([k, v]) => k.includes(':draft:') && v === text)",
        arg=text,
    )


def test_two_tabs_of_one_story_over_plain_http_never_overwrite_each_other(
    http_context: BrowserContext, http_url: str
) -> None:
    first = open_page(http_context, http_url)
    assert first.evaluate("isSecureContext") is False
    write(first, "One story.")
    second = duplicate(first)
    expect(second.locator(STORY)).to_have_value("One story.")
    expect(first.locator("#jet-notices")).to_contain_text("open in another tab")
    expect(second.locator("#jet-notices")).to_contain_text("open in another tab")
    assert list(kept(first).values()) == ["One story."]  # a copy begins with the first change
    write(second, "One story. Second.")
    write(first, "One story. First.")
    assert sorted(kept(first).values()) == ["One story. First.", "One story. Second."]
    select_tab(first, "stories")
    rows = first.locator("#jet-library li").all_inner_texts()
    assert len(rows) == 2 and sum("(copy)" in row for row in rows) == 1
    assert sum("open in another tab" in row for row in rows) == 1
    reload(second)
    expect(second.locator(STORY)).to_have_value("One story. Second.")
    reload(first)
    expect(first.locator(STORY)).to_have_value("One story. First.")
    assert len(kept(first)) == 2
    third = duplicate(first)  # a copy of the same story again, from the library of another tab
    write(third, "One story. Third.")
    assert sorted(kept(first).values()) == ["One story. First.", "One story. Second.", "One story. Third."]
    third.close()
    second.close()
    expect(first.locator("#jet-notices")).not_to_contain_text("open in another tab")
    write(first, "One story. First, again.")
    assert "One story. First, again." in kept(first).values() and len(kept(first)) == 3


def test_a_story_opened_from_the_library_of_another_tab_is_said_and_copied(
    http_context: BrowserContext, http_url: str
) -> None:
    first = open_page(http_context, http_url)
    write(first, "The tower.")
    second = open_page(http_context, http_url)
    select_tab(second, "stories")
    second.click("#jet-library >> text=The tower.")
    expect(second.locator(STORY)).to_have_value("The tower.")
    expect(second.locator("#jet-notices")).to_contain_text("open in another tab")
    expect(first.locator("#jet-notices")).to_contain_text("open in another tab")
    first.close()  # and the second has it from now on
    expect(second.locator("#jet-notices")).not_to_contain_text("open in another tab")
    write(second, "The tower. On.")
    assert list(kept(second).values()) == ["The tower. On."]


@pytest.mark.thorough
def test_a_tab_that_crashed_leaves_its_story_to_the_next(http_context: BrowserContext, http_url: str) -> None:
    first = open_page(http_context, http_url)
    write(first, "Before the crash.")
    second = open_page(http_context, http_url)
    (key,) = kept(first)
    first.evaluate("addEventListener('pagehide', (event) => event.stopImmediatePropagation(), true)")
    lease = first.evaluate("(id) => localStorage.getItem(`jet-stories:tab:${id}`)", key)
    first.close()
    # As a crash leaves it: word of a tab that answers no more.
    second.evaluate("([id, lease]) => localStorage.setItem(`jet-stories:tab:${id}`, lease)", [key, lease])
    select_tab(second, "stories")
    second.click("#jet-library >> text=Before the crash.")
    expect(second.locator(STORY)).to_have_value("Before the crash.")
    second.wait_for_timeout(2500)
    write(second, "After it.")
    assert list(kept(second).values()) == ["After it."]


@pytest.mark.thorough
def test_a_tab_that_slept_does_not_overwrite_what_took_its_story(
    http_context: BrowserContext, http_url: str
) -> None:
    first = open_page(http_context, http_url)
    write(first, "A sleeper.")
    (key,) = kept(first)
    first.evaluate(
        """(id) => {
            const lease = JSON.stringify({ tab: "another", at: Date.now() });
            localStorage.setItem(`jet-stories:tab:${id}`, lease);
        }""",
        key,
    )
    first.evaluate("(id) => localStorage.setItem(`jet-stories:draft:${id}`, 'Taken over.')", key)
    write(first, "A sleeper awakes.")
    assert sorted(kept(first).values()) == ["A sleeper awakes.", "Taken over."]
    expect(first.locator("#jet-notices")).to_contain_text("another tab")


@pytest.mark.parametrize("how", ["full", "forbidden"])
def test_what_is_kept_nowhere_is_never_dropped_without_a_question(
    browser: Browser, served: Served, tmp_path: Path, how: str
) -> None:
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(FORBIDDEN if how == "forbidden" else FULL)
    page = open_page(context, served.url)
    if how == "full":
        page.evaluate("fill()")
    page.fill(STORY, "Kept nowhere")
    expect(page.locator("#jet-save-status")).to_contain_text("Not saved")
    asked: list[str] = []
    answer = threading.Event()

    def on_dialog(dialog: object) -> None:
        asked.append(f"{dialog.type}: {dialog.message}")  # type: ignore[attr-defined]
        dialog.accept() if answer.is_set() else dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", on_dialog)
    select_tab(page, "stories")
    page.click("#jet-new")
    page.wait_for_function("jetStories.isSettled()")
    assert len(asked) == 1 and asked[0].startswith("confirm: This story is saved nowhere")
    file = tmp_path / "other.txt"
    file.write_text("Another story")
    page.set_input_files("#jet-import", file)
    page.wait_for_timeout(300)
    assert len(asked) == 2
    drop_file(page, b"Another story", "other.txt")
    page.wait_for_timeout(300)
    assert len(asked) == 3 and story(page) == "Kept nowhere"
    page.close(run_before_unload=True)
    page.wait_for_timeout(300)
    assert asked[3].startswith("beforeunload") and story(page) == "Kept nowhere"
    with page.expect_download():
        page.click(".jet-files button >> text=Everything")
    page.wait_for_function("jetStories.isSettled()")
    page.click("#jet-new")  # it is in a file now
    expect(page.locator(STORY)).to_have_value("")
    page.fill(STORY, "Kept nowhere, too")
    expect(page.locator("#jet-save-status")).to_contain_text("Not saved")
    answer.set()
    page.click("#jet-new")
    expect(page.locator(STORY)).to_have_value("")
    assert len(asked) == 5
    context.close()


def test_a_forgetful_server_empties_no_editor_that_is_kept_nowhere(
    browser: Browser, served: Served, standing_tab: Page
) -> None:
    standing_tab.goto("about:blank")  # the server forgets its story, too
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script(FORBIDDEN)
    page = open_page(context, served.url)
    page.fill(STORY, "Only here")
    page.wait_for_function("jetStories.isKept()")
    served.forget()
    page.click("#jet-fork")
    expect(page.locator("#jet-toast")).to_contain_text("it has it back now")
    page.wait_for_function("jetStories.isSettled()")
    assert story(page) == "Only here"
    context.close()


@pytest.mark.thorough
def test_a_memory_without_a_text_is_kept(browser: Browser, served: Served) -> None:
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    page = open_page(context, served.url)
    select_tab(page, "guidance")
    page.fill("#jet-memory", "It rains.")
    page.press("#jet-memory", "Tab")
    page.wait_for_function("jetStories.isKept()")
    index = json.loads(page.evaluate("localStorage.getItem('jet-stories:index')"))
    assert len(index) == 1
    reload(page)
    select_tab(page, "guidance")
    expect(page.locator("#jet-memory")).to_have_value("It rains.")
    context.close()


def test_a_file_dropped_in_the_editor_is_opened(tab: Page) -> None:
    drop_file(tab, "Dropped, with ä.\r\nAnd on.".encode(), "dropped.txt")
    expect(tab.locator(STORY)).to_have_value("Dropped, with ä.\nAnd on.")
    drop_file(tab, "“It’s café time” – she said…".encode("cp1252"), "windows.txt")
    expect(tab.locator("#jet-review option").first).to_contain_text("Windows-1252, Western European: “It’s")
    tab.click("#jet-review button:text-is('Open')")
    expect(tab.locator(STORY)).to_have_value("“It’s café time” – she said…")
    drop_file(tab, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "picture.txt")
    expect(tab.locator("#jet-toast")).to_contain_text("This picture")
    assert story(tab).startswith("“It’s")
    tab.wait_for_function("jetStories.isSettled()")


def test_a_story_opened_while_the_model_writes_comes_alone(tab: Page, served: Served) -> None:
    served.engine.tokens_per_second = 20
    set_most_tokens(tab, 2000)
    begin(tab, "A")
    drop_file(tab, b"Dropped.", "dropped.txt")
    expect(tab.locator(STORY)).to_have_value("Dropped.")
    expect_unlocked(tab)
    begin(tab, "B")
    tab.keyboard.type(" typed")
    written = story(tab)
    select_tab(tab, "stories")
    tab.locator("#jet-library .jet-branch:enabled").first.click()
    expect(tab.locator(STORY)).to_have_value(re.compile(r"A( A\d+)+"))
    expect_unlocked(tab)
    tab.wait_for_function("jetStories.isSettled()")
    assert written in kept(tab).values()


def drop_file(page: Page, data: bytes, name: str) -> None:
    """Drop a file on the editor."""
    page.evaluate(
        """([selector, bytes, name]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
            for (const type of ["dragenter", "dragover", "drop"]) {
                const event = new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true });
                document.querySelector(selector).dispatchEvent(event);
                if (type !== "dragenter" && !event.defaultPrevented) throw new Error(`${type} is not ours`);
            }
        }""",
        [STORY, list(data), name],
    )
