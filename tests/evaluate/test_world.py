"""Test `python -m jet.evaluate world`: its record, where that is stored, and when it is not."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from jet.engine import heeds
from jet.evaluate import world
from jet.evaluate.heeding import difference, measure_heeding
from jet.evaluate.probes import load_probes
from jet.evaluate.writing import Writer
from tests.evaluate.test_stories import KnownEngine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, engine: KnownEngine, *options: str) -> int:
    monkeypatch.setattr(world, "engine_of", lambda config: nullcontext(engine))
    return world.main(["--model", "any", "--seeds", "1", *options])


def test_the_record_says_what_was_taken_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, KnownEngine(checkpoint="c0ffee", ends=False)) == 0
    found = heeds.find("c0ffee")
    assert found is not None and set(found.fields) == {"memory", "note", "lore"}
    memory = found.fields["memory"]
    assert (memory.rate.told, memory.rate.untold, memory.low, memory.high, memory.stories) == (1, 0, 1, 1, 12)
    assert set(memory.kinds) == {"names", "things"} and found.fields["lore"].kinds == {}
    said = capsys.readouterr().out
    assert (
        "The page says at memory: This model mostly heeds this. Names told here come up in nearly every"
        in said
    )


def test_a_chat_model_is_asked_for_subjects_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, KnownEngine(checkpoint="c0ffee", chat_tokens=3)) == 0
    found = heeds.find("c0ffee")
    assert found is not None and "about" in found.fields


def test_a_quick_look_keeps_no_record(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert run(monkeypatch, KnownEngine(checkpoint="c0ffee"), "--quick") == 0
    assert list(cache.iterdir()) == []


def test_what_cannot_be_kept_is_an_error(
    monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, KnownEngine(checkpoint="c0ffee"), "--beside") == 2
    assert "any is no folder" in capsys.readouterr().err
    (cache / "heeds").write_text("in the way", encoding="utf-8")
    assert run(monkeypatch, KnownEngine(checkpoint="c0ffee")) == 2
    assert "cannot be kept" in capsys.readouterr().err


def test_who_heeds_nothing_gains_nothing() -> None:
    told = load_probes().of_field("lore")
    gain = difference(measure_heeding(Writer(KnownEngine(heeds=False)), told, 1, 50), "lore")
    assert gain is not None and (gain.mean, gain.low, gain.high) == (0, 0, 0)


def test_the_shipped_model_has_been_measured() -> None:
    folder = Path(__file__).parents[2] / "assets" / "story-model"
    found = heeds.find(heeds.identify(folder), folder)
    assert found is not None, "run: python -m jet.evaluate world --model assets/story-model --beside"
    assert set(found.fields) >= {"memory", "note", "lore"}
