from __future__ import annotations

import random
import time

from hypothesis import given
from hypothesis import strategies as st

from jet.story.diff import Change, changes
from tests.story.factory import any_text, texts


def apply(old: str, found: list[Change]) -> str:
    parts, at = [], 0
    for change in found:
        assert at <= change.start <= change.end <= len(old)
        parts += [old[at : change.start], change.text]
        at = change.end
    return "".join([*parts, old[at:]])


@given(st.one_of(texts, any_text), st.one_of(texts, any_text))
def test_changes_turn_one_text_into_the_other(old: str, new: str) -> None:
    found = changes(old, new)
    assert apply(old, found) == new
    assert bool(found) == (old != new)


@given(
    st.lists(st.sampled_from(["Tom", "saw", "Ann", " ", "\n", "long sentence here. "]), max_size=60),
    st.data(),
)
def test_changes_of_texts_that_have_much_in_common(words: list[str], data: st.DataObject) -> None:
    old = "".join(words)
    kept = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    new = "".join(
        word if keep else data.draw(st.sampled_from(["", "Tim"]))
        for word, keep in zip(words, kept, strict=True)
    )
    assert apply(old, changes(old, new)) == new


def test_one_region_for_one_change() -> None:
    assert changes("the cat sat", "the black cat sat") == [Change(4, 4, "black ")]
    assert changes("aaaa", "aaa") == [Change(3, 4, "")]
    assert changes("", "new") == [Change(0, 0, "new")]


def test_a_name_replaced_throughout_changes_only_the_name() -> None:
    sentences = [f"In year {n}, Tom walked to house number {n * 7} and slept.\n" for n in range(50)]
    old = "".join(sentences)
    found = changes(old, old.replace("Tom", "Harriet"))
    assert len(found) == 50
    assert sum(change.end - change.start for change in found) <= 50 * 3
    one_line = old.replace("\n", " ")
    assert len(changes(one_line, one_line.replace("Tom", "Harriet"))) > 40


def test_a_moved_paragraph_leaves_the_others_alone() -> None:
    paragraphs = [f"Paragraph {n} tells of things that happened on day {n}.\n\n" for n in range(20)]
    moved = [*paragraphs[:3], *paragraphs[4:15], paragraphs[3], *paragraphs[15:]]
    found = changes("".join(paragraphs), "".join(moved))
    assert sum(len(change.text) for change in found) < 2 * len(paragraphs[3])


def test_hostile_texts_are_not_slow() -> None:
    letters = random.Random(0)
    size = 500_000
    pairs = [
        ("ab" * (size // 2), "ba" * (size // 2)),
        ("a b " * (size // 4), "b a\n" * (size // 4)),
        ("".join(letters.choices("abc \n", k=size)), "".join(letters.choices("abc \n", k=size))),
    ]
    start = time.process_time()
    for old, new in pairs:
        assert apply(old, changes(old, new)) == new
    assert time.process_time() - start < 10
