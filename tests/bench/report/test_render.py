"""Test that the report's sentences follow from its figures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from jet.bench.report.blocks import Heading, Paragraph, Picture, Table, to_html, to_markdown
from jet.bench.report.data import Report, load
from jet.bench.report.export import export
from jet.bench.report.plots import draw
from jet.bench.report.render import blocks, noisy_metrics, verdict
from tests.conftest import ROOT


@pytest.fixture
def report() -> Report:
    return load(ROOT / "docs" / "reports" / "cpu-quick" / "report.json")


def text(report: Report) -> str:
    return to_markdown(blocks(report, {}))


def test_a_steady_machine_is_steady_and_a_noisy_one_noisy(report: Report) -> None:
    for _, figure in report.metrics():
        figure["q1"] = figure["q3"] = figure["median"]
    assert noisy_metrics(report) == [] and "Steady" in text(report)
    figure = dict(report.metrics())["loading/speed"]
    figure["q3"] = 1.11 * figure["median"]
    assert noisy_metrics(report) == ["loading/speed"]
    assert "Noisy: of" in text(report)


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (1.9, True)])
def test_a_busy_machine_is_said_to_be_busy(report: Report, load: float, busy: bool) -> None:
    report.document["machine"] |= {"load": load, "processors": 2}
    assert ("This machine was busy" in text(report)) == busy


def test_the_verdict_has_the_share_and_what_int8_would_give(report: Report) -> None:
    efficiency = report.data("standing")
    assert efficiency is not None
    efficiency["shares"]["engine"] = 0.62
    efficiency["floor"] |= {"total": 1900, "weights": 1800}
    efficiency["elements"] = 900
    summary = "62% of what this machine can do at these bytes; "
    int8, plain = report.parts["variant.int8.ours"]["data"], report.data("variant.float32.ours")
    assert plain is not None
    int8["figures"]["decode"]["median"] = 1.5 * plain["figures"]["decode"]["median"]
    assert verdict(report) == f"{summary}int8 writes 1.5× as fast, of the 1.9× that its bytes would allow."
    report.parts["variant.int8.ours"]["data"] = None
    assert verdict(report) == f"{summary}one byte a weight would give about 1.9× at the same share."
    efficiency["elements"] = 1800  # a byte a weight already
    assert verdict(report) == "62% of what this machine can do at these bytes."


def test_what_was_not_measured_is_said_and_why(report: Report) -> None:
    for part in report.parts.values():
        part |= {"status": "not measured", "reason": "the cat sat on it", "data": None}
    report.document["stopped"] = "interrupted"
    summary = text(report)
    assert "The run was interrupted" in summary
    assert summary.count("the cat sat on it") >= len(report.parts)
    assert verdict(report) == ""


def test_a_contender_without_memory_leaves_the_others_figures(report: Report, tmp_path: Path) -> None:
    point: dict[str, Any] = report.parts["context.1024"]["data"]
    for name in ("full.decode", "full.prefill"):
        del point["figures"][name]
    point["failed"] = {"full": "out of memory"}
    point["memory"]["full"] = None
    assert "out of memory" in text(report)
    pytest.importorskip("matplotlib")
    assert "context.png" in draw(report, tmp_path)


def test_the_page_needs_nothing_else(report: Report, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    before = copy.deepcopy(report.document)
    export(report, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn == {"context.png", "batch.png", "roofline.png", "waterfall.png"}
    assert page.count("data:image/png;base64,") == len(drawn)
    assert "src=" not in page.replace('src="data:', "")
    assert load(tmp_path / "report.json").document == before == report.document


def test_without_matplotlib_there_are_no_plots_and_that_is_said(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    export(report, tmp_path)
    assert not list(tmp_path.glob("*.png"))
    assert "None: matplotlib is not installed" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_text_from_outside_is_escaped() -> None:
    shown = [
        Heading("<a>", 1),
        Paragraph("<b>"),
        Table(("x", "<c>"), [("1|2", "<d>")]),
        Picture("p.png", "<e>"),
    ]
    page = to_html(shown, {"p.png": "data:,"})
    assert all(f"<{letter}>" not in page for letter in "abcde")
    assert "1\\|2" in to_markdown(shown)
