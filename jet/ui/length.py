"""The Length control, beside the number of tokens: at which boundary the model's text ends."""

from __future__ import annotations

import gradio as gr

PAGE_END_AT = "sentence"  # the page's default; the engine's is "none"
CHOICES = [
    ("a sentence", "sentence"),
    ("a paragraph", "paragraph"),
    ("a scene", "scene"),
    ("exactly this length", "none"),
]


def end_control() -> gr.Dropdown:
    """Create the control."""
    return gr.Dropdown(CHOICES, value=PAGE_END_AT, label="Ends with", elem_id="jet-end-at", filterable=False)
