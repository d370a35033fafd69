"""Test the rules by which continuations are judged, on texts whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jet.engine.heeds import FIELDS
from jet.evaluate import measures
from jet.evaluate.measures import Opening
from jet.evaluate.probes import load_probes
from jet.evaluate.text import mentions, words
from jet.story.context import is_triggered

MARA = Opening("space", "Captain Mara read it twice before she woke the crew.", ("Mara",), pronoun="she")
WILL = Opening("skis", "Will read it standing in the doorway.", ("Will",), True, "he")
NARRATOR = Opening("tuner", "I was the last piano tuner.", person="first")
PRESENT = Opening("train", "Ilse sits in the last carriage.", ("Ilse",), pronoun="she", tense="present")
FILLER = "The ship hummed in the dark and the stars were far away. " * 3


@pytest.mark.parametrize(
    ("opening", "continuation", "there", "leads"),
    [
        (MARA, FILLER + "Then Mara slept.", True, True),
        (MARA, "Then Mara slept. " + FILLER + "She dreamed of home.", True, True),
        (MARA, FILLER + "She dreamed of home.", True, True),  # no other is named
        (MARA, "Then Leo woke. Leo nodded. " + FILLER + "She dreamed of home.", False, False),  # whose dream?
        (MARA, FILLER + "Leo nodded. Leo went away with Leo’s dog and Mara.", True, False),
        (MARA, FILLER + "The crew went home.", False, False),
        (MARA, "Mara slept. " + FILLER + "He dreamed.", False, False),
        (WILL, FILLER + "Will they come back? It will rain. Leo nodded.", False, False),
        (WILL, FILLER + "Will took the boots.", True, True),
        (NARRATOR, FILLER, None, None),
    ],
)
def test_the_named_person(
    opening: Opening, continuation: str, there: bool | None, leads: bool | None
) -> None:
    assert measures.person_is_there(opening, continuation) is there
    assert measures.person_leads(opening, continuation) is leads


@pytest.mark.parametrize(
    ("opening", "continuation", "switched"),
    [
        (
            MARA,
            "She looked at him. “I know what I want, and I want my ship,” she said. “We are mine.”",
            False,
        ),
        (MARA, "I looked at my hands. I knew me. I slept.", True),
        (MARA, "She slept and she woke. She sang to herself. I took my coat, and I left with my dog.", True),
        (MARA, "*I must go. I must, I must, I must,* she thought, and she went.", False),
        (MARA, "I do not know.", False),  # too little to tell
        (NARRATOR, "I looked at her. She took her coat and left me.", False),
        (NARRATOR, "She took her coat. “I am my own,” she said. She left him.", True),
        (NARRATOR, "I slept. I woke. " + "She saw him, and he saw her. They left. " * 2, True),
    ],
)
def test_the_person_of_the_narration(opening: Opening, continuation: str, switched: bool) -> None:
    assert measures.person_switched(opening, continuation) is switched


@pytest.mark.parametrize(
    ("opening", "continuation", "switched"),
    [
        (
            MARA,
            "She was there and had a lamp. “It is dark, it is cold, he is gone!” She went on. He knew.",
            False,
        ),
        (MARA, "She is there and has a lamp. She knows that it is late.", True),
        (
            MARA,
            "She was there, it was late, she had it, he knew. "
            + "She is here, she sees, she knows, she has it. ",
            True,
        ),
        (
            PRESENT,
            "She is there and has a lamp. “It was late, he was gone, he had it,” she says. She knows.",
            False,
        ),
        (PRESENT, "She was there and had a lamp. She knew that it was late.", True),
        (MARA, "Rain. Wind. She was there.", None),
        (Opening("letter", "By then I will have gone.", tense=None), "She is. He is. It is. They are.", None),
    ],
)
def test_the_tense_of_the_narration(opening: Opening, continuation: str, switched: bool | None) -> None:
    assert measures.tense_switched(opening, continuation) is switched


def test_chapters_count_only_where_the_opening_has_none() -> None:
    plain, titled = MARA, Opening("t", "The Mill\n\nChapter 1: Flour\n\nIt was late.")
    added = "She slept.\n\nChapter 2: The Journey\n\nShe woke."
    assert measures.adds_chapter(plain, added) and not measures.adds_chapter(titled, added)
    assert not measures.adds_chapter(plain, "“Chapter 2: The Journey,” she read.\n\nPart of it was true.")
    assert measures.adds_chapter(Opening("m", "The Missing Violin\n\nHale saw it."), added)


def test_premises_are_kept_against_those_of_others() -> None:
    clock = Opening("clock", "The clocks of the forest spoke.")
    desert = Opening("desert", "The camels crossed the desert.")
    continuation = "A clock ticked in the forests, and a camel slept."
    assert measures.premise_kept(clock, continuation) == pytest.approx(2 / 3)
    assert measures.premise_of_others([clock, desert], clock, continuation) == pytest.approx(1 / 3)
    assert measures.premise_kept(MARA, "Mara") == 0.0  # a name is no subject
    assert measures.premise_kept(Opening("x", "It was."), "It was.") is None


def test_stock_phrases_and_grams() -> None:
    assert (
        measures.count_matches(
            ["whisper\\w*", "couldn't help but"], "A WHISPER. He couldn’t help but whisper."
        )
        == 3
    )
    assert measures.count_matches(["rain\\w*"], "The train strained.") == 0
    assert measures.per_thousand_words(["nestled"], ["nestled here " * 5, "and there " * 5]) == 250
    assert measures.distinct_grams(["a b c d e"]) == 1.0
    assert measures.distinct_grams(["a b c d", "A b, c d!"]) == 0.5
    assert measures.distinct_within(["a b c d", "A b, c d!"]) == 1.0


def test_pieces_of_other_stories_have_the_same_lengths() -> None:
    documents = ["one two three four\n\nfive six seven eight nine ten", "short one"]
    pieces = measures.samples_like(["a b c d e", "a b", "x " * 99], documents)
    assert [len(words(piece)) for piece in pieces] == [5, 2]
    assert pieces == measures.samples_like(["a b c d e", "a b", "x " * 99], documents)


def test_words_that_are_none() -> None:
    is_word = measures.dictionary()
    assert is_word is not None
    real = (
        "The children’s favourite colours shimmered; they couldn’t recognise the moonlit harbours. "
        "Zyxgo’s dupatta-like café naïveté, unopened mailboxes and overgrown lighthouses didn't matter."
    )
    assert measures.non_words(real, is_word, given="a dupatta") == []
    odd = "She glimbered at the thraskle, t tick, and Vorn's vorn; the blorf-tree fell."
    assert measures.non_words(odd, is_word) == ["glimbered", "thraskle", "t", "blorf-tree"]


def test_the_frozen_probes_fit_together() -> None:
    probes = load_probes()
    page = json.loads((Path(__file__).parents[2] / "assets" / "prompts.json").read_text(encoding="utf-8"))
    assert [opening.text for opening in probes.openings[:12]] == [one["text"] for one in page]
    assert len({opening.text for opening in probes.openings}) == 24
    for opening in probes.openings:
        assert any(mentions(opening.text, name, False) for name in opening.names) or not opening.names
        assert bool(opening.pronoun) == bool(opening.names)
        assert opening.person in ("first", "third") and opening.tense in ("past", "present", None)
        assert measures.premise_words(opening)
        assert measures.person_switched(opening, opening.text) is False
        assert measures.tense_switched(opening, opening.text) in (False, None)
    for probe in probes.told:
        assert probe.shows_in(probe.text * probe.least) or probe.kind == "mood", probe.id
        assert not probe.shows_in(probe.opening.text), probe.id
        for entry in probe.guidance().lore:
            assert is_triggered(entry, probe.opening.text), probe.id
    assert {name: len(probes.of_field(name)) for name in FIELDS} == {
        "memory": 12,
        "note": 12,
        "lore": 10,
        "about": 6,
    }
