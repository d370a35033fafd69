"""All tests in two parts: `python -m tests.suite`, with arguments for pytest if wanted.

First those that drive a page in real time, one after the other and with nothing beside them; then all others,
each file in one of several processes. On two processors that takes two thirds of the time.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROCESSES = min(4, os.cpu_count() or 1)
PARTS = {
    "one after the other": ["-m", "alone"],
    f"in {PROCESSES} processes": ["-m", "not alone", "-n", str(PROCESSES), "--dist", "loadfile"],
}


def verdict(codes: list[int]) -> int:
    """The exit code of all parts. That one of them has no test that was asked for is no failure."""
    counted = [code for code in codes if code != pytest.ExitCode.NO_TESTS_COLLECTED]
    if any(code < 0 for code in counted):  # ended by a signal
        return int(pytest.ExitCode.TESTS_FAILED)
    return max(counted, default=int(pytest.ExitCode.NO_TESTS_COLLECTED))


def main(arguments: list[str]) -> int:
    codes = []
    for name, part in PARTS.items():
        print(f"\nTests {name}:", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", "pytest", *part, *arguments]).returncode)
    return verdict(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
