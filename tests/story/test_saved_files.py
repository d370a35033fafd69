"""Test that files of an earlier version are read unchanged, and saved again byte for byte.

`saved/` contains files written by commit 7171864: stories of several kinds, a browser's copy, text and
markdown. It also has a KoboldAI save that this commit could read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jet.story.files import from_json, to_json, to_markdown, to_txt
from jet.story.guidance import AuthorsNote
from tests.story.factory import read_file

SAVED = Path(__file__).parent / "saved"


def saved(name: str) -> bytes:
    return (SAVED / name).read_bytes()


@pytest.mark.parametrize("name", ["writer", "everything", "branches", "browser-copy"])
def test_a_saved_story_is_saved_again_byte_for_byte(name: str) -> None:
    data = saved(f"{name}.json")
    assert to_json(read_file(f"{name}.json", data)).encode() == data


def test_everything_of_a_saved_story_is_read() -> None:
    document = from_json(saved("everything.json").decode())
    assert (document.title, document.sampling.top_k) == ("The # Tower", 40)
    assert document.stops == ("The End", " 語")
    guidance = document.guidance
    assert (guidance.memory, guidance.note.text, guidance.about) == ("Another", "Note", "a fox")
    assert (guidance.lore[0].keywords, guidance.lore[0].scan_unit) == (("tower", "turm"), "paragraphs")
    assert [view.name for view in document.outline()] == ["", "Another", ""]
    written = [found for found in document.ranges() if found.author == "model"]
    generation = document.generation(written[-1].span)
    assert generation is not None
    assert generation.guidance == guidance
    assert generation.stops == document.stops
    assert [token.length for token in generation.tokens] == [4, 5]


def test_a_saved_branch_keeps_the_alternatives_of_its_tokens() -> None:
    document = from_json(saved("branches.json").decode())
    assert len(document.tree.branches) == 5
    token = document.token_at(len("The door opened.") + 1)
    assert token is not None
    assert [other.text for other in token.token.alternatives] == [" was", " did"]


def test_text_and_markdown_are_read_and_saved_as_they_were() -> None:
    for name, save in (("story.txt", to_txt), ("story.md", to_markdown)):
        data = saved(name)
        assert save(read_file(name, data)).encode() == data


def test_line_breaks_of_windows_become_ours_and_every_character_keeps_its_author() -> None:
    document = from_json(saved("line-breaks.json").decode())
    assert document.text == "One\nTwo\nThree\n four\n five"
    assert [(document.text[r.start : r.end], r.author) for r in document.ranges()] == [
        ("One\nTwo\nThree\n", "writer"),
        (" four\n", "model"),
        (" five", "writer"),
    ]


def test_a_save_of_koboldai_is_read() -> None:
    remarks: list[str] = []
    document = from_json(saved("kobold.json").decode(), remarks)
    assert document.text == "Once upon a time."
    assert document.guidance.memory == "A tale."
    assert document.guidance.note == AuthorsNote("Calm.")
    told = [(entry.keywords, entry.content, entry.constant) for entry in document.guidance.lore]
    assert told == [(("tower", "keep"), "Tall.", False), (("sea",), "Deep.", True)]
    assert remarks == []
