"""What the README says of speed stands in the reports that it names, and nothing of it elsewhere."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

FIGURE = re.compile(r"[\d,]*\d(?:\.\d+)?(?: tok/s|%)")
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## How fast\n")[2].partition("\n## ")[0]
ROWS = [line for line in SECTION.splitlines() if "report.md" in line]


@pytest.mark.parametrize("row", ROWS)
def test_figures_stand_in_the_report_beside_them(row: str) -> None:
    (path,) = re.findall(r"\((docs/reports/[^)]+)\)", row)
    told = set(FIGURE.findall((ROOT / path).read_text(encoding="utf-8")))
    figures = FIGURE.findall(row)
    assert figures and set(figures) <= told


def test_there_are_no_figures_of_speed_elsewhere() -> None:
    assert len(ROWS) > 3
    assert not re.search(r"\d (?:tok/s|tokens a second|tokens/s)", TEXT.replace(SECTION, ""))
