"""Count the bytes that a page loads, by path, beside those of an empty Gradio page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from playwright.sync_api import Browser, CDPSession, Page

from jet.server.binding import listen
from jet.server.held_port import serving_on
from jet.ui.theme import make_theme

MOST_BYTES = 90_000  # above an empty page
STILL_POLLS, POLL_MS = 5, 100  # polls in a row without a request under way
_MOST_POLLS = 600
_STREAMS = ("/heartbeat/", "/queue/data")  # never end


@dataclass
class Load:
    """Counts the bytes that one load of a page transfers.

    Attributes:
        sizes: bytes as transferred, headers included, by path.
        under_way: paths of the requests that have not ended, by id; streams are not counted.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    under_way: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Return all bytes."""
        return sum(self.sizes.values())

    def watch(self, session: CDPSession) -> None:
        """Follow the requests of a page by Chromium's debugging protocol."""
        paths: dict[str, str] = {}

        def begin(event: dict[str, Any]) -> None:
            path = urlsplit(event["request"]["url"]).path
            paths[event["requestId"]] = path
            if not any(stream in path for stream in _STREAMS):
                self.under_way[event["requestId"]] = path

        def end(event: dict[str, Any]) -> None:
            self.under_way.pop(event["requestId"], None)
            if size := round(event.get("encodedDataLength", 0)):
                path = paths.get(event["requestId"], "?")
                self.sizes[path] = self.sizes.get(path, 0) + size

        session.send("Network.enable")
        session.on("Network.requestWillBeSent", begin)
        session.on("Network.loadingFinished", end)
        session.on("Network.loadingFailed", end)

    def wait(self, page: Page) -> None:
        """Wait until no request has been under way for half a second.

        Raises TimeoutError after a minute.
        """
        still = 0
        for _ in range(_MOST_POLLS):
            page.wait_for_timeout(POLL_MS)  # lets the events come
            still = 0 if self.under_way else still + 1
            if still == STILL_POLLS:
                return
        raise TimeoutError(f"still loading: {', '.join(self.under_way.values())}")


def weigh(browser: Browser, url: str, ready: str) -> Load:
    """Load a page with an empty cache, and count its bytes until it makes no more requests.

    Args:
        browser: a Chromium.
        url: URL of the page.
        ready: selector of an element that appears once the page can be used.
    """
    context = browser.new_context()
    page, load = context.new_page(), Load()
    load.watch(context.new_cdp_session(page))
    page.goto(url)
    page.wait_for_selector(ready)
    page.evaluate("document.fonts.ready.then(() => true)")
    load.wait(page)
    context.close()
    return load


@contextmanager
def empty_page() -> Iterator[str]:
    """Serve a Gradio page with one component of each kind and nothing else; yield its URL."""
    with gr.Blocks(analytics_enabled=False) as empty:
        gr.Textbox()
        gr.HTML("")
        gr.Slider()
        gr.Dropdown()
        gr.Button()
        with gr.Accordion(), gr.Row(), gr.Column():
            pass
    with serving_on(listen(None, None)):
        empty.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, theme=make_theme())
    try:
        yield str(empty.local_url)
    finally:
        empty.close(verbose=False)
