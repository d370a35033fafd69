"""Take the README's pictures of a running page: `python -m scripts.take_pictures http://127.0.0.1:7860`.

Needs Playwright and a Chromium, as the browser tests do.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "screenshots"
STORY = "#jet-story textarea"
WIDE, NARROW = (1366, 820), (390, 844)


def begin(browser: Browser, url: str, size: tuple[int, int], dark: bool = False) -> Page:
    """Open the page in a fresh browser context and choose its first beginning."""
    page = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
    ).new_page()
    page.goto(url)
    page.wait_for_selector(".jet-model-info b")
    page.click("[data-opening]")
    return page


def press(page: Page, selector: str, seed: int, tokens: int, most: int) -> None:
    """Click a button that generates `most` tokens at most, and wait for the first `tokens` of them."""
    tab = page.locator("#jet-tab-settings")
    tab.click()
    page.fill("#jet-seed input", str(seed))
    page.get_by_label("number input for Length in tokens").fill(str(most))
    tab.click()
    page.click(selector)
    page.wait_for_function(
        """(least) => [...document.querySelectorAll(".jet-panel dt")].some((name) =>
            name.innerText === "Generated tokens" && Number(name.nextElementSibling.innerText) >= least)""",
        arg=tokens,
    )
    if tokens == most:
        page.wait_for_selector("#jet-continue:enabled")


def save(page: Page, name: str) -> None:
    """Take the picture once all transitions have ended."""
    page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")
    page.screenshot(path=FOLDER / f"{name}.png")
    print(FOLDER / f"{name}.png")


def take_all(browser: Browser, url: str, seed: int) -> None:
    """Take pictures of a first visit, a story, its versions, dark mode, a return visit, and a phone."""
    page = browser.new_context(viewport={"width": WIDE[0], "height": WIDE[1]}).new_page()
    page.goto(url)
    page.wait_for_selector(".jet-model-info b")
    page.wait_for_function("document.fonts.check('16px Literata')")
    save(page, "first")

    page = begin(browser, url, WIDE)
    press(page, "#jet-continue", seed, 150, 400)
    save(page, "page")
    page.wait_for_selector("#jet-continue:enabled")
    page.wait_for_function("jetStories.isKept()")
    again = page.context.new_page()
    again.goto(url)
    again.wait_for_selector(".jet-go-on")
    save(again, "back")

    page = begin(browser, url, WIDE)
    for more, button in enumerate(("#jet-continue", "#jet-continue", "#jet-retry")):
        press(page, button, seed + more, 100, 100)
    page.click("#jet-tab-branches")
    page.wait_for_selector("#jet-tree li >> nth=1")
    save(page, "branches")

    page = begin(browser, url, WIDE, dark=True)
    press(page, "#jet-continue", seed, 120, 120)
    words = page.input_value(STORY)
    at = words.index(" ", len(words) // 3) + 1
    page.eval_on_selector(STORY, "(box, at) => box.setSelectionRange(at, at)", at)
    page.click("#jet-other-words")
    page.wait_for_selector("#jet-popover")
    save(page, "word")

    page = begin(browser, url, NARROW)
    press(page, "#jet-continue", seed, 100, 100)
    save(page, "phone")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description="Takes the README's pictures of a page that runs.")
    parser.add_argument("url", help="where it is")
    parser.add_argument("--seed", type=int, default=7, help="of the first continuation")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("JET_CHROMIUM"), args=["--no-sandbox"]
        )
        take_all(browser, options.url, options.seed)
        browser.close()


if __name__ == "__main__":
    main()
