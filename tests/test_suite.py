"""The two parts of the tests count as one."""

from __future__ import annotations

import pytest

from tests.suite import verdict

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
