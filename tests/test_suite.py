"""The two parts of the tests count as one."""

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


def test_every_day_has_all_but_the_thorough_ones() -> None:
    every, some = commands("thorough", ["-x"]), commands("everyday", ["-x"])
    assert [part[1] for part in every.values()] == ["alone and thorough", "not alone and thorough"]
    assert [part[1] for part in some.values()] == ["alone and not thorough", "not alone and not thorough"]
    assert all(part[-1] == "-x" for part in (*every.values(), *some.values()))
    with pytest.raises(ValueError, match="everyday or thorough, not 'some'"):
        commands("some", [])
