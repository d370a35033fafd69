"""Run the short load test: no errors, and a flood is refused politely."""

from __future__ import annotations

import pytest

from scripts.load_page import FLOOD, quantile, run

pytestmark = pytest.mark.thorough


def test_twenty_tabs_and_a_flood() -> None:
    found = run(tabs=20, seconds=6)
    assert found["errors"] == [] and found["refused"] == []
    assert {"open", "sync", "continue", "autosave"} <= set(found["by_action"])
    assert found["by_action"]["open"]["count"] == 20
    assert found["memory_growth_mb_per_tab"] < 10
    answers = found["flood"]["answers"]
    assert set(answers) == {"200", "429"} and sum(answers.values()) == FLOOD
    assert found["flood"]["story_kept"]


def test_quantiles() -> None:
    assert quantile([], 0.95) == 0.0
    assert quantile([3.0], 0.95) == 3.0
    assert quantile([float(number) for number in range(100)], 0.95) == 95.0
