"""Test that inputs of people and programs become a request or an error message."""

from __future__ import annotations

from typing import Any

import pytest

from jet.api import MAX_SEED, RequestError, SamplingParams
from jet.ui.inputs import parse_controls, parse_request, parse_settings

GOOD: dict[str, Any] = {
    "prompt": "Once",
    "max_new_tokens": 40,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 20,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "seed": 7,
}


def test_good_values_arrive_where_they_belong() -> None:
    request = parse_request(**GOOD)
    assert request.prompt == "Once"
    assert request.sampling == SamplingParams(
        temperature=0.5, top_p=0.9, top_k=20, min_p=0.1, repetition_penalty=1.1, max_new_tokens=40, seed=7
    )


@pytest.mark.parametrize(
    ("given", "seed"),
    [("0", 0), (" 42 ", 42), ("٤٢", 42), (42.0, 42), (MAX_SEED, MAX_SEED), (str(MAX_SEED), MAX_SEED)],
)
def test_seeds_may_be_numbers_or_digits(given: object, seed: int) -> None:
    assert parse_request(**{**GOOD, "seed": given}).sampling.seed == seed


@pytest.mark.parametrize("given", [None, "", "  "])
def test_without_a_seed_one_is_drawn(given: object) -> None:
    seeds = {parse_request(**{**GOOD, "seed": given}).sampling.seed for _ in range(4)}
    assert len(seeds) == 4 and None not in seeds


@pytest.mark.parametrize(
    "given", ["abc", "-1", "1e3", "4.0", "²", -1, MAX_SEED + 1, "9" * 5000, True, [], {}]
)
def test_other_seeds_are_refused_briefly(given: object) -> None:
    with pytest.raises(RequestError, match="seed must be a whole number") as raised:
        parse_request(**{**GOOD, "seed": given})
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "text", ["blue moon", "-1", "1e3", "9" * 5000, str(MAX_SEED + 1), "²", "\udc00", "月"]
)
def test_on_the_page_any_text_is_a_seed(text: str) -> None:
    seed = parse_controls({"seed": text}).seed
    assert seed is not None and 0 <= seed <= MAX_SEED
    assert parse_controls({"seed": f" {text}\n"}).seed == seed != parse_controls({"seed": f"{text}!"}).seed


def test_digits_and_nothing_are_what_they_were() -> None:
    seeds = [parse_controls({"seed": given}).seed for given in (" 42 ", "٤٢", str(MAX_SEED), "", "  ", 7)]
    assert seeds == [42, 42, MAX_SEED, None, None, 7]
    assert parse_controls({"seed": "cafe\u0301"}) == parse_controls({"seed": "caf\u00e9"})


@pytest.mark.parametrize("name", sorted(set(GOOD) - {"prompt", "seed"}))
@pytest.mark.parametrize("value", [None, "1", True, [1], {}, float("nan"), float("inf"), -1e9])
def test_no_number_takes_anything_else(name: str, value: object) -> None:
    with pytest.raises(RequestError, match=f"^{name} must be"):
        parse_request(**{**GOOD, name: value})


@pytest.mark.parametrize("value", [None, 1, ["a"], b"a"])
def test_the_prompt_must_be_text(value: object) -> None:
    with pytest.raises(RequestError, match="prompt must be text"):
        parse_request(**{**GOOD, "prompt": value})


def test_half_a_character_is_found() -> None:
    with pytest.raises(RequestError, match="position 2"):
        parse_request(**{**GOOD, "prompt": "ab\udc00"})


def test_settings_of_the_page_keep_an_empty_seed_and_have_more_of_them() -> None:
    settings = parse_settings(40, 0.5, 0.9, 20.0, 0.1, 1.1, "", 0.8, 1.75, 3.0, 0.5, 0.1)
    assert settings.seed is None and settings.top_k == 20
    assert (settings.dry_multiplier, settings.dry_base, settings.dry_allowed_length) == (0.8, 1.75, 3)
    assert (settings.xtc_probability, settings.xtc_threshold) == (0.5, 0.1)
    for values in ((-1.0,), (0.0, 0.5), (0.0, 1.75, 2.5), (0.0, 1.75, 2, 2.0), (0.0, 1.75, 2, 0.0, "x")):
        with pytest.raises(RequestError, match=r"^(dry|xtc)_"):
            parse_settings(40, 0.5, 0.9, 20, 0.1, 1.1, "", *values)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("\r\n\r\n", "\n\n"),
        ("\n\r", "\n\n"),
        ("\r\r\n", "\n\n"),
        ("a\nb", "a\nb"),
    ],
)
def test_a_prompt_has_the_line_breaks_of_the_page(given: str, read: str) -> None:
    assert parse_request(**GOOD | {"prompt": given}).prompt == read
