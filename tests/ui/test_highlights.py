"""Test highlights of the editor: ranges in UTF-16 units, with neighbors merged."""

from __future__ import annotations

from math import log

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.pieces import Token
from jet.ui import highlights

DRAGON = "\N{DRAGON}"  # two of the browser's units


def written(*words: tuple[str, float]) -> Document:
    """Return a story with these words of the model, each with its probability, after a dragon emoji."""
    document = Document.from_text(DRAGON)
    with document.start_continuation("model", SamplingParams(seed=1)) as continuation:
        for number, (word, probability) in enumerate(words):
            continuation.append(word, [Token(number, len(word), log(probability))])
    return document


def test_the_models_words_are_one_range_until_the_writer_comes_between() -> None:
    document = written((" one", 0.9), (f" {DRAGON}", 0.9))
    assert highlights.authorship(document) == [2, 9, 0]
    document.edit(f"{DRAGON} o-ne {DRAGON}")
    assert highlights.authorship(document) == [2, 4, 0, 5, 10, 0]


def test_only_the_latest_continuation_glows_wherever_it_stands() -> None:
    document = written((" one", 0.9))
    with document.start_continuation("model", SamplingParams(seed=1), at=3) as continuation:
        continuation.append(" two", [Token(1, 4, log(0.9))])
    assert document.text == f"{DRAGON} o twone"
    assert highlights.latest(document) == [4, 8, 0] and highlights.authorship(document) == [2, 10, 0]
    document.edit(f"{DRAGON} o tXwone")
    assert highlights.latest(document) == [4, 6, 0, 7, 9, 0]
    document.undo()
    document.undo()
    assert highlights.latest(document) == [2, 6, 0]


def test_words_are_the_more_doubtful_the_less_likely_they_were() -> None:
    document = written((" a", 0.9), (" b", 0.4), (" c", 0.4), (" d", 0.1), (" e", 0.01))
    assert highlights.confidence(document) == [4, 8, 1, 8, 10, 2, 10, 12, 3]


def test_a_writers_story_is_not_painted() -> None:
    document = Document.from_text("All mine.")
    assert [paint(document) for paint in highlights.HIGHLIGHTS.values()] == [[]] * 4
