"""Test the parts of the suite: which tests each part runs, and that their exit codes count as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.suite import TESTS, commands, environment, split_thorough, verdict

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


class Item:
    """A test as pytest collects it, thorough or not."""

    def __init__(self, nodeid: str, thorough: bool) -> None:
        self.nodeid, self.thorough = nodeid, thorough

    def get_closest_marker(self, name: str) -> bool:
        return name == "thorough" and self.thorough


def test_each_thorough_test_is_in_one_part_and_all_others_are_in_every_part():
    items = [Item(f"tests/test_{n}.py::test[{n}]", n % 3 == 0) for n in range(600)]
    parts = [split_thorough(items, f"{number}/4") for number in (1, 2, 3, 4)]
    assert all({*taken, *left} == {*items} for taken, left in parts)
    for item in items:
        assert sum(item in taken for taken, _ in parts) == (1 if item.thorough else 4)
    assert all(30 < sum(item.thorough for item in taken) < 70 for taken, _ in parts)
