"""Which event of the page calls what. What is called is in `desk`; what the browser does itself, in page.js.

Locking the page while a story is written happens in the browser, in the same instant as the click, and the
text is read after that: so no keystroke falls between the two. Whatever ends the writing, the page is
unlocked by the event that follows it.
"""

from __future__ import annotations

import json

import gradio as gr

from jet.ui.desk import Desk
from jet.ui.inputs import NO_PRESET
from jet.ui.layout import Page


def wire(demo: gr.Blocks, page: Page, desk: Desk) -> None:
    """Connect the components to what they do."""
    _wire_writing(page, desk)
    _wire_orders(page, desk)
    _wire_report(page, desk)
    demo.load(
        desk.greet,
        None,
        [page.about, page.panel],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    demo.unload(desk.leave)
    page.reuse_seed.click(None, [page.last_seed], [page.controls["seed"]], js="(seed) => seed")
    taste = {name: control for name, control in page.controls.items() if name not in NO_PRESET}
    page.keep_preset.click(
        None,
        list(taste.values()),
        None,
        js=f"(...values) => (jetStories.keepPreset({json.dumps(list(taste))}, values), [])",
    )
    page.story.change(None, [page.story], None, js="(story) => jetStories.changed(story)")
    demo.load(None, None, [page.story], js="() => jetStories.begun()")


def _wire_writing(page: Page, desk: Desk) -> None:
    start = page.go.click(
        None, None, [page.go], js=f"() => (jetStories.begin(), {_js_update(interactive=False)})"
    )
    writing = start.then(
        desk.write,
        [page.story, page.order, *page.controls.values()],
        [page.story, page.panel, page.stop, page.last_seed, page.ways, page.live, page.reply],
        # What was ordered before is done first; then the box is read, which nobody can change any more.
        js="async (story, order, ...rest) => [...await jetStories.writeOrder(), ...rest]",
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    unlocked, stopped = _js_update(interactive=True), _js_update(interactive=False)
    writing.then(
        None,
        [page.reply],
        [page.go, page.stop],
        js=f"(reply) => (jetStories.end(reply), [{unlocked}, {stopped}])",
    )
    page.stop.click(desk.stop, queue=False, show_progress="hidden", api_visibility="private")


def _wire_orders(page: Page, desk: Desk) -> None:
    names = json.dumps(list(page.controls))
    page.act.click(
        desk.act,
        [page.story, page.order],
        [page.story, page.reply],
        js="(story, order) => jetStories.actOrder(story)",
        queue=False,
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    ).then(
        None,
        [page.reply],
        list(page.controls.values()),
        js=f"(reply) => jetStories.acted(reply, {names})",
    )


def _wire_report(page: Page, desk: Desk) -> None:
    page.measure.click(
        desk.report,
        None,
        [page.report],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    page.halt.click(desk.stop_report, queue=False, show_progress="hidden", api_visibility="private")


def _js_update(**properties: object) -> str:
    """A change of properties for an output, as JavaScript source."""
    return json.dumps({"__type__": "update", **properties})
