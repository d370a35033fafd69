"""Test that words are counted by author, and as the page counts them."""

from __future__ import annotations

import json

import pytest

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.statistics import words_by_author
from tests.web.node import run_node

TEXTS = (
    "It’s the lighthouse-keeper's 3rd cup.",
    "昔々あるところに。 Donaudampfschiff, naïve café",
    "“Go!” she said — don't… 1.5 km",
    "",
)


def test_words_are_whose_began_them() -> None:
    document = Document.from_text("Ann wal")
    with document.start_continuation("a model", SamplingParams()) as continuation:
        continuation.append("ked home. Then she")
        continuation.finish("length")
    document.edit(document.text + " slept well.")
    assert words_by_author(document.tree.branch()) == (4, 3)


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_that_the_page_counts(text: str) -> None:
    program = f"""import {{ countWords }} from "./assets/web/word_count.js";
        console.log(countWords({json.dumps(text)}));"""
    done = run_node("--input-type=module", "-e", program)
    assert done.returncode == 0, done.stderr
    assert words_by_author(Document.from_text(text).tree.branch()) == (int(done.stdout), 0)
