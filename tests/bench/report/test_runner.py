"""Test a run whose sections succeed, fail, run out of memory, are interrupted and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jet.bench.options import BenchError, ImpossibleError
from jet.bench.report import runner, sections
from jet.bench.report.data import ReportProgress
from jet.bench.report.plan import ReportOptions
from jet.bench.report.runner import PARTIAL, run

Measure = Callable[[Any], dict[str, Any]]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that sets the sections of a run, and returns a list of those measured so far."""

    def use(**measures: Measure) -> list[str]:
        calls: list[str] = []

        def noted(name: str, measure: Measure) -> sections.Section:
            def call(ctx: Any) -> dict[str, Any]:
                calls.append(name)
                return measure(ctx)

            return sections.Section(name, call)

        todo = [noted(name, measure) for name, measure in measures.items()]
        monkeypatch.setattr(sections, "all_sections", lambda options: todo)
        return calls

    return use


def fine(ctx: Any) -> dict[str, Any]:
    return {"figures": {}}


def raising(error: BaseException) -> Measure:
    def measure(ctx: Any) -> dict[str, Any]:
        raise error

    return measure


def options(folder: Path, **more: Any) -> ReportOptions:
    return ReportOptions(output=folder, device="cpu", **more)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("17 GB wanted"), "17 GB wanted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (BenchError("this network holds 512 tokens"), "this network holds 512 tokens"),
        (ImportError("flash_attn is not installed"), "flash_attn is not installed"),
    ],
)
def test_what_goes_wrong_in_one_part_leaves_the_others(
    plan: Any, tmp_path: Path, error: Exception, reason: str
) -> None:
    plan(first=fine, second=raising(error), third=fine)
    report = run(options(tmp_path))
    assert [part["status"] for part in report.parts.values()] == ["measured", "not measured", "measured"]
    assert reason in report.reason("second")
    assert report.data("second") is None and report.data("third") is not None
    assert report.document["stopped"] is None


def test_ctrl_c_keeps_what_is_done_and_a_later_run_goes_on(plan: Any, tmp_path: Path) -> None:
    plan(first=fine, second=raising(KeyboardInterrupt()), third=fine)
    report = run(options(tmp_path))
    assert report.document["stopped"] and report.data("first") is not None
    assert "interrupted" in report.reason("second") and "interrupted" in report.reason("third")
    assert (tmp_path / PARTIAL).exists()

    calls = plan(first=fine, second=fine, third=fine)
    again = run(options(tmp_path))
    assert calls == ["second", "third"]
    assert again.document["stopped"] is None and len(again.parts) == 3
    assert not (tmp_path / PARTIAL).exists()


def test_whoever_cancels_gets_the_report_so_far(plan: Any, tmp_path: Path) -> None:
    calls = plan(first=fine, second=fine)
    report = run(options(tmp_path), cancelled=lambda: bool(calls))
    assert calls == ["first"] and report.document["stopped"]
    assert report.data("first") is not None and report.data("second") is None


def test_other_options_begin_anew(plan: Any, tmp_path: Path) -> None:
    plan(first=fine, second=raising(KeyboardInterrupt()))
    run(options(tmp_path))
    calls = plan(first=fine, second=fine)
    run(options(tmp_path, full=True))
    assert calls == ["first", "second"]


def test_another_machine_begins_anew(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(first=fine, second=raising(KeyboardInterrupt()))
    run(options(tmp_path))
    described = runner.describe
    monkeypatch.setattr(runner, "describe", lambda device: described(device) | {"torch": "0.1"})
    calls = plan(first=fine, second=fine)
    run(options(tmp_path))
    assert calls == ["first", "second"]


def test_an_unreadable_partial_file_begins_anew(plan: Any, tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_text("{half", encoding="utf-8")
    calls = plan(first=fine)
    run(options(tmp_path))
    assert calls == ["first"]


def test_an_impossible_figure_stops_the_run_and_says_so(plan: Any, tmp_path: Path) -> None:
    calls = plan(first=fine, second=raising(ImpossibleError("112 % of the ceiling")), third=fine)
    with pytest.raises(ImpossibleError, match="112 %"):
        run(options(tmp_path))
    assert calls == ["first", "second"]
    # Nothing is kept: what it was held against may be what is wrong.
    assert not (tmp_path / PARTIAL).exists()


def test_progress_is_told_before_each_part_and_at_the_end(plan: Any, tmp_path: Path) -> None:
    plan(first=fine, second=fine)
    told: list[ReportProgress] = []
    run(options(tmp_path), told.append)
    assert [(progress.done, progress.total) for progress in told] == [(0, 2), (1, 2), (2, 2)]
    assert [progress.part for progress in told[:2]] == ["first", "second"]
