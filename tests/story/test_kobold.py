"""Test that saves of KoboldAI Lite and United keep their meaning, and that losses are reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.story.context import is_triggered
from jet.story.document import Document
from jet.story.files import from_json, to_json
from jet.story.guidance import MAX_SCAN, AuthorsNote, LoreEntry
from tests.story.factory import read_file

ENTRY = {
    "key": "tower,keep",
    "keysecondary": "",
    "keyanti": "",
    "content": "Tall.",
    "comment": "",
    "folder": None,
    "selective": False,
    "constant": False,
    "probability": "100",
    "wigroup": "",
    "widisabled": False,
}
SAVE: dict[str, Any] = {
    "gamestarted": True,
    "prompt": "Once",
    "memory": "A tale.",
    "authorsnote": "Calm.",
    "anotetemplate": "[Author's note: <|>]",
    "actions": [" upon", "\r\na time"],
    "actions_metadata": {},
    "worldinfo": [ENTRY],
    "wisearchdepth": 0,
    "anotestr": 320,
    "personal_notes": "",
}
UNITED: dict[str, Any] = {
    "file_version": 2,
    "prompt": "Once",
    "memory": "A tale.",
    "authornote": "Calm.",
    "authornotetemplate": "[Author's note: <|>]",
    "story_name": "The Tower",
    "actions": {
        "action_count": 10,
        "actions": {
            str(n): {"Selected Text": f" {n}", "Options": [], "Probabilities": []} for n in (10, 2, 1, 0)
        },
    },
    "worldinfo_v2": {
        "folders": {"root": ["0"]},
        "entries": {
            "0": {
                "uid": 0,
                "title": "Doe",
                "key": ["Doe, John"],
                "keysecondary": ["night"],
                "selective": True,
                "constant": False,
                "content": "A man.",
                "manual_text": "A man.",
                "comment": "",
                "type": "wi",
            },
            "1": {"title": "x", "key": [], "keysecondary": [], "content": "Always.", "type": "constant"},
        },
    },
}


def read(save: dict[str, Any], **changes: Any) -> tuple[Document, list[str]]:
    """Return the story of a save and the messages about it."""
    remarks: list[str] = []
    return from_json(json.dumps(save | changes), remarks), remarks


def entry(**changes: Any) -> tuple[LoreEntry, list[str]]:
    document, remarks = read(SAVE, worldinfo=[ENTRY | changes])
    return document.guidance.lore[0], remarks


def test_a_plain_save_loses_nothing() -> None:
    document, remarks = read(SAVE)
    assert document.text == "Once upon\na time"
    assert (document.guidance.memory, document.guidance.note) == ("A tale.", AuthorsNote("Calm."))
    assert remarks == []


def test_keys_match_parts_of_words_and_everything_is_searched() -> None:
    found, _ = entry()
    assert is_triggered(found, "the WATCHTOWERS" + " and on" * 5_000)
    assert found.scan_depth == MAX_SCAN
    assert read(SAVE, wisearchdepth=500)[0].guidance.lore[0].scan_depth == 500
    assert not is_triggered(found, "a house")


def test_an_entry_that_was_switched_off_stays_off() -> None:
    assert not entry(widisabled=True)[0].enabled
    assert entry()[0].enabled


def test_second_and_anti_keys_hold() -> None:
    found, _ = entry(selective=True, keysecondary="night, dusk", keyanti="ruin")
    assert is_triggered(found, "a tower by night")
    assert not is_triggered(found, "a tower by day")
    assert not is_triggered(found, "a ruin of a tower by night")
    again = from_json(to_json(read(SAVE, worldinfo=[ENTRY | {"selective": True, "keyanti": "ruin"}])[0]))
    assert again.guidance.lore[0].anti_keywords == ("ruin",)


def test_keys_that_are_not_in_use_are_not() -> None:
    found, _ = entry(selective=False, keysecondary="night", keyanti="ruin")
    assert is_triggered(found, "a tower in ruins")


def test_case_counts_where_it_did() -> None:
    document, _ = read(SAVE, savedsettings={"case_sensitive_wi": True})
    assert not is_triggered(document.guidance.lore[0], "a TOWER")


def test_pictures_are_named_and_leave_no_marks() -> None:
    actions = [" upon[<|p|12345|p|>]", "[<|h|abc|h|>] a [<|d|x|d|>]time"]
    document, remarks = read(SAVE, actions=actions)
    assert document.text == "Once upon a time"
    assert remarks == ["3 pictures"]


def test_format_two_of_united() -> None:
    document, remarks = read(UNITED)
    assert document.text == "Once 0 1 2 10"
    assert document.title == "The Tower"
    assert document.guidance.note == AuthorsNote("Calm.")
    one, other = document.guidance.lore
    assert (one.title, one.keywords, one.secondary_keywords) == ("Doe", ("Doe, John",), ("night",))
    assert is_triggered(one, "Doe, Johnny at night") and not is_triggered(one, "doe, john at night")
    assert (other.constant, other.content) == (True, "Always.")
    assert remarks == []


@pytest.mark.parametrize(
    ("changes", "depth"),
    [
        ({}, 3),
        ({"anotestr": 320}, 3),
        ({"anotestr": "480"}, 4),
        ({"anotestr": "160"}, 1),
        ({"anotestr": 0}, 1),
        ({"andepth": 6}, 6),
        ({"andepth": "x"}, 3),
        ({"anotestr": 10**12}, 1_000),
    ],
)
def test_the_authors_note_keeps_its_depth(changes: dict[str, Any], depth: int) -> None:
    save = {name: value for name, value in SAVE.items() if name != "anotestr"}
    document, _ = read(save, authorsnote="Slow.", **changes)
    assert document.guidance.note.depth == depth


def test_trains_of_thought_are_no_text() -> None:
    prompt = "One. <think>hm\n</think>Two. <think>ah</think>Three. <think>open"
    document, remarks = read(SAVE, prompt=prompt, actions=[])
    assert document.text == "One. Two. Three. <think>open"
    assert "2 trains of thought" in remarks
    own = {"start_thinking_tag": "[r]", "stop_thinking_tag": "[/r]"}
    assert read(SAVE, prompt="[r]x[/r]One.", actions=[], savedsettings=own)[0].text == "One."


def test_texts_to_stop_at_are_kept() -> None:
    document, _ = read(SAVE, savedsettings={"extrastopseq": r"\n\n||$||The End"})
    assert document.stops == ("\n\n", "The End")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"worldinfo": [ENTRY | {"probability": "10"}]}, "sent by chance (10 %)"),
        ({"anotetemplate": "<note><|></note>"}, "frame around the author’s note"),
        ({"anotestr": 40}, "where exactly the author’s note stands"),
        ({"altbranches": [["a"]]}, "other branches"),
        ({"personal_notes": "x"}, "personal notes"),
        ({"savedsettings": {"temperature": 1}}, "its settings"),
        ({"actions": [" upon", 7]}, "1 part of the text that is not text"),
        ({"worldinfo": [ENTRY, 7]}, "1 lore entry that cannot be read"),
        ({"worldinfo": [ENTRY, ENTRY | {"content": 7}]}, "the lore entry “tower, keep”"),
        ({"memory": 7}, "“memory”"),
        ({"wiinsertlocation": 1}, "where the lore stands"),
    ],
)
def test_what_could_not_be_kept_is_said(changes: dict[str, Any], said: str) -> None:
    document, remarks = read(SAVE, **changes)
    assert len(remarks) == 1 and said in remarks[0]
    assert document.text.startswith("Once upon")
    assert len(document.guidance.lore) == 1


@pytest.mark.parametrize("name", sorted(SAVE.keys() - {"actions", "prompt"}))
def test_null_is_none(name: str) -> None:
    assert read(SAVE, **{name: None})[0].text == "Once upon\na time"


@pytest.mark.parametrize("name", sorted(ENTRY))
def test_null_in_an_entry_is_none(name: str) -> None:
    document, _ = read(SAVE, worldinfo=[ENTRY | {name: None}, ENTRY])
    assert document.guidance.lore[-1].content == "Tall."
    assert read(SAVE, worldinfo=[None, ENTRY], actions=[None, " upon"])[0].text == "Once upon"


def test_numbers_beyond_all_bounds_are_none() -> None:
    huge = 10**400
    document, _ = read(SAVE, wisearchdepth=huge, worldinfo=[ENTRY | {"probability": huge}])
    assert (document.text, document.guidance.lore[0].content) == ("Once upon\na time", "Tall.")


garbage = (
    st.none() | st.booleans() | st.integers(-3, 200) | st.text(max_size=5) | st.just([]) | st.just({"a": 1})
)


@given(st.sampled_from([SAVE, UNITED]), st.data())
@settings(max_examples=100, deadline=None)
def test_one_bad_value_costs_no_story(save: dict[str, Any], data: st.DataObject) -> None:
    plain = json.loads(json.dumps(save))
    at: Any = plain
    for _ in range(data.draw(st.integers(1, 5))):
        if not isinstance(at, (dict, list)) or not at:
            break
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
        if data.draw(st.booleans()) or not isinstance(at[key], (dict, list)):
            at[key] = data.draw(garbage)
            break
        at = at[key]
    document = read_file("a.json", json.dumps(plain).encode())
    assert isinstance(document.text, str)
    to_json(document)
