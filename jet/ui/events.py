"""Connect the page's events to `handlers` and to the script in `assets/web`.

The script starts a generation at the click and reads the text right after it, so no keystroke falls between
the two. However the generation ends, a following event tells the script.

For each update of an event, Gradio copies the components that show its progress, and at the end the event's
inputs. With a long story these copies would have a megabyte. So a hidden component shows the progress, and
the script packs all inputs of an event into one command.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from jet.ui.handlers import PageController
from jet.ui.inputs import NOT_IN_PRESETS
from jet.ui.layout import Page
from jet.ui.outputs import OUTPUTS
from jet.ui.web import call


def connect_events(demo: gr.Blocks, page: Page, controller: PageController) -> None:
    """Connect the events of the page's components to the controller and the script."""
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    options["show_progress_on"] = page.command
    # The controller takes and returns what components hold; Gradio would convert each in a thread.
    options["preprocess"] = options["postprocess"] = False
    _connect_generation(page, controller, options)
    _connect_commands(page, controller, options)
    page.ask_offer.click(
        controller.offer_words,
        [page.command],
        [page.offer],
        queue=False,
        trigger_mode="multiple",
        js=call("offerCommand"),
        **options,
    ).then(None, [page.offer], None, js=call("showOffer"), **options)
    page.start_report.click(controller.report, None, [page.report], concurrency_limit=None, **options)
    page.stop_report.click(controller.stop_report, queue=False, **options)
    gr.on(
        [demo.load, page.refresh.click],
        controller.load,
        None,
        [page.model_info, page.panel],
        js=call("waitForStart"),
        concurrency_limit=None,
        **options,
    )
    demo.unload(controller.disconnect)
    page.reuse_seed.click(None, [page.last_seed], [page.controls["seed"]], js="(seed) => seed", **options)
    preset_controls = {name: control for name, control in page.controls.items() if name not in NOT_IN_PRESETS}
    page.save_preset.click(
        None,
        list(preset_controls.values()),
        None,
        js=call("keepSettings"),
        **options,
    )
    gr.on(
        [control.change for control in page.controls.values()],  # type: ignore[attr-defined]
        None,
        list(page.controls.values()),
        None,
        js=call("keepControls"),
        **options,
    )
    page.story.change(None, [page.story], None, js=call("textChanged"), **options)
    demo.load(None, None, [page.story], js=call("openPage"), **options)
    demo.load(None, None, list(page.controls.values()), js=call("restoreControls"), **options)


def _connect_generation(page: Page, controller: PageController, options: dict[str, Any]) -> None:
    start = page.continue_button.click(
        None,
        list(page.controls.values()),
        [page.continue_button, page.stop],
        js=call("startGeneration"),
        **options,
    )
    generation = start.then(
        controller.generate,
        [page.command],
        [getattr(page, name) for name in OUTPUTS],
        # Commands given before come first; then the script reads the text.
        js=call("generationCommand"),
        api_name="generate_on_page",  # the API has a `generate` of its own
        concurrency_limit=None,
        **options,
    )
    generation.then(
        None,
        [page.result],
        [page.continue_button, page.stop],
        js=call("endGeneration"),
        **options,
    )
    page.stop.click(
        controller.stop,
        [page.command],
        queue=False,
        trigger_mode="multiple",
        js=call("stopCommand"),
        **options,
    )


def _connect_commands(page: Page, controller: PageController, options: dict[str, Any]) -> None:
    page.send_command.click(
        controller.run_command,
        [page.command],
        [page.reply],
        js=call("commandToSend"),
        queue=False,
        trigger_mode="multiple",
        **options,
    ).then(
        None,
        [page.reply],
        [page.story],
        js=call("applyText"),
        **options,
    ).then(
        None,
        [page.reply],
        [page.panel, *page.controls.values()],
        js=call("finishCommand"),
        **options,
    )
