"""Test that files as other programs write them are read with their meaning.

Each file in `real/` was written by the program itself, or has the keys, types and odd values of a file found
in public. None contains a word that anybody else wrote. `real/README.md` says where each is from.
`real/expected.json` says what each means, checked against the code of the program that wrote it.
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
ABOUT = (REAL / "README.md").read_text(encoding="utf-8")
FILES = sorted(path.name for path in REAL.iterdir() if path.name not in ("expected.json", "README.md"))


def test_every_file_has_an_expectation() -> None:
    assert sorted(EXPECTED) == FILES
    assert len(FILES) >= 30


def test_thirty_files_were_found_in_public() -> None:
    found = [line for line in ABOUT.splitlines() if line.startswith("| `")]
    named = [name for line in found for name in line.split("|")[1].replace("`", "").split(", ")]
    assert len({name.strip() for name in named} & set(FILES)) >= 30


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
