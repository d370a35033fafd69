"""Test that documents, the page's help and the checks of settings agree with one table of samplers."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import gradio as gr
import pytest

from jet.api import RequestError, SamplingParams
from jet.server.openai.schema import CompletionRequest
from jet.ui.layout import build_layout
from jet.ui.sampler_controls import SLIDERS
from jet.ui.sampler_help import HELP, SAMPLERS, SamplerHelp, as_table

DOCS = Path(__file__).parents[2] / "docs"
NO_SAMPLERS = {"max_new_tokens", "seed", "end_at", "sampler_order"}
ABOVE = {"top_p", "typical_p", "dynatemp_exponent"}  # the least value itself is refused


def test_the_documents_have_the_table_and_every_field() -> None:
    assert as_table() in (DOCS / "samplers.md").read_text(encoding="utf-8")
    api = (DOCS / "api.md").read_text(encoding="utf-8")
    assert not [name for name in HELP if f"`{name}`" not in api]
    assert not [name for name in HELP if name not in CompletionRequest.model_fields]
    assert set(HELP) == {field.name for field in fields(SamplingParams)} - NO_SAMPLERS


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.name)
def test_ranges_are_those_that_are_checked(sampler: SamplerHelp) -> None:
    whole = isinstance(getattr(SamplingParams(), sampler.name), int)
    low, high = (int(sampler.least), int(sampler.most)) if whole else (sampler.least, sampler.most)
    replace(SamplingParams(), **{sampler.name: high})
    if sampler.name not in ABOVE:
        replace(SamplingParams(), **{sampler.name: low})
    for bad in (low - 1, high + 1, *([low] if sampler.name in ABOVE else [])):
        with pytest.raises(RequestError, match=sampler.name):
            replace(SamplingParams(), **{sampler.name: bad})


def test_off_is_off() -> None:
    values = {one.name: type(getattr(SamplingParams(), one.name))(one.off) for one in SAMPLERS if one.off}
    assert not SamplingParams(**values).uses_chain


def test_the_page_shows_the_same_words() -> None:
    with gr.Blocks():
        controls = build_layout().controls
    ranges = {one.name: (one.least, one.most) for one in SAMPLERS}
    for name, _, low, high, _ in SLIDERS:
        slider = controls[name]
        assert isinstance(slider, gr.Slider) and slider.info == HELP[name]
        assert ranges[name][0] <= low < high <= ranges[name][1]
