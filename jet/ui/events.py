"""What the page does: continue, stop, take an opening, undo. One `Desk` serves all visitors.

Locking the page while a story is written happens in the browser, in the same instant as the click, and the
text is read after that: so no keystroke falls between the two. Whatever ends the writing, the page is
unlocked by the event that follows it.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from jet.engine.types import EngineInfo, RequestError, RequestStats
from jet.ui import panel
from jet.ui.inputs import read_request
from jet.ui.layout import Page
from jet.ui.writing import BEAT_S, EngineSource, Writing

Updates = tuple[Any, ...]  # one value or update per output


class Desk:
    """Serves the page's events. Used on the server's event loop only, hence without locks."""

    def __init__(self, source: EngineSource) -> None:
        self._source = source
        self._info: EngineInfo | None = None  # once the model is loaded
        self._writing: dict[str | None, Writing] = {}  # by session: a page writes one story at a time

    async def greet(self, request: gr.Request) -> AsyncIterator[Updates]:
        """On opening the page. Yields (about, panel): loading, and then what runs here."""
        while not self._source.ready:
            yield panel.loading(), gr.skip()
            await asyncio.sleep(BEAT_S)
        engine = await asyncio.to_thread(self._source.engine)
        self._info = info = await asyncio.to_thread(engine.info)
        busy = request.session_hash in self._writing
        yield panel.about(info), gr.skip() if busy else panel.panel(None, info)

    async def write(self, request: gr.Request, story: str, *controls: object) -> AsyncIterator[Updates]:
        """Continue the story. Yields (story, panel, stop button, last seed) until it is done or stopped."""
        try:
            writing = Writing(self._source, read_request(story, *controls))
        except RequestError as error:
            failed = RequestStats(phase="done", finish_reason="error", error=str(error))
            yield gr.skip(), panel.panel(failed, self._info), gr.skip(), gr.skip()
            _warn(str(error))
            return
        self._writing[request.session_hash] = writing
        try:
            yield gr.skip(), panel.panel(writing.stats, self._info), gr.Button(interactive=True), gr.skip()
            seed = str(writing.stats.seed)
            async with aclosing(writing.chunks()) as chunks:
                async for chunk in chunks:
                    story += chunk.text
                    self._info = writing.info or self._info
                    yield story, panel.panel(chunk.stats, self._info), gr.skip(), seed
        finally:
            self._writing.pop(request.session_hash, None)
        if writing.stats.error is not None:
            _warn(writing.stats.error)

    async def stop(self, request: gr.Request) -> None:
        """Stop what this page is writing, if it is."""
        writing = self._writing.get(request.session_hash)
        if writing is not None:
            writing.stop()


def wire(demo: gr.Blocks, page: Page, desk: Desk) -> None:
    """Connect the components to what they do."""
    locked: list[gr.Component] = [page.story, page.go, page.undo, *page.openings.values()]
    start = page.go.click(
        None,
        [page.story],
        [page.before, *locked],
        js=f"(story) => (jetStories.begin(), [story, {_js_updates(len(locked), interactive=False)}])",
    )
    writing = start.then(
        desk.write,
        [page.story, *page.controls],
        [page.story, page.panel, page.stop, page.last_seed],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    unlocked, stopped = _js_updates(len(locked), interactive=True), _js_updates(1, interactive=False)
    writing.then(
        None,
        None,
        [*locked, page.stop],
        js=f"() => (jetStories.end(), [{unlocked}, {stopped}])",
    )
    page.stop.click(desk.stop, queue=False, show_progress="hidden", api_visibility="private")
    demo.load(
        desk.greet,
        None,
        [page.about, page.panel],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    _wire_browser_only(demo, page)


def _wire_browser_only(demo: gr.Blocks, page: Page) -> None:
    """What needs no server. An opening keeps the text it replaces, unless that is an untouched opening."""
    for text, button in page.openings.items():
        button.click(
            None,
            [page.story, page.before],
            [page.story, page.before, page.undo],
            js=f"""(story, before) => {{
                const kept = !story.trim() || story === jetStories.opening ? before : story;
                jetStories.opening = {json.dumps(text)};
                return [jetStories.opening, kept, {_js_updates(1, interactive=True)}];
            }}""",
        )
    page.undo.click(
        None, [page.story, page.before], [page.story, page.before], js="(story, before) => [before, story]"
    )
    page.reuse_seed.click(None, [page.last_seed], [page.seed], js="(seed) => seed")
    # A reload, a crash or a restarted server keeps the text: each tab has its own storage.
    page.story.change(None, [page.story], None, js="(story) => jetStories.changed(story)")
    demo.load(None, None, [page.story], js="() => jetStories.kept()")


def _warn(message: str) -> None:
    """The panel says it too, but on a phone it is below the fold."""
    gr.Warning(html.escape(message), title="That did not work", duration=6)


def _js_updates(number: int, **properties: object) -> str:
    """The same change of properties for several outputs, as JavaScript source."""
    return ", ".join([json.dumps({"__type__": "update", **properties})] * number)
