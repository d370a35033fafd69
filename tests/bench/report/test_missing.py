"""Test a report without a checkpoint: the rest is measured, and the report says what is missing and why."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from jet.bench import bandwidth
from jet.bench.report import machine
from jet.bench.report.data import load
from jet.report.__main__ import main


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "LARGE_COPY_BYTES", 2**24)
    monkeypatch.setitem(machine._MATRIX_SIZE, "cpu", 64)


def test_a_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert main(["--model", "./no-such-model", "--device", "cpu", "--output", str(folder)]) == 0
    report = load(folder / "report.json")
    assert report.data("bandwidth") is not None
    others = {name: part for name, part in report.parts.items() if name != "bandwidth"}
    assert {part["status"] for part in others.values()} == {"not measured"}
    assert all("no-such-model" in part["reason"] or "project" in part["reason"] for part in others.values())
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "Not measured" in text and "no-such-model" in text
    for section in range(1, 8):
        assert f"## {section}. " in text
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_device_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda:99", "--output", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err.startswith("Error: There is no")
    assert not (tmp_path / "report").exists()


def test_an_interrupt_is_heard_where_the_shell_has_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            main(["--no-such-option"])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
