"""What is on the page, and where. What it does is in `events`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.components.textbox import InputHTMLAttributes

from jet.engine.types import SamplingParams
from jet.ui import panel

ASSETS = Path(__file__).resolve().parents[2] / "assets"
DEFAULTS = SamplingParams()

HEADER = """
<header class="jet-header"><h1>Jet Stories</h1>
<p>Begin a story, and Jet-Nemotron goes on with it.</p></header>
"""
KEYS = '<p class="jet-keys"><kbd>Ctrl</kbd> <kbd>Enter</kbd> continues, <kbd>Esc</kbd> stops</p>'
PLACEHOLDER = "Write the first sentence, take one of the beginnings above, or just press Continue."


@dataclass(frozen=True)
class Opening:
    """A first sentence to begin with, under the name of its genre."""

    genre: str
    text: str


@dataclass(frozen=True)
class Page:
    """The components that events read and write.

    `controls` are in the order of the arguments of `read_request` after the prompt. `before` is the story
    as it was before the model or an opening last changed it, `last_seed` what the last story was drawn from.
    """

    about: gr.HTML
    openings: dict[str, gr.Button]
    story: gr.Textbox
    before: gr.Textbox
    go: gr.Button
    stop: gr.Button
    undo: gr.Button
    panel: gr.HTML
    controls: list[gr.Component]
    seed: gr.Textbox
    last_seed: gr.Textbox
    reuse_seed: gr.Button


def load_openings() -> list[Opening]:
    """The beginnings that the page offers, from `assets/prompts.json`."""
    entries = json.loads((ASSETS / "prompts.json").read_text(encoding="utf-8"))
    return [Opening(entry["genre"], entry["text"]) for entry in entries]


def lay_out() -> Page:
    """Place everything in the Blocks that are being built."""
    with gr.Column(elem_id="jet-page"):
        gr.HTML(HEADER, apply_default_css=False)
        about = gr.HTML(panel.loading(), apply_default_css=False)
        with gr.Row(elem_id="jet-desk"):
            with gr.Column(elem_id="jet-left", min_width=0):
                openings = _openings()
                story, before = _story()
                go, stop, undo = _actions()
            with gr.Column(elem_id="jet-right", min_width=0):
                live = gr.HTML(panel.panel(None, None), apply_default_css=False)
            with gr.Column(elem_id="jet-controls", min_width=0):
                controls, last_seed, reuse_seed = _controls()
    seed = controls[-1]
    assert isinstance(seed, gr.Textbox)
    return Page(about, openings, story, before, go, stop, undo, live, controls, seed, last_seed, reuse_seed)


def _openings() -> dict[str, gr.Button]:
    with gr.Row(elem_id="jet-openings"):
        return {
            opening.text: gr.Button(opening.genre, size="sm", min_width=0, elem_classes="jet-opening")
            for opening in load_openings()
        }


def _story() -> tuple[gr.Textbox, gr.Textbox]:
    story = gr.Textbox(
        label="Your story",
        show_label=False,
        placeholder=PLACEHOLDER,
        lines=14,
        max_lines=14,
        autoscroll=False,  # page.js does it: Gradio stops following after the first lines
        elem_id="jet-story",
        html_attributes=InputHTMLAttributes(autocapitalize="sentences", spellcheck=True),
    )
    return story, gr.Textbox(visible=False)


def _actions() -> tuple[gr.Button, gr.Button, gr.Button]:
    with gr.Row(elem_id="jet-actions"):
        go = gr.Button("Continue", variant="primary", elem_id="jet-go", min_width=0)
        stop = gr.Button("Stop", interactive=False, elem_id="jet-stop", min_width=0)
        undo = gr.Button("Undo", interactive=False, elem_id="jet-undo", min_width=0)
        gr.HTML(KEYS, apply_default_css=False)
    return go, stop, undo


def _controls() -> tuple[list[gr.Component], gr.Textbox, gr.Button]:
    tokens = _slider("Maximum new tokens", 1, 2000, DEFAULTS.max_new_tokens, 1)
    temperature = _slider("Temperature", 0, 2, DEFAULTS.temperature, 0.05)
    top_p = _slider("Top-p", 0.01, 1, DEFAULTS.top_p, 0.01)
    top_k = _slider("Top-k, 0 for all", 0, 200, DEFAULTS.top_k, 1)
    min_p = _slider("Min-p", 0, 0.5, DEFAULTS.min_p, 0.01)
    penalty = _slider("Repetition penalty", 1, 2, DEFAULTS.repetition_penalty, 0.01)
    reuse = gr.Button("last used", elem_id="jet-reuse-seed")
    seed = gr.Textbox(
        "" if DEFAULTS.seed is None else str(DEFAULTS.seed),
        label="Seed",
        placeholder="random",
        max_lines=1,
        elem_id="jet-seed",
        buttons=[reuse],
    )
    last_seed = gr.Textbox(visible=False)
    return [tokens, temperature, top_p, top_k, min_p, penalty, seed], last_seed, reuse


def _slider(label: str, least: float, most: float, value: float, step: float) -> gr.Slider:
    return gr.Slider(least, most, value, step=step, label=label, buttons=[])
