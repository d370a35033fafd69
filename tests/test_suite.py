"""Test that the two parts of the suite count as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite import TESTS, commands, environment, verdict

OK, FAILED, NONE = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([OK, OK], OK),
        ([FAILED, OK], FAILED),
        ([OK, FAILED], FAILED),
        ([NONE, OK], OK),
        ([FAILED, NONE], FAILED),
        ([NONE, NONE], NONE),
        ([OK, pytest.ExitCode.INTERRUPTED], pytest.ExitCode.INTERRUPTED),
        ([OK, -9], FAILED),
    ],
)
def test_a_failure_of_either_part_counts(codes: list[int], expected: int) -> None:
    assert verdict(codes) == expected


def test_every_day_has_all_but_the_thorough_ones_and_all_has_both() -> None:
    rest, some = commands("thorough", ["-x"]), commands("everyday", ["-x"])
    assert [part[1] for part in rest.values()] == ["alone and thorough", "not alone and thorough"]
    assert [part[1] for part in some.values()] == ["alone and not thorough", "not alone and not thorough"]
    every = commands("all", ["-x"])
    assert [part[1] for part in every.values()] == ["alone", "not alone"]
    assert all("-x" in part for part in (*rest.values(), *some.values(), *every.values()))
    with pytest.raises(ValueError, match="everyday, thorough, all, not 'some'"):
        commands("some", [])


def test_the_part_that_runs_alone_reads_only_its_files(request: pytest.FixtureRequest) -> None:
    alone, others = commands("all", []).values()
    assert not any(argument.endswith(".py") for argument in others)
    named = {argument for argument in alone if argument.endswith(".py")}
    marked = {str(item.path) for item in request.session.items if item.get_closest_marker("alone")}
    assert marked <= named
    assert TESTS.joinpath("files/test_round_trips.py").as_posix() in {Path(one).as_posix() for one in named}


@pytest.mark.parametrize("given", ["tests/test_suite.py", "tests/test_suite.py::test_x", "tests"])
def test_files_that_are_asked_for_are_all_that_is_read(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS.parent)
    assert [part[-1] for part in commands("all", [given]).values()] == [given, given]
    assert len(commands("all", ["-k", "cache"])["one after the other"]) > 4


def test_compiled_modules_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("JET_REQUIRE_BROWSER", "1")
    kept = environment()
    assert "PYTHONDONTWRITEBYTECODE" not in kept and kept["JET_REQUIRE_BROWSER"] == "1"
