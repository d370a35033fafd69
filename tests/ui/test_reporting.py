"""Test the report of the page: start, progress and end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from jet.api import Request
from jet.server.hosting import Hosting
from jet.server.limits import PUBLIC
from jet.ui import reporting, views
from jet.ui.handlers import PageController
from jet.ui.reporting import Reporter, ReportState, arguments
from tests.ui.stand_in import StandInSource

# A program in the place of `python -m jet.report`: two parts, then the files.
MEASURES = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as jet.report does
folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
code = 0
try:
    for done, part in enumerate(["bandwidth", "loading"]):
        print(json.dumps({"part": part, "done": done, "total": 2}), flush=True)
        time.sleep(seconds)
except KeyboardInterrupt:
    code = 130
print("a line of a library", flush=True)
for ending in ("html", "md", "json"):
    (folder / f"report.{ending}").write_text(f"<b>the {ending}</b> {{x}}")
print(json.dumps({"message": "40% of <what> can be"}), flush=True)
sys.exit(code)
"""
FAILS = (
    "import sys; print('a traceback', file=sys.stderr); print('Error: no room', file=sys.stderr); sys.exit(2)"
)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def replace_with(code: str, *more: str) -> None:
        monkeypatch.setattr(reporting, "arguments", lambda info, folder: ["-c", code, str(folder), *more])

    monkeypatch.setattr(reporting, "POLL_S", 0.02)
    return replace_with


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), timeout=20))


def test_it_goes_through_its_parts_and_ends_with_the_files(program: Callable[..., None]) -> None:
    program(MEASURES, "0.1")
    states: list[ReportState] = []

    async def story() -> None:
        reporter = Reporter(StandInSource())
        states.extend([state async for state in reporter.watch()])

    play(story)
    assert next(state.part for state in states if state.part) == "bandwidth"
    assert {state.total for state in states if state.part} == {2}
    last = states[-1]
    assert (last.phase, last.message) == ("done", "40% of <what> can be")
    assert last.files == {ending: f"<b>the {ending}</b> {{x}}" for ending in ("html", "md", "json")}
    shown = views.report(last)
    assert "40% of &lt;what&gt; can be" in shown and shown.count("download=") == 3
    assert not set(shown) & set("{}") and "<b>the" not in shown  # it stands inside a frame of its own


def test_it_waits_for_stories_and_they_are_not_broken(program: Callable[..., None]) -> None:
    program(MEASURES, "0")
    source = StandInSource()
    stream = source.stand_in.submit(Request("A"))

    async def story() -> None:
        reporter = Reporter(source)
        phases = []
        async for state in reporter.watch():
            phases.append(state.phase)
            if state.phase == "waiting" and phases.count("waiting") == 3:
                assert stream in source.stand_in.live
                source.stand_in.leave(stream)  # it has ended by itself
        assert phases[-1] == "done" and not source.stand_in.aborted_at

    play(story)


def test_who_looks_later_sees_the_same_report(program: Callable[..., None]) -> None:
    program(MEASURES, "0.2")

    async def story() -> None:
        reporter = Reporter(StandInSource())

        async def look() -> ReportState:
            return [state async for state in reporter.watch()][-1]

        first, second = await asyncio.gather(look(), look())
        assert first is second

    play(story)


@pytest.mark.parametrize("moment", ["waiting", "measuring"])
def test_stop_keeps_what_there_is(program: Callable[..., None], moment: str) -> None:
    program(MEASURES, "30")
    source = StandInSource()
    if moment == "waiting":
        source.stand_in.submit(Request("A"))

    async def story() -> None:
        reporter = Reporter(source)
        async for state in reporter.watch():
            if state.phase == moment and (state.part or moment == "waiting"):
                reporter.stop()
        assert state.phase == ("idle" if moment == "waiting" else "done")

    play(story)


def test_a_failure_says_why(program: Callable[..., None]) -> None:
    program(FAILS)

    async def story() -> None:
        last = [state async for state in Reporter(StandInSource()).watch()][-1]
        assert (last.phase, last.message) == ("failed", "Error: no room")
        assert "There is no report: Error: no room" in views.report(last)

    play(story)


def test_where_the_model_runs_elsewhere_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    source = StandInSource()
    info = reporting.replace(source.stand_in.info(), bandwidth=None)
    monkeypatch.setattr(source.stand_in, "info", lambda: info)

    async def story() -> None:
        last = [state async for state in Reporter(source).watch()][-1]
        assert last.phase == "failed" and "does not run on this machine" in last.message

    play(story)


def test_the_public_cannot_keep_the_machine_busy() -> None:
    async def story() -> None:
        controller = PageController(StandInSource(), Hosting(limits=PUBLIC))
        (shown,) = [shown async for shown in controller.report()]
        assert "open to others" in shown

    play(story)


def test_the_program_is_asked_for_the_model_that_runs_here(tmp_path: Path) -> None:
    info = reporting.replace(StandInSource().stand_in.info(), model=str(tmp_path), dtype="bfloat16")
    asked = arguments(info, Path("out"))
    assert asked[:4] == ["-m", "jet.report", "--quick", "--progress"]
    assert dict(zip(asked[4::2], asked[5::2], strict=True)) == {
        "--model": str(tmp_path),
        "--device": "cpu",
        "--dtype": "bfloat16",
        "--output": "out",
    }


def test_progress_is_told_in_lines_of_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jet.bench.report.data import Report, ReportProgress
    from jet.report import __main__ as program

    def run(options: object, on_progress: Callable[[ReportProgress], None]) -> Report:
        on_progress(ReportProgress("bandwidth", 0, 1))
        return Report({"stopped": None, "parts": {}})

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(program, "export", lambda report, folder: None)
    monkeypatch.setattr(program, "verdict", lambda report: "so and so")
    assert program.main(["--progress", "--output", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"part": "bandwidth", "done": 0, "total": 1}, {"message": "so and so"}]
