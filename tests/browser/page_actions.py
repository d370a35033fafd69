"""Actions on the page, and readers of its state."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from playwright.sync_api import Page, expect

PATIENCE_MS = 20_000  # what promises no time may take its time on a busy machine
STORY = "#jet-story textarea"
VARIANTS = (
    "#jet-variants:not(.jet-previous-variants)"  # of this writing, and not those that stood there before it
)
ATTEMPTS = 6
# Settings belong to the browser and stay where they were: here they go back to what the page came with.
DEFAULTS = """() => {
    const put = (field, name, value) => {
        if (!field || field[name] === value) return;
        field[name] = value;
        for (const event of ["input", "change"]) field.dispatchEvent(new Event(event, { bubbles: true }));
    };
    for (const { props, type } of gradio_config.components) {
        if (type !== "slider") continue;
        const field = document.querySelector(`[aria-label="number input for ${props.label}"]`);
        put(field, "value", String(props.value));
    }
    put(document.querySelector("#jet-seed input"), "value", "");
    put(document.getElementById("jet-stops"), "value", "");
    put(document.getElementById("jet-highlight"), "value", "latest");
    put(document.getElementById("jet-alternatives"), "checked", true);
    put(document.getElementById("jet-show-all-numbers"), "checked", false);
}"""


def best(measure: Callable[[], float], wanted: float, attempts: int = ATTEMPTS) -> float:
    """Return the shortest of several measurements, in seconds; stop once one is shorter than `wanted`.

    A busy machine can spoil a measurement, so one success in a few attempts is enough. A page that waits for
    something that it should not wait for would be slow in all attempts.
    """
    times = [measure()]
    while min(times) >= wanted and len(times) < attempts:
        times.append(measure())
    return min(times)


def story(page: Page) -> str:
    """Return the text in the editor."""
    return page.input_value(STORY)


def reload(page: Page) -> None:
    """Reload the page; wait until it is loaded and names its model."""
    page.reload()
    page.wait_for_selector(".jet-model-info b")
    page.wait_for_load_state("load")


def select_tab(page: Page, name: str) -> None:
    """Open one of the tabs of the drawer."""
    if page.get_attribute(f"#jet-tab-{name}", "aria-selected") != "true":
        page.click(f"#jet-tab-{name}")
    expect(page.locator(f"#jet-tab-panel-{name}")).to_be_visible()


def empty_editor(page: Page) -> None:
    """Start a new story with default settings, as in a browser with empty storage."""
    select_tab(page, "settings")
    page.fill(STORY, "x")
    expect(page.locator("#jet-undo")).to_be_enabled()
    page.evaluate("document.getElementById('jet-new').click()")
    expect(page.locator("#jet-undo")).to_be_disabled()
    expect(page.locator(STORY)).to_have_value("")
    page.wait_for_function("jetStories.isSettled()")
    page.evaluate(DEFAULTS)


def set_most_tokens(page: Page, number: int) -> None:
    """Set the maximum of new tokens in the settings of the drawer."""
    field = page.get_by_label("number input for Length in tokens")
    if not field.is_visible():
        select_tab(page, "settings")
    field.fill(str(number))


def show_numbers(page: Page) -> None:
    """Open the live panel, which is one line otherwise."""
    page.check("#jet-show-all-numbers")
    expect(page.locator(".jet-panel h2").first).to_be_visible()


def close_drawer(page: Page) -> None:
    """Close the drawer, if it is open."""
    for tab in page.locator(".jet-tabs [aria-selected=true]").all():
        tab.click()


def status(page: Page) -> str:
    """Return the status that the panel shows."""
    return page.inner_text(".jet-status")


def begin(page: Page, text: str) -> None:
    """Type a beginning, press Continue, and wait for the model's first words."""
    page.fill(STORY, text)
    page.click("#jet-continue")
    wait_for_words(page, text)


def place_cursor(page: Page, units: int) -> None:
    """Place the cursor in the editor, in UTF-16 units."""
    page.focus(STORY)
    page.eval_on_selector(STORY, "(sheet, at) => sheet.setSelectionRange(at, at)", units)


def press(page: Page, selector: str) -> None:
    """Click a button that acts on the story, once it is enabled; if it is hidden, open the ⋯ menu first."""
    if page.locator(selector).is_hidden() and page.locator("#jet-more-toggle").is_visible():
        page.click("#jet-more-toggle")
    expect(page.locator(selector)).to_be_enabled()
    page.click(selector)


def wait_for_words(page: Page, beginning: str) -> None:
    """Wait until the story is longer than its beginning."""
    page.wait_for_function(
        "([selector, length]) => document.querySelector(selector).value.length > length",
        arg=[STORY, len(beginning)],
    )


def stop(page: Page) -> None:
    """Press Stop by script: moving a pointer takes so long that a short story would end before."""
    page.eval_on_selector("#jet-stop", "(button) => button.click()")
    expect_unlocked(page)


def wait_for_status(page: Page, text: str) -> None:
    """Wait until the panel shows this status."""
    expect(page.locator(".jet-status")).to_have_text(text)


def expect_unlocked(page: Page) -> None:
    """Expect that the story can be edited and continued, and that there is nothing to stop."""
    expect(page.locator(STORY)).to_be_enabled()
    expect(page.locator("#jet-continue")).to_be_enabled()
    expect(page.locator("#jet-stop")).to_be_disabled()


def expect_locked(page: Page) -> None:
    """Expect that the story can be stopped and edited, and that all other commands are disabled."""
    expect(page.locator("#jet-stop")).to_be_enabled()
    expect(page.locator(STORY)).to_be_enabled()
    for selector in ("#jet-continue", "#jet-undo", "#jet-retry", "#jet-new"):
        expect(page.locator(selector)).to_be_disabled()
    expect(page.locator("#jet-openings button:enabled")).to_have_count(0)


def time_of(page: Page, trigger: str, text: str) -> float:
    """Measure the seconds from a click on `trigger` until the panel says `text`, in the browser.

    Fails after `PATIENCE_MS`, with the status that the panel shows instead.
    """
    milliseconds = page.evaluate(
        """([trigger, text, longest]) => new Promise((resolve, reject) => {
            const clicked = performance.now();
            const status = () => document.querySelector(".jet-status").innerText.trim();
            const look = () => {
                if (status() !== text) return;
                observer.disconnect();
                resolve(performance.now() - clicked);
            };
            setTimeout(() => reject(new Error(`The panel says ${status()}`)), longest);
            const observer = new MutationObserver(look);
            observer.observe(document.body, { subtree: true, childList: true, characterData: true });
            document.querySelector(trigger).click();
        })""",
        [trigger, text, PATIENCE_MS],
    )
    return float(milliseconds) / 1000


def expect_nothing_outside(page: Page, width: int) -> None:
    """Expect no horizontal scrolling, and no part of the page beyond its edges."""
    look = """(width) => [...document.querySelectorAll("#jet-page *")].filter((element) => {
        const box = element.getBoundingClientRect();
        return box.width > 0 && element.checkVisibility() && (box.left < 0 || box.right > width + 0.5);
    }).map((element) => element.outerHTML.slice(0, 120))"""
    for _ in range(30):  # what follows the sheet's size does so a frame later
        outside = page.evaluate(look, width)
        if not outside:
            break
        page.wait_for_timeout(100)
    assert outside == [], outside
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def expect_no_overlap(page: Page, selectors: list[str]) -> None:
    """Expect each of these elements to be below the one before it."""
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    for upper, lower in pairwise(boxes):
        assert upper is not None and lower is not None
        assert lower["y"] >= upper["y"] + upper["height"] - 0.5
