"""Test the analysis of prose on texts whose answer is known."""

from __future__ import annotations

import pytest

from jet.evaluate import text


@pytest.mark.parametrize(
    ("prose", "told"),
    [
        ("“I am here,” she said. “I know.”", "she said."),
        ('"I am," said Tom. "We are." He left.', "said Tom. He left."),
        ("‘I’m late,’ said Tom’s aunt, ‘and I don’t care.’", "said Tom’s aunt,"),
        (
            "It was the cats’ house, and the ‘oldest’ cat sat there.",
            "It was the cats’ house, and the cat sat there.",
        ),
        ("'Twas late. ‘Tis so.", "'Twas late. ‘Tis so."),
        ("“I never closed this.\n\nShe went on.", "She went on."),
        ("*I must go,* she thought. 2 * 3 * 4.", "she thought. 2 * 3 * 4."),
        ("", ""),
    ],
)
def test_narration_has_no_dialogue_and_no_thoughts(prose: str, told: str) -> None:
    assert text.narration(prose).split() == told.split()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("clocks", "clock"),
        ("crossed", "crossing"),
        ("story", "stories"),
        ("stopped", "stopping"),
        ("rule", "rules"),
    ],
)
def test_forms_of_a_word_have_one_stem(one: str, other: str) -> None:
    assert text.stem(one) == text.stem(other)


@pytest.mark.parametrize(
    ("one", "other"), [("glass", "glasses"), ("kiss", "kissed"), ("cat", "dog"), ("ship", "shop")]
)
def test_stems_of_short_and_other_words(one: str, other: str) -> None:
    assert (text.stem(one) == text.stem(other)) == (one[0] == other[0] and one[2] == other[2])


@pytest.mark.parametrize(
    ("prose", "name", "also_word", "count"),
    [
        ("Mara read it. Then Mara's crew woke, and Maram slept.", "Mara", False, 2),
        ("Will you come? Will they? It will rain.", "Will", True, 0),
        ("Will opened the door. Then Will sat.", "Will", True, 2),
        ("“Will you come?” she asked. “No,” said Will.", "Will", True, 1),
        ("Grace under pressure is rare. Grace's lamp went out.", "Grace", True, 1),
        ("Unit Seven swept. The unit seven was old.", "Unit Seven", False, 1),
    ],
)
def test_mentions_of_names_that_may_be_words(prose: str, name: str, also_word: bool, count: int) -> None:
    assert text.mentions(prose, name, also_word) == count


def test_people_are_those_who_act_or_speak() -> None:
    prose = (
        "Leo nodded, and Mrs. Pike smiled at Leo. “Everybody laughed,” said Ada. The River Tamm was wide. "
        "On Monday she came to Kesh. Suddenly I’ve heard it. Villagers gathered. Inspector Hale left."
    )
    assert dict(text.people(prose)) == {"Leo": 2, "Pike": 1, "Ada": 1, "Hale": 1}
    assert text.last_named(prose) == "Hale"
    assert text.last_named("They went on.") == ""


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        ("Chapter 2: The Journey Begins", True),
        ("**Chapter Two**", True),
        ("# CHAPTER IX", True),
        ("Part One", True),
        ("Epilogue", True),
        ("Chapter the Last", True),
        ("Chapter 2: Who Was There?", True),
        ("Chapter 3.", True),
        ("Chapter two of his book lay open on the table.", False),
        ("“Chapter 2,” she read aloud.", False),
        ("She opened the book at Chapter 2", False),
        ("Part of him wanted to stay.", False),
        ("Chapters are long", False),
    ],
)
def test_headings_are_lines_of_their_own(line: str, is_heading: bool) -> None:
    assert text.headings(f"Before.\n\n{line}\n\nAfter.") == ([line] if is_heading else [])


def test_words_are_counted_and_cut() -> None:
    prose = "“Well-known,” she said—it’s  \n\n over, isn't it?"
    assert text.words(prose) == ["Well-known", "she", "said", "it’s", "over", "isn't", "it"]
    assert text.first_words(prose, 3) == "“Well-known,” she said"
    assert text.first_words(prose, 99) == prose
    assert text.words(text.last_half(prose)) == ["it’s", "over", "isn't", "it"]
    assert text.last_half("") == ""
    assert list(text.grams("A b C d", 3)) == [("a", "b", "c"), ("b", "c", "d")]


def test_content_words_leave_out_functions_and_names() -> None:
    found = text.content_words("The old clocks said nothing. Then the forest whispered to Mara about clocks.")
    assert found == {text.stem(word) for word in ("clock", "forest", "whispered")}
