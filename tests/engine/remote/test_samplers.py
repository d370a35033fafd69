"""Test samplers that only some servers have: sent if they are on, refused if a server lacks them."""

from __future__ import annotations

import pytest

from jet.api import RequestError, SamplingParams
from jet.engine.remote.samplers import further_samplers


@pytest.mark.parametrize(
    ("setting", "sent"),
    [
        ({}, {}),
        ({"top_n_sigma": 1.5}, {"top_n_sigma": 1.5}),
        ({"typical_p": 0.9}, {"typical_p": 0.9}),
        ({"dynatemp_range": 0.5}, {"dynatemp_range": 0.5, "dynatemp_exponent": 1.0}),
        ({"mirostat": 2}, {"mirostat": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.1}),
        ({"adaptive_target": 0.3}, {"adaptive_target": 0.3, "adaptive_decay": 0.9}),
        ({"sampler_order": "min_p;typical_p"}, {"samplers": ["min_p", "typ_p"]}),
    ],
    ids=str,
)
def test_samplers_are_sent_where_they_are_on(setting: dict[str, float], sent: dict[str, object]) -> None:
    sampling = SamplingParams(**setting)  # type: ignore[arg-type]
    assert further_samplers(sampling, "llamacpp") == further_samplers(sampling, "") == sent
    if sent:
        with pytest.raises(RequestError, match=f"vllm, which has no {next(iter(sent))}"):
            further_samplers(sampling, "vllm")
