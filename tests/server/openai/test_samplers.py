"""Test samplers under the names of several programs, and their order."""

from __future__ import annotations

import json

import pytest

from jet.server.openai.errors import ApiError
from jet.server.openai.reading import check_fields, sampling_of
from jet.server.openai.sampler_order import order_of
from jet.server.openai.schema import CompletionRequest, KoboldRequest


@pytest.mark.parametrize("kind", [CompletionRequest, KoboldRequest])
@pytest.mark.parametrize(
    ("sent", "name", "value"),
    [
        ({"top_n_sigma": 1.5}, "top_n_sigma", 1.5),
        ({"nsigma": 1}, "top_n_sigma", 1.0),
        ({"top_n_sigma": -1}, "top_n_sigma", 0.0),
        ({"typical_p": 0.9}, "typical_p", 0.9),
        ({"typical": 0.8}, "typical_p", 0.8),
        ({"dynatemp_range": 0.5, "dynatemp_exponent": 2}, "dynatemp_range", 0.5),
        ({"mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2}, "mirostat_tau", 4.0),
        ({"mirostat_mode": 2}, "mirostat", 2),
        ({"adaptive_target": 0.4, "adaptive_decay": 0.5}, "adaptive_decay", 0.5),
        ({"adaptive_target": -5}, "adaptive_target", -1.0),
        ({"samplers": ["penalties", "dry", "top_k", "typ_p", "temperature"]}, "sampler_order", None),
        ({"samplers": "min_p;temperature"}, "sampler_order", "min_p;temperature"),
        ({}, "uses_chain", False),
    ],
    ids=json.dumps,
)
def test_a_sampler_has_its_usual_names(
    kind: type[CompletionRequest], sent: dict[str, object], name: str, value: object
) -> None:
    fields, unknown = check_fields(dict(sent), kind)
    wanted = "top_k;typical_p;temperature" if value is None else value
    assert getattr(sampling_of(fields, 10), name) == wanted and not unknown


def test_koboldais_numbers_are_an_order() -> None:
    order = "top_n_sigma;top_k;typical_p;top_p;min_p;temperature;xtc"
    assert order_of([6, 0, 1, 3, 4, 2, 5]) == order
    assert order_of(None) == order_of([]) == order_of("") == ""
    assert order_of(["infill", "top_a", "top_p", "top_p"]) == "top_p"


@pytest.mark.parametrize("bad", [[7], [0, "top_p"], ["top_p", "penalties"], ["top_p"] * 40])
def test_an_order_that_cannot_be_is_refused_in_words(bad: list[object]) -> None:
    with pytest.raises(ApiError, match="sampler"):
        order_of(bad)  # type: ignore[arg-type]


def test_a_wrong_setting_is_refused_with_its_range() -> None:
    for sent in ({"mirostat": 1}, {"typical_p": 0}, {"dynatemp_range": 9}, {"adaptive_decay": 1}):
        fields, _ = check_fields(dict(sent), CompletionRequest)
        with pytest.raises(ApiError, match=next(iter(sent))):
            sampling_of(fields, 10)
