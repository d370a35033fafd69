"""Files as other programs write them are read with their meaning.

Each file in `real/` has the structure of a file found in public (keys, types and odd values as the program
wrote them) or was written by the program itself, and no word that anybody else wrote. What it says is in
`real/expected.json`, reviewed by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jet.files.reading import read
from jet.files.writing import write
from tests.files.told import told

REAL = Path(__file__).parent / "real"
EXPECTED = json.loads((REAL / "expected.json").read_text(encoding="utf-8"))
FILES = sorted(path.name for path in REAL.iterdir() if path.name != "expected.json")


def test_every_file_has_an_expectation() -> None:
    assert sorted(EXPECTED) == FILES
    assert len(FILES) >= 30


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_with_its_meaning(name: str) -> None:
    assert told(read(name, (REAL / name).read_bytes())) == EXPECTED[name]


@pytest.mark.parametrize("name", FILES)
def test_what_was_read_is_kept_as_it_is(name: str) -> None:
    document = read(name, (REAL / name).read_bytes()).document
    again = read("story.json", write(document, "json").data).document
    assert (again.tree, again.title, again.author, again.stops) == (
        document.tree,
        document.title,
        document.author,
        document.stops,
    )
