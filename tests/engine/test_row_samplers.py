"""Test which samplers, and which of their orders, rows on the device have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jet.api import SamplingParams
from jet.engine.row_samplers import RowSamplers, row_samplers
from jet.ops.decode_batch import FinalSettings

KOBOLDAI = "top_n_sigma;top_k;typical_p;top_p;min_p;temperature;xtc"
FILTERED = SamplingParams(0.7, 0.9, 0, 0.05, 1.1)
XTC = {"xtc_probability": 0.5, "xtc_threshold": 0.2}


def late(temperature: float, xtc_probability: float = 0.0) -> FinalSettings:
    return FinalSettings(xtc_probability, temperature=temperature)


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        (FILTERED, RowSamplers(0.7, 0, 0.9, 0.05)),
        (replace(FILTERED, temperature=0.0, mirostat=2, **XTC), RowSamplers(0.0)),
        (replace(FILTERED, sampler_order="temperature;top_k;top_p;min_p"), RowSamplers(0.7, 0, 0.9, 0.05)),
        (replace(FILTERED, sampler_order="top_p"), RowSamplers(1.0, 0, 0.9)),
        (replace(FILTERED, temperature=1.0, sampler_order=KOBOLDAI), RowSamplers(1.0, 0, 0.9, 0.05)),
        (replace(FILTERED, sampler_order=KOBOLDAI), RowSamplers(1.0, 0, 0.9, 0.05, final=late(0.7))),
        (
            replace(FILTERED, top_n_sigma=1.5, xtc_probability=0.5, sampler_order=KOBOLDAI),
            RowSamplers(1.0, 0, 0.9, 0.05, 1.5, final=late(0.7, 0.5)),
        ),
        (replace(FILTERED, **XTC), RowSamplers(0.7, 0, 0.9, 0.05, final=FinalSettings(0.5, 0.2))),
        (
            replace(FILTERED, mirostat=2, dynatemp_range=0.2, top_n_sigma=1.0, sampler_order="top_p", **XTC),
            RowSamplers(0.7, dynatemp_range=0.2, final=FinalSettings(mirostat_tau=5.0, mirostat_eta=0.1)),
        ),
    ],
)
def test_rows_have_the_samplers_that_act(sampling: SamplingParams, wanted: RowSamplers) -> None:
    found = row_samplers(sampling)
    assert found is not None
    if not found.final.xtc_probability:
        found = found._replace(final=found.final._replace(xtc_threshold=FinalSettings().xtc_threshold))
    if found.final.adaptive_target < 0:
        found = found._replace(final=found.final._replace(adaptive_decay=0.0))
    assert found == wanted
    assert found.uses_final == (wanted.final != FinalSettings())
    assert found.uses_shape == (sampling.top_n_sigma > 0 or sampling.dynatemp_range > 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler_order": "min_p;top_p"},
        {"sampler_order": "min_p;temperature;top_p"},
        {"sampler_order": "xtc;temperature", **XTC},
        {"sampler_order": KOBOLDAI, "top_k": 5, "typical_p": 0.9},
        {"sampler_order": KOBOLDAI, "dynatemp_range": 0.5},
        {"xtc_probability": 0.5, "xtc_threshold": 1e-7},
        {"adaptive_target": 0.3, "min_p": 0.0},
        {"adaptive_target": 0.3, "min_p": 1e-6, "temperature": 0.3, "sampler_order": KOBOLDAI},
        {"top_k": 50, "top_p": 1.0, "min_p": 0.0, "temperature": 2.0, "sampler_order": KOBOLDAI},
    ],
)
def test_other_orders_and_values_near_an_edge_are_the_hosts(changes: dict[str, float]) -> None:
    assert row_samplers(replace(FILTERED, **changes)) is None
