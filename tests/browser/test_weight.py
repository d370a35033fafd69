"""Test how much more the page weighs than an empty one of Gradio's, measured in the same run."""

from __future__ import annotations

import gradio as gr
import pytest
from playwright.sync_api import Browser

from jet.ui.theme import make_theme
from tests.ui.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.thorough]

MOST_BYTES = 120_000  # 90,000 are wanted


def weight(browser: Browser, url: str) -> tuple[int, int]:
    """Return the bytes that came over the line until the page was still, and the number of requests."""
    page = browser.new_context().new_page()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(url)
    page.wait_for_selector("textarea")
    page.wait_for_timeout(2_500)
    page.context.close()
    return round(sum(sizes)), len(sizes)


def test_the_page_weighs_little_more_than_an_empty_one(browser: Browser, served: Served) -> None:
    with gr.Blocks(analytics_enabled=False) as empty:
        gr.Textbox()
        gr.HTML("")
        gr.Slider()
        gr.Dropdown()
        gr.Button()
        with gr.Accordion(), gr.Row(), gr.Column():
            pass
    empty.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, theme=make_theme())
    try:
        bare, ours = weight(browser, str(empty.local_url)), weight(browser, served.url)
    finally:
        empty.close(verbose=False)
    print(f"empty: {bare[0]:,} bytes in {bare[1]} requests; ours: {ours[0]:,} in {ours[1]}")
    assert ours[0] - bare[0] <= MOST_BYTES
