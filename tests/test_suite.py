"""Test that the two parts of the suite count as one."""

from __future__ import annotations

import pytest

from tests.suite import commands, verdict

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
    assert all(part[-1] == "-x" for part in (*rest.values(), *some.values(), *every.values()))
    with pytest.raises(ValueError, match="everyday, thorough, all, not 'some'"):
        commands("some", [])
