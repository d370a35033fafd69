"""Test the comparison of two reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jet.bench.options import BenchError
from jet.bench.report.compare import compare
from jet.bench.report.data import MEASURED, NOT_MEASURED, SCHEMA, Report, load, save
from jet.bench.result import Metric
from jet.bench.samples import Samples
from jet.report.__main__ import main


def report(name: str, **parts: dict[str, float] | None) -> Report:
    """Return a report with these sections, each with a median per figure; None means not measured."""

    def part(figures: dict[str, float] | None) -> dict[str, Any]:
        told = {"status": MEASURED, "reason": None, "seconds": 1.0, "load": 0.0, "data": None}
        if figures is None:
            return {**told, "status": NOT_MEASURED, "reason": "out of memory"}
        samples_by_name = {key: Samples((value, 0.9 * value, 1.1 * value)) for key, value in figures.items()}
        figures_json = {
            key: Metric(key, "tok/s", samples).as_json() for key, samples in samples_by_name.items()
        }
        return {**told, "data": {"figures": figures_json}}

    return Report(
        {
            "schema": SCHEMA,
            "created": "2026-01-01T00:00:00+00:00",
            "options": {"model": name, "config": None},
            "machine": {"device_name": "a stand-in"},
            "stopped": None,
            "parts": {key: part(figures) for key, figures in parts.items()},
        }
    )


def rows(text: str) -> dict[str, list[str]]:
    """Return the table's rows by their first column."""
    lines = [line.split() for line in text.splitlines() if "/" in line.split(" ")[0]]
    return {first: rest for first, *rest in lines}


def test_each_figure_of_both_has_its_ratio() -> None:
    first = report("one", standing={"engine": 100.0, "bare": 200.0}, old={"x": 1.0})
    second = report("other", standing={"engine": 150.0, "bare": 50.0}, new={"x": 1.0})
    found = rows(compare(first, second))
    assert {path: row[-1] for path, row in found.items()} == {
        "standing/engine": "1.500",
        "standing/bare": "0.250",
    }
    assert found["standing/engine"][:4] == ["100", "tok/s", "150", "tok/s"]


def test_it_says_what_is_compared() -> None:
    text = compare(report("one", a={"x": 1.0}), report("other", a={"x": 1.0}))
    assert text.splitlines()[0].startswith("A: one, a stand-in")
    assert text.splitlines()[1].startswith("B: other, a stand-in")


def test_what_one_did_not_measure_is_left_out() -> None:
    text = compare(report("one", a={"x": 1.0}, b=None), report("other", a={"x": 2.0}, b={"x": 2.0}))
    assert set(rows(text)) == {"a/x"}


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(BenchError, match="no figure in common"):
        compare(report("one", a={"x": 1.0}), report("other", b={"x": 1.0}))


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file, speed in zip(files, (100.0, 300.0), strict=True):
        save(report(file.stem, standing={"engine": speed}), file)
    assert main(["--compare", *map(str, files)]) == 0
    assert rows(capsys.readouterr().out)["standing/engine"][-1] == "3.000"


@pytest.mark.parametrize("text", [None, "{half", "[]", json.dumps({"schema": 0, "parts": {}})])
def test_what_is_no_report_is_an_error(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    assert main(["--compare", str(file), str(file)]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = report("one", a={"x": 0.1}, b=None)
    save(written, tmp_path / "folder" / "report.json")
    assert load(tmp_path / "folder" / "report.json") == written
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["report.json"]
