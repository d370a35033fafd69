"""Lay out the page's components. `events` connects them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.components.textbox import InputHTMLAttributes

from jet.api import SamplingParams
from jet.ui import length, models, never_write, panel, tabs, views
from jet.ui.reporting import ReportState
from jet.ui.sampler_controls import sampler_controls

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DEFAULTS = SamplingParams()

STOP_LABEL = "Stop"
PLACEHOLDER = "Write the first sentence, take one of the beginnings below, or just press Continue."


@dataclass(frozen=True)
class Opening:
    """A first sentence for a new story, and its genre."""

    genre: str
    text: str


@dataclass(frozen=True)
class Page:
    """The components that events read and write.

    Attributes:
        controls: the controls of the settings, by their names in `SamplingParams`.
        last_seed: the seed of the last generation.
        refresh: hidden button that loads the model info again.
        save_preset: hidden button that gives the script the controls' values.
        delta: patches of a long text.
        send_command, command, reply: hidden components through which the script sends commands.
        result: the reply to a generation.
        ask_offer, offer: hidden components through which the script asks for words to offer and receives
            them.
    """

    model_info: gr.HTML
    start_report: gr.Button
    stop_report: gr.Button
    report: gr.HTML
    story: gr.Textbox
    continue_button: gr.Button
    stop: gr.Button
    variants: gr.HTML
    delta: gr.HTML
    panel: gr.HTML
    controls: dict[str, gr.Component]
    last_seed: gr.Textbox
    reuse_seed: gr.Button
    save_preset: gr.Button
    refresh: gr.Button
    send_command: gr.Button
    command: gr.Textbox
    reply: gr.Textbox
    result: gr.Textbox
    ask_offer: gr.Button
    offer: gr.Textbox


def load_openings() -> list[Opening]:
    """Load the beginnings from `assets/prompts.json`."""
    entries = json.loads((ASSETS / "prompts.json").read_text(encoding="utf-8"))
    return [Opening(entry["genre"], entry["text"]) for entry in entries]


def build_layout(with_models: bool = False) -> Page:
    """Place all components in the current Blocks; `with_models` adds the Models part."""
    beginnings = [(opening.genre, opening.text) for opening in load_openings()]
    with gr.Column(elem_id="jet-page"):
        _html(tabs.header(), "jet-head")
        with gr.Row(elem_id="jet-main"):
            with gr.Column(elem_id="jet-editor-column", min_width=0):
                _html(tabs.find_bar(), "jet-find-bar")
                _html(tabs.about_form(), "jet-about")
                story = _story()
                _html(tabs.opening_buttons(beginnings), "jet-openings")
                variants, delta = _html("", "jet-variants"), _html("", "jet-delta")
                continue_button, stop = _generation_buttons()
            with gr.Column(elem_id="jet-panel-column", min_width=0):
                live_panel = _html(panel.panel(None, None), "jet-live")
                _html(panel.expand_toggle(), "jet-numbers")
                model_info = _html(panel.loading(), "jet-model")
            _html(tabs.tab_list(with_models), "jet-tab-strip")
            with gr.Column(elem_id="jet-tabs-column", min_width=0):
                with _tab_panel("settings"):
                    _html(tabs.length_settings())
                    end_at = length.end_control()
                    _html(tabs.stop_texts())
                    _html(tabs.preset_buttons())
                    _html(tabs.taste_sliders())
                    with gr.Column(elem_id="jet-controls", min_width=0):
                        controls, last_seed, reuse_seed = _controls(end_at)
                    _html(tabs.neutral_preset())
                    _html(tabs.extra_settings())
                    _html(never_write.control())
                _html(tabs.tab_panels())
                _html(models.models_panel() if with_models else "")
                with _tab_panel("engine"):
                    _html(tabs.engine_head())
                    _html(tabs.engine_history())
                    report = _report()
        save_preset = gr.Button("", visible="hidden", elem_id="jet-save-preset")
        refresh = gr.Button("", visible="hidden", elem_id="jet-refresh")
        send_command = gr.Button("", visible="hidden", elem_id="jet-send-command")
        ask_offer = gr.Button("", visible="hidden", elem_id="jet-ask-offer")
        command, reply, result, offer = (gr.Textbox(visible=False) for _ in range(4))
    return Page(
        model_info,
        *report,
        story,
        continue_button,
        stop,
        variants,
        delta,
        live_panel,
        controls,
        last_seed,
        reuse_seed,
        save_preset,
        refresh,
        send_command,
        command,
        reply,
        result,
        ask_offer,
        offer,
    )


def _tab_panel(name: str) -> gr.Column:
    """Create the panel of a tab that contains Gradio components. It is closed at first."""
    classes = "jet-tab-panel jet-tab-closed"
    return gr.Column(elem_id=f"jet-tab-panel-{name}", elem_classes=classes, min_width=0)


def _report() -> tuple[gr.Button, gr.Button, gr.HTML]:
    with gr.Row(elem_id="jet-report-actions"):
        start_report = gr.Button("Measure this machine", elem_id="jet-start-report", min_width=0)
        stop_report = gr.Button("Stop measuring", elem_id="jet-stop-report", min_width=0)
    return start_report, stop_report, _html(views.report(ReportState()), "jet-report")


def _html(content: str, elem_id: str | None = None) -> gr.HTML:
    return gr.HTML(content, apply_default_css=False, elem_id=elem_id)


def _story() -> gr.Textbox:
    return gr.Textbox(
        label="Your story",
        show_label=False,
        placeholder=PLACEHOLDER,
        lines=14,
        max_lines=14,
        autoscroll=False,  # web/autoscroll.js does it: Gradio stops following after the first lines
        elem_id="jet-story",
        html_attributes=InputHTMLAttributes(autocapitalize="sentences", spellcheck=True),
    )


def _generation_buttons() -> tuple[gr.Button, gr.Button]:
    with gr.Row(elem_id="jet-actions"):
        stop = gr.Button(STOP_LABEL, interactive=False, elem_id="jet-stop", min_width=0)
        continue_button = gr.Button("Continue", variant="primary", elem_id="jet-continue", min_width=0)
        _html(tabs.length_choice(), "jet-length-choice")
        _html(tabs.version_buttons(), "jet-versions")
        _html(tabs.undo_redo_buttons(), "jet-steps")
        _html(tabs.action_buttons(), "jet-more")
    return continue_button, stop


def _controls(end_at: gr.Component) -> tuple[dict[str, gr.Component], gr.Textbox, gr.Button]:
    sliders = {
        "max_new_tokens": _slider("Length in tokens", 1, 2000, DEFAULTS.max_new_tokens, 1, "jet-tokens"),
        "end_at": end_at,
        "temperature": _slider("Temperature", 0, 2, DEFAULTS.temperature, 0.05),
        "top_p": _slider("Top-p", 0.01, 1, DEFAULTS.top_p, 0.01),
        "top_k": _slider("Top-k, 0 for all", 0, 200, DEFAULTS.top_k, 1),
        "min_p": _slider("Min-p", 0, 0.5, DEFAULTS.min_p, 0.01),
        "repetition_penalty": _slider("Repetition penalty", 1, 2, DEFAULTS.repetition_penalty, 0.01),
    }
    reuse = gr.Button("last used", elem_id="jet-reuse-seed")
    seed = gr.Textbox(
        "" if DEFAULTS.seed is None else str(DEFAULTS.seed),
        label="Seed",
        placeholder="random, or any text",
        max_lines=1,
        elem_id="jet-seed",
        buttons=[reuse],
    )
    return (
        {**sliders, "seed": seed, **_advanced_controls(), **_more_samplers()},
        gr.Textbox(visible=False),
        reuse,
    )


def _advanced_controls() -> dict[str, gr.Component]:
    """Create the controls of DRY and XTC, which are off by default."""
    with gr.Accordion("Advanced: the numbers behind them", open=False, elem_id="jet-advanced"):
        return {
            "dry_multiplier": _slider("DRY strength", 0, 5, DEFAULTS.dry_multiplier, 0.05),
            "dry_base": _slider("DRY base", 1, 4, DEFAULTS.dry_base, 0.05),
            "dry_allowed_length": _slider("DRY from tokens", 1, 20, DEFAULTS.dry_allowed_length, 1),
            "xtc_probability": _slider("XTC probability", 0, 1, DEFAULTS.xtc_probability, 0.05),
            "xtc_threshold": _slider("XTC threshold", 0, 0.5, DEFAULTS.xtc_threshold, 0.01),
        }


def _more_samplers() -> dict[str, gr.Component]:
    with gr.Accordion("More samplers", open=False, elem_id="jet-more-samplers"):
        return sampler_controls()


def _slider(
    label: str, minimum: float, maximum: float, value: float, step: float, elem_id: str | None = None
) -> gr.Slider:
    return gr.Slider(minimum, maximum, value, step=step, label=label, buttons=[], elem_id=elem_id)
