"""Test the speed of long stories. The bounds are loose for busy machines, but quadratic code exceeds them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from jet.story.document import Document
from jet.story.files import from_json, to_browser, to_json
from tests.story.factory import MODEL, SAMPLING, fill

SPANS = 400
MANY = 30  # times everything is done


@pytest.fixture(scope="module")
def long_story() -> Document:
    """Return a story of 600 KB, written in turns, with 800 spans and edits in many places."""
    draw = random.Random(0)
    document = Document()
    for number in range(SPANS):
        words = [f" {draw.choice(['the', 'a', 'old', 'sea'])}{number}" for _ in range(120)]
        fill(document.start_continuation(MODEL, SAMPLING), "".join(words), "\n")
        document.edit(document.text + "And then, as I wrote, " * 40 + "\n")
    for _ in range(20):
        document.fork(draw.randrange(len(document.text)))
        document.select_branch(0)
    assert len(document.text) > 500_000
    return document


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(MANY):
        action()
    return (time.perf_counter() - start) / MANY


def test_keystrokes(long_story: Document) -> None:
    def type_a_letter() -> None:
        text = long_story.text
        long_story.edit(text[:250_000] + "x" + text[250_000:])

    assert seconds(type_a_letter) < 0.05
    assert seconds(long_story.undo) < 0.01


def test_streaming(long_story: Document) -> None:
    with long_story.start_continuation(MODEL, SAMPLING, at=300_000) as continuation:
        assert seconds(lambda: (continuation.append(" word"), long_story.text, long_story.ranges())) < 0.05
    long_story.undo()


def test_the_branches_on_show(long_story: Document) -> None:
    start = time.perf_counter()
    assert len(long_story.outline()) == 21
    long_story.compare(*sorted(long_story.tree.branches)[1:3])
    assert time.perf_counter() - start < 2


def test_replacing_throughout(long_story: Document) -> None:
    start = time.perf_counter()
    old = long_story.text
    long_story.edit(old.replace("And then", "Only then"))
    authors = {found.author for found in long_story.ranges()}
    long_story.undo()
    assert long_story.text == old
    assert authors == {"model", "writer"}
    assert time.perf_counter() - start < 5


def test_files(long_story: Document) -> None:
    start = time.perf_counter()
    kept = to_json(long_story)
    assert from_json(kept).tree == long_story.tree
    assert to_browser(long_story).fits
    assert time.perf_counter() - start < 5
