"""Which event of the page calls what. What is called is in `handlers`; what the browser does itself, in
page.js.

Locking the page while a story is written happens in the browser, in the same instant as the click, and the
text is read after that: so no keystroke falls between the two. Whatever ends the writing, the page is
unlocked by the event that follows it.

Whenever the server has news for an event, Gradio copies the components that show its progress and, once it
has ended, those that it read from, with a story of a megabyte in them. So one that is not on the page stands
for the progress, and what the desk has to know page.js puts into one order.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from jet.ui.handlers import Desk
from jet.ui.inputs import NO_PRESET
from jet.ui.layout import Page
from jet.ui.outputs import OUTPUTS


def wire(demo: gr.Blocks, page: Page, desk: Desk) -> None:
    """Connect the components to what they do."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    quiet["show_progress_on"] = page.order
    # The desk takes and gives what components hold; for each of them Gradio would ask in a thread.
    quiet["preprocess"] = quiet["postprocess"] = False
    _wire_writing(page, desk, quiet)
    _wire_orders(page, desk, quiet)
    page.measure.click(desk.report, None, [page.report], concurrency_limit=None, **quiet)
    page.halt.click(desk.stop_report, queue=False, **quiet)
    gr.on(
        [demo.load, page.greet.click],
        desk.greet,
        None,
        [page.about, page.panel],
        concurrency_limit=None,
        **quiet,
    )
    demo.unload(desk.leave)
    page.reuse_seed.click(None, [page.last_seed], [page.controls["seed"]], js="(seed) => seed", **quiet)
    taste = {name: control for name, control in page.controls.items() if name not in NO_PRESET}
    page.keep_preset.click(
        None,
        list(taste.values()),
        None,
        js=f"(...values) => (jetStories.keepPreset({json.dumps(list(taste))}, values), [])",
        **quiet,
    )
    gr.on(
        [control.change for control in page.controls.values()],  # type: ignore[attr-defined]
        None,
        list(page.controls.values()),
        None,
        js=f"(...values) => (jetStories.keepTaste({json.dumps(list(page.controls))}, values), [])",
        **quiet,
    )
    page.story.change(None, [page.story], None, js="(story) => jetStories.changed(story)", **quiet)
    demo.load(None, None, [page.story], js="() => jetStories.begun()", **quiet)
    demo.load(
        None,
        None,
        list(page.controls.values()),
        js=f"() => jetStories.tasted({json.dumps(list(page.controls))})",
        **quiet,
    )


def _wire_writing(page: Page, desk: Desk, quiet: dict[str, Any]) -> None:
    names = json.dumps(list(page.controls))
    on, off = _js_update(interactive=True), _js_update(interactive=False)
    start = page.go.click(
        None,
        list(page.controls.values()),
        [page.go, page.stop],
        js=f"(...values) => (jetStories.begin({names}, values), [{off}, {on}])",
        **quiet,
    )
    writing = start.then(
        desk.write,
        [page.order],
        [getattr(page, name) for name in OUTPUTS],
        # What was ordered before is done first; then the box is read, which nobody can change any more.
        js="() => jetStories.writeOrder()",
        concurrency_limit=None,
        **quiet,
    )
    writing.then(
        None,
        [page.wrote],
        [page.go, page.stop],
        js=f"(wrote) => (jetStories.end(wrote), [{on}, {off}])",
        **quiet,
    )
    page.stop.click(
        desk.stop,
        [page.order],
        queue=False,
        trigger_mode="multiple",
        js="() => jetStories.stopOrder()",
        **quiet,
    )


def _wire_orders(page: Page, desk: Desk, quiet: dict[str, Any]) -> None:
    page.act.click(
        desk.act,
        [page.order],
        [page.reply],
        js="() => jetStories.actOrder()",
        queue=False,
        trigger_mode="multiple",
        **quiet,
    ).then(
        None,
        [page.reply],
        [page.story],
        js="(reply) => jetStories.brought(reply)",
        **quiet,
    ).then(
        None,
        [page.reply],
        [page.panel, *page.controls.values()],
        js=f"(reply) => jetStories.acted(reply, {json.dumps(list(page.controls))})",
        **quiet,
    )


def _js_update(**properties: object) -> str:
    """A change of properties for an output, as JavaScript source."""
    return json.dumps({"__type__": "update", **properties})
