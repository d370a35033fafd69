"""Test the evaluation of a storyteller with engines that write known texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jet.api import EngineInfo, Request, RequestStats, TokenChunk
from jet.evaluate import stories
from jet.evaluate.compression import EvaluationError
from jet.evaluate.heeding import estimates, measure_heeding, to_rows
from jet.evaluate.judging import judge
from jet.evaluate.probes import load_probes
from jet.evaluate.rows import Row, format_table, to_markdown
from jet.evaluate.spread import estimate
from jet.evaluate.stories import Plan, evaluate_storyteller
from jet.evaluate.writing import Task, Writer
from jet.story.guidance import AuthorsNote, Guidance
from tests.ui.stand_in import StandInEngine

SMALL = Plan(seeds=2, told_seeds=2, ending_seeds=1, preset_seeds=1, words=20, ending_words=100, openings=2)


@dataclass
class KnownEngine(StandInEngine):
    """An engine with known answers: it repeats its prompt if `heeds`, and ends its story if `ends`."""

    heeds: bool = True
    ends: bool = True
    error: str | None = None
    prompts: list[Request] = field(default_factory=list)

    def info(self) -> EngineInfo:
        info = super().info()
        return EngineInfo(**{**info.__dict__, "max_running_requests": 3, "context": self.context})

    def submit(self, request: Request) -> Any:
        self.prompts.append(request)
        return KnownStream(self, request)


class KnownStream:
    """The stream of an answer of `KnownEngine`."""

    def __init__(self, engine: KnownEngine, request: Request) -> None:
        self._engine, self._request, self._aborted = engine, request, False

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        heeded = self._request.prompt if self._engine.heeds else "The end was near."
        told = re.sub(r"\[Author's note: (.*)\]", r"\1", f"{heeded} ") * 2
        ended = self._engine.ends and "[Author's note: " in self._request.prompt
        yield TokenChunk(f" {told.strip()}", (), RequestStats())
        if not ended:
            yield TokenChunk(" and on" * 100, (), RequestStats())
        if self._aborted:
            return
        yield TokenChunk(
            "", (), RequestStats(finish_reason="stop" if ended else "length", error=self._engine.error)
        )

    def abort(self) -> None:
        self._aborted = True


def test_tasks_are_written_once_and_cut_to_their_words() -> None:
    engine = KnownEngine()
    writer = Writer(engine)
    task = Task("Ann slept.", 0, 5)
    written = writer.write([task, task, Task("Ann slept.", 1, 3)])
    assert [one.text for one in written.values()] == [" Ann slept. Ann slept. and", " Ann slept. Ann"]
    assert not any(one.ended for one in written.values())
    writer.write([task])
    assert len(engine.prompts) == 2
    assert {request.sampling.seed for request in engine.prompts} == {0, 1}
    assert all(request.healing for request in engine.prompts)


def test_guidance_stands_in_the_prompt_as_on_the_page() -> None:
    engine = KnownEngine()
    guidance = Guidance(memory="Ann has a dog.", note=AuthorsNote("It rains."))
    task = Task("Ann slept.", 0, 30, guidance)
    written = Writer(engine).write([task])
    assert engine.prompts[0].prompt == "Ann has a dog.\n\n[Author's note: It rains.]\nAnn slept."
    assert written[task].ended
    with pytest.raises(EvaluationError, match="too small: Author's note did not fit"):
        Writer(KnownEngine(context=100)).write(
            [Task("Ann slept.", 0, 30, Guidance(note=AuthorsNote("x " * 60)))]
        )


def test_an_error_of_the_engine_is_told() -> None:
    with pytest.raises(EvaluationError, match="could not be written: no memory"):
        Writer(KnownEngine(error="no memory")).write([Task("Ann slept.", 0, 30_000)])


@pytest.mark.parametrize("heeds", [True, False])
def test_who_repeats_what_is_told_heeds_it_and_who_does_not_does_not(heeds: bool) -> None:
    told = [probe for probe in load_probes().told if probe.field in ("memory", "lore")]
    heeding = measure_heeding(Writer(KnownEngine(heeds=heeds)), told, seeds=2, words=200)
    for name in ("memory", "lore"):
        found = estimates(heeding, name)
        assert found is not None
        assert (found[0].mean, found[1].mean) == (float(heeds), 0.0)
        assert found[0].stories == 2 * len([probe for probe in told if probe.field == name])
    assert estimates(heeding, "note") is None
    assert [row.label for row in to_rows(heeding)] == [
        "memory taken up",
        "… names",
        "… things",
        "lore entry taken up",
    ]


def test_subjects_are_controlled_by_the_stories_about_others() -> None:
    engine = KnownEngine(chat_tokens=3)
    about = load_probes().of_field("about")
    found = estimates(measure_heeding(Writer(engine), about, seeds=1, words=50), "about")
    assert found is not None and found[1].stories == len(about) * (len(about) - 1)
    assert engine.prompts[0].instruction == f"Write me a story about {about[0].text}"


def test_everything_is_measured_and_kept_for_readers() -> None:
    rows, texts = evaluate_storyteller(Writer(KnownEngine()), SMALL, load_probes(), ["One two. " * 50])
    by_label = {row.label: row for row in rows}
    assert by_label["premise words kept"].value > by_label["premise words kept"].control  # type: ignore[operator]
    assert by_label["person switched"].value == 0
    assert by_label["memory taken up"].value == 1 and by_label["memory taken up"].control == 0
    ends = by_label["ends within 100 words when asked to"]
    assert (ends.value, ends.control) == (1, 0)
    assert by_label["stock phrases per 1,000 words"].held_out == 0
    assert {"openings", "preset steady", "preset wild", "told", "endings"} <= set(texts)
    assert len(texts["openings"]) == 48
    table = format_table(rows)
    assert "memory taken up" in table and "100 %" in table
    assert to_markdown(rows).count("\n") == len(rows) + 1


def test_no_story_no_figure() -> None:
    rows = judge({}, load_probes(), [])
    assert rows[0] == Row("named person still there at the end", None, remark="no story to judge")


def test_the_spread_grows_with_the_differences_between_openings() -> None:
    alike, apart = estimate({"a": [0, 1], "b": [1, 0]}), estimate({"a": [0, 0], "b": [1, 1]})
    assert alike is not None and apart is not None
    assert (alike.mean, alike.low, alike.high, alike.stories) == (0.5, 0.5, 0.5, 4)
    assert (apart.mean, apart.low, apart.high) == (0.5, 0.0, 1.0)
    assert estimate({"a": []}) is None


def test_the_command_prints_a_table_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(stories, "engine_of", lambda config: nullcontext(KnownEngine()))
    monkeypatch.setattr(stories, "QUICK", SMALL)
    output = tmp_path / "new" / "found.json"
    assert stories.main(["--model", "any", "--quick", "--output", str(output)]) == 0
    assert "memory taken up" in capsys.readouterr().out
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["plan"]["words"] == 20 and len(found["texts"]["openings"]) == 48
    assert stories.main(["--model", "any", "--quick", "--held-out", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stories.main(["--model", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
