"""Test the components of the page by its configuration, without a browser."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest

from jet.api import SamplingParams
from jet.ui.layout import load_openings
from tests.ui.served import Served

DEFAULTS = SamplingParams()


def components(served: Served, kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of all components of a kind, by label or text."""
    found = [part["props"] for part in served.demo.get_config_file()["components"] if part["type"] == kind]
    return {props.get("label") or props.get("value") or "": props for props in found}


@pytest.mark.parametrize(
    ("label", "field"),
    [
        ("Length in tokens", "max_new_tokens"),
        ("Temperature", "temperature"),
        ("Top-p", "top_p"),
        ("Top-k, 0 for all", "top_k"),
        ("Min-p", "min_p"),
        ("Repetition penalty", "repetition_penalty"),
        ("DRY strength", "dry_multiplier"),
        ("DRY base", "dry_base"),
        ("DRY from tokens", "dry_allowed_length"),
        ("XTC probability", "xtc_probability"),
        ("XTC threshold", "xtc_threshold"),
    ],
)
def test_sliders_stand_at_the_defaults_and_reach_only_what_is_allowed(
    served: Served, label: str, field: str
) -> None:
    slider = components(served, "slider")[label]
    assert slider["value"] == getattr(DEFAULTS, field)
    for end in (slider["minimum"], slider["maximum"]):
        SamplingParams(**{field: end})


def test_a_dozen_openings_each_with_a_button(served: Served) -> None:
    openings = load_openings()
    assert len(openings) == 12
    assert len({opening.genre for opening in openings}) == 12
    assert len({opening.text for opening in openings}) == 12
    html = "".join(str(shown) for shown in components(served, "html"))
    for opening in openings:
        assert f'data-opening="{opening.text}"' in unescape(html) and f">{opening.genre}<" in html
        assert 30 < len(opening.text) < 400
        assert opening.text == opening.text.strip()


def test_stop_waits_until_there_is_something_to_stop(served: Served) -> None:
    buttons = components(served, "button")
    assert buttons["Continue"]["interactive"]
    assert not buttons["Stop"]["interactive"]


def test_what_is_off_until_it_is_wanted_is_folded_away(served: Served) -> None:
    assert not components(served, "accordion")["Advanced: the numbers behind them"]["open"]


def test_no_history_and_no_analytics(served: Served) -> None:
    config = served.demo.get_config_file()
    assert not config.get("run_history")
    assert not served.demo.analytics_enabled
