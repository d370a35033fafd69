"""Actions on the page, and what can be seen of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from playwright.sync_api import Page, expect

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
    put(document.getElementById("jet-highlight"), "value", "authorship");
    put(document.getElementById("jet-alternatives"), "checked", true);
}"""


def best(measure: Callable[[], float], wanted: float, attempts: int = ATTEMPTS) -> float:
    """The shortest of a few times; no more are taken than it needs to be as short as wanted.

    A busy machine stutters, and one stutter decides nothing: the page keeps a promise that it keeps in one
    of a few attempts. What waited for something that it should not wait for would take longer every time.
    """
    times = [measure()]
    while min(times) >= wanted and len(times) < attempts:
        times.append(measure())
    return min(times)


def story(page: Page) -> str:
    """The text on the sheet."""
    return page.input_value(STORY)


def reload(page: Page) -> None:
    """Load the page again, up to where it has nothing more to ask of the server."""
    page.reload()
    page.wait_for_selector(".jet-model-info b")
    page.wait_for_load_state("load")


def select_tab(page: Page, name: str) -> None:
    """Unfold one of the drawers below the sheet."""
    page.click(f"#jet-tab-{name}")
    expect(page.locator(f"#jet-tab-panel-{name}")).to_be_visible()


def empty_editor(page: Page) -> None:
    """Begin a new story, the settings at their defaults, as in a browser that has kept nothing."""
    select_tab(page, "settings")
    page.fill(STORY, "x")
    expect(page.locator("#jet-undo")).to_be_enabled()
    page.evaluate("document.getElementById('jet-new').click()")
    expect(page.locator("#jet-undo")).to_be_disabled()
    expect(page.locator(STORY)).to_have_value("")
    page.wait_for_function("jetStories.isSettled()")
    page.evaluate(DEFAULTS)


def set_most_tokens(page: Page, number: int) -> None:
    """Write at most so many tokens."""
    page.get_by_label("number input for Maximum new tokens").fill(str(number))


def status(page: Page) -> str:
    """What the panel says is going on."""
    return page.inner_text(".jet-status")


def begin(page: Page, text: str) -> None:
    """Type a beginning, press Continue, and wait for the model's first words."""
    page.fill(STORY, text)
    page.click("#jet-continue")
    wait_for_words(page, text)


def place_cursor(page: Page, units: int) -> None:
    """Put the cursor at a place of the sheet, in UTF-16 units."""
    page.focus(STORY)
    page.eval_on_selector(STORY, "(sheet, at) => sheet.setSelectionRange(at, at)", units)


def press(page: Page, selector: str) -> None:
    """Click a button that does something with the story, once it can be clicked."""
    expect(page.locator(selector)).to_be_enabled()
    page.click(selector)


def wait_for_words(page: Page, beginning: str) -> None:
    """Until the story is longer than its beginning."""
    page.wait_for_function(
        "([selector, length]) => document.querySelector(selector).value.length > length",
        arg=[STORY, len(beginning)],
    )


def wait_for_status(page: Page, text: str) -> None:
    """Until the panel says so and, for what is an end, the page is unlocked."""
    expect(page.locator(".jet-status")).to_have_text(text)


def expect_unlocked(page: Page) -> None:
    """The story can be edited and continued, and there is nothing to stop."""
    expect(page.locator(STORY)).to_be_enabled()
    expect(page.locator("#jet-continue")).to_be_enabled()
    expect(page.locator("#jet-stop")).to_be_disabled()


def expect_locked(page: Page) -> None:
    """The story can be stopped, and typed into, which stops it, too."""
    expect(page.locator("#jet-stop")).to_be_enabled()
    expect(page.locator(STORY)).to_be_enabled()
    for selector in ("#jet-continue", "#jet-undo", "#jet-retry", "#jet-new"):
        expect(page.locator(selector)).to_be_disabled()
    for opening in page.locator("#jet-openings button").all():
        expect(opening).to_be_disabled()


def time_of(page: Page, trigger: str, text: str) -> float:
    """Seconds from a click on `trigger` until the panel says `text`, measured in the browser."""
    milliseconds = page.evaluate(
        """([trigger, text]) => new Promise((resolve) => {
            const clicked = performance.now();
            const look = () => {
                if (document.querySelector(".jet-status").innerText.trim() !== text) return;
                observer.disconnect();
                resolve(performance.now() - clicked);
            };
            const observer = new MutationObserver(look);
            observer.observe(document.body, { subtree: true, childList: true, characterData: true });
            document.querySelector(trigger).click();
        })""",
        [trigger, text],
    )
    return float(milliseconds) / 1000


def expect_nothing_outside(page: Page, width: int) -> None:
    """No scrolling sideways, and no part of the page beyond its edges."""
    look = """(width) => [...document.querySelectorAll("#jet-page *")].filter((element) => {
        const box = element.getBoundingClientRect();
        return box.width > 0 && (box.left < 0 || box.right > width + 0.5);
    }).map((element) => element.outerHTML.slice(0, 120))"""
    for _ in range(30):  # what follows the sheet's size does so a frame later
        outside = page.evaluate(look, width)
        if not outside:
            break
        page.wait_for_timeout(100)
    assert outside == [], outside
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def expect_no_overlap(page: Page, selectors: list[str]) -> None:
    """These stand one below the other."""
    boxes = [page.locator(selector).bounding_box() for selector in selectors]
    for upper, lower in pairwise(boxes):
        assert upper is not None and lower is not None
        assert lower["y"] >= upper["y"] + upper["height"] - 0.5
