"""Controls of the samplers that are off by default, other than DRY and XTC."""

from __future__ import annotations

import gradio as gr

from jet.api import SamplingParams
from jet.ui.sampler_help import HELP

DEFAULTS = SamplingParams()
# Name, label, least, most and step of each slider; `docs/samplers.md` says what they do.
SLIDERS = (
    ("top_n_sigma", "Top-nσ, 0 is off", 0, 5, 0.05),
    ("typical_p", "Typical, 1 is off", 0.01, 1, 0.01),
    ("dynatemp_range", "Temperature varies by", 0, 2, 0.05),
    ("dynatemp_exponent", "… with exponent", 0.1, 5, 0.1),
    ("adaptive_target", "Adaptive-p target, -1 is off", -1, 1, 0.05),
    ("adaptive_decay", "Adaptive-p memory", 0, 0.99, 0.01),
    ("mirostat", "Mirostat: 0 is off, 2 on", 0, 2, 2),
    ("mirostat_tau", "Mirostat surprise, bits", 0, 10, 0.1),
    ("mirostat_eta", "Mirostat learning rate", 0, 1, 0.01),
)


def sampler_controls() -> dict[str, gr.Component]:
    """Create the controls; return them by their names in `SamplingParams`."""
    controls: dict[str, gr.Component] = {
        name: gr.Slider(
            low, high, getattr(DEFAULTS, name), step=step, label=label, info=HELP[name], buttons=[]
        )
        for name, label, low, high, step in SLIDERS
    }
    controls["sampler_order"] = gr.Textbox(
        DEFAULTS.sampler_order, label="Order of samplers", placeholder="as in the manual", max_lines=1
    )
    return controls
