"""The Length control: whether the model's text ends with a sentence, a paragraph, a scene, or anywhere."""

from __future__ import annotations

import gradio as gr

PAGE_END_AT = "sentence"  # the page's default; the engine's is "none"
CHOICES = [
    ("a sentence", "sentence"),
    ("a paragraph", "paragraph"),
    ("a scene", "scene"),
    ("exactly there", "none"),
]


def end_control() -> gr.Radio:
    """Create the control as a row of choices."""
    return gr.Radio(CHOICES, value=PAGE_END_AT, label="Stop at the end of", elem_id="jet-end-at")
