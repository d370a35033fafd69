"""Run the tests in two parts: `python -m tests.suite everyday`, `thorough` or `all`, and pytest options.

Tests that measure time run first, one after the other and alone. Then all others run, each file in one of
several processes.

The everyday run leaves out the thorough tests: many sizes of every kernel in Triton's interpreter, stories of
a megabyte, crowds of writers, break-ins. CI runs a part of them, another part at each commit:
JET_THOROUGH_PART=2/8 is the second of eight.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROCESSES = min(4, (os.cpu_count() or 1) + 1)  # one more: browsers and servers often wait
PARTS = {
    "one after the other": ("alone", []),
    # As they stand: sorted by how many tests they have, files with few long ones would come last.
    f"in {PROCESSES} processes": (
        "not alone",
        ["-n", str(PROCESSES), "--dist", "loadfile", "--no-loadscope-reorder"],
    ),
}
WHICH = {"everyday": " and not thorough", "thorough": " and thorough", "all": ""}


def verdict(codes: list[int]) -> int:
    """Return the exit code of all parts. A part without selected tests is no failure."""
    counted = [code for code in codes if code != pytest.ExitCode.NO_TESTS_COLLECTED]
    if any(code < 0 for code in counted):  # ended by a signal
        return int(pytest.ExitCode.TESTS_FAILED)
    return max(counted, default=int(pytest.ExitCode.NO_TESTS_COLLECTED))


def commands(which: str, arguments: list[str]) -> dict[str, list[str]]:
    """Return the commands of the parts, by name. Raises ValueError for a selection that is not in `WHICH`."""
    if which not in WHICH:
        raise ValueError(f"Tests are {', '.join(WHICH)}, not {which!r}.")
    found = {
        name: ["-m", marks + WHICH[which], *options, *arguments] for name, (marks, options) in PARTS.items()
    }
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        found["one after the other"] += files_alone()  # importing all others takes longer than these run
    return found


def split_thorough(items: list[pytest.Item], part: str) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests to run and the tests to leave out; of the thorough ones, only a part is run.

    The part of a test depends on its name alone, whatever other tests are selected.

    Args:
        items: the collected tests.
        part: number of the part, counted from 1, and number of parts, as in "2/4".
    """
    number, parts = map(int, part.split("/"))
    taken, left = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        is_other = (
            item.get_closest_marker("thorough") and zlib.crc32(item.nodeid.encode()) % parts != number - 1
        )
        (left if is_other else taken).append(item)
    return taken, left


def files_alone() -> list[str]:
    """Return the files that contain a test marked `alone`."""
    return sorted(str(path) for path in TESTS.rglob("test_*.py") if "mark.alone" in path.read_text("utf-8"))


def environment() -> dict[str, str]:
    """Return the environment for all test processes, in which compiled modules are kept.

    Without them, every process would compile the package and all tests again.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def main(which: str, *arguments: str) -> int:
    codes = []
    for name, part in commands(which, list(arguments)).items():
        print(f"\nTests {name}:", flush=True)
        run = subprocess.run([sys.executable, "-m", "pytest", *part], env=environment())
        codes.append(run.returncode)
    if which == "everyday":
        print("\nThe thorough tests were left out: `make test-thorough` has them.", flush=True)
    return verdict(codes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
