"""Test what the page says at the fields of World about the running model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jet.engine import heeds as records
from jet.engine.heeds import Heed, Heeds, Rate
from jet.ui.heeds import FIELDS, describe, marks, measuring_command
from tests.ui.stand_in import StandInEngine

INFO = replace(StandInEngine(checkpoint="c0ffee").info(), model="my models/tale")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path))


NAMES = {"names": Rate(0.72, 0.02), "things": Rate(0.21, 0.0)}
FELT = {"weather": Rate(0.34, 0.26), "mood": Rate(0.3, 0.3)}


@pytest.mark.parametrize(
    ("name", "heed", "verdict", "stories"),
    [
        (
            *("memory", Heed(Rate(0.6, 0.0), 0.4, 0.8, 60, NAMES), "mostly"),
            "Names told here come up in 7 of 10 stories, other facts in 2 of 10.",
        ),
        (
            *("note", Heed(Rate(0.32, 0.28), -0.05, 0.2, 60, FELT), "hardly"),
            "Weather told here is felt in 3 of 10 stories (without it in 3), "
            "a mood in 3 of 10 (without it in 3).",
        ),
        (
            *("lore", Heed(Rate(0.3, 0.0), 0.1, 0.5, 50), "sometimes"),
            "What an entry tells comes up in 3 of 10 stories.",
        ),
        (
            *("lore", Heed(Rate(0.04, 0.0), 0.01, 0.1, 50), "hardly"),
            "What an entry tells comes up in hardly any story.",
        ),
        (
            *("lore", Heed(Rate(1.0, 0.1), 0.8, 1.0, 50), "mostly"),
            "What an entry tells comes up in nearly every story (without it in 1).",
        ),
    ],
)
def test_a_record_in_a_writers_words(name: str, heed: Heed, verdict: str, stories: str) -> None:
    assert describe(name, heed) == f"This model {verdict} heeds this. {stories}"


def test_each_field_has_a_remark_of_its_own() -> None:
    heed = Heed(Rate(0.3, 0.0), 0.1, 0.5, 50)
    records.write(Heeds("c0ffee", {"lore": heed}), records.cached_path("c0ffee"))
    found = marks(INFO, own=True)
    assert set(found) == {f"jet-heeds-{name}" for name in FIELDS}
    assert describe("lore", heed) in found["jet-heeds-lore"]
    assert "Not measured for this model yet" in found["jet-heeds-memory"]


def test_another_checkpoint_under_the_same_name_is_not_measured() -> None:
    records.write(
        Heeds("c0ffee", {"lore": Heed(Rate(0.3, 0.0), 0.1, 0.5, 50)}), records.cached_path("c0ffee")
    )
    for other in ("decaf", "c0ffee+int8"):
        assert "Not measured" in marks(replace(INFO, checkpoint=other), own=True)["jet-heeds-lore"]


def test_who_runs_the_page_is_told_the_command_and_strangers_are_not() -> None:
    assert (
        "python -m jet.evaluate world --model &#39;my models/tale&#39;</code>"
        in marks(INFO, own=True)["jet-heeds-note"]
    )
    assert measuring_command(replace(INFO, checkpoint="c0ffee+int8")).endswith(" --quantize int8")
    for text in (*marks(INFO, own=False).values(), *marks(replace(INFO, checkpoint=None), own=True).values()):
        assert text.strip() == "Whether this model heeds this has not been measured."
    remote = replace(INFO, placement="remote", checkpoint=None)
    assert "another server" in marks(remote, own=True)["jet-heeds-note"]
    assert marks(None, own=True) == {}
