"""Test the HTML of tabs: text from anywhere stays text."""

from __future__ import annotations

import json
import re
from html import unescape
from math import log

from jet.api import SamplingParams, TokenLogprob
from jet.story.context import ContextBuilder
from jet.story.document import Document
from jet.story.guidance import AuthorsNote, Guidance, LoreEntry
from jet.story.pieces import Token
from jet.story.statistics import rest_of_word
from jet.ui import views

HOSTILE = "<img src=x onerror='a()'> \"quoted\" ${x} {{y}}"


def expect_harmless(html: str) -> None:
    """Expect the hostile text, with nothing of it as markup or template."""
    assert "<img" not in html and "${" not in html and "{{" not in html
    assert HOSTILE in unescape(html)


def test_branches_words_and_guidance_are_escaped() -> None:
    document = Document.from_text("A")
    other = document.fork(1)
    document.rename(other, HOSTILE)
    expect_harmless(views.branches(document.outline()))
    document.edit(f"A{HOSTILE}")
    expect_harmless(views.comparison(document.compare(document.current, 0)))
    guidance = Guidance(HOSTILE, AuthorsNote(HOSTILE), (LoreEntry(HOSTILE, (HOSTILE,), HOSTILE),), HOSTILE)
    for html in views.guidance(guidance).values():
        expect_harmless(html)
    built = ContextBuilder(lambda text: len(text.split())).build("A", guidance, 1000, 10)
    expect_harmless(views.context_view(built))


def test_alternatives_carry_the_command_that_selects_them() -> None:
    document = Document.from_text("A")
    others = (
        TokenLogprob(1, " one", log(0.5)),
        TokenLogprob(2, HOSTILE, log(0.25)),
        TokenLogprob(3, "\N{REPLACEMENT CHARACTER}", log(0.1)),
    )
    with document.start_continuation("model", SamplingParams(seed=7)) as continuation:
        continuation.append(" one", [Token(1, 4, log(0.5), others)])
    found = document.token_at(2)
    assert found is not None
    html = views.alternatives(found, document.generation(found.span), 1, document.guidance)
    assert "50.0 %" in html and "seed 7" in html and "<img" not in html
    assert "temperature 0.8, top-p 0.95, min-p 0.05, repetition penalty 1.05, at most 400, seed 7" in html
    orders = [json.loads(unescape(order)) for order in re.findall(r'data-generate="([^"]+)"', html)]
    assert orders[1] == {"type": "replace_token", "at": 1, "choice": 1}
    disabled = ["disabled" in button for button in re.findall(r"<button[^>]*>", html)]
    assert disabled == [True, False, True, False]  # what stands there, a part of a character, the settings


def test_other_words_are_whole_and_without_signs_for_blanks() -> None:
    document = Document.from_text("A")
    others = tuple(
        TokenLogprob(number, text, log(0.2))
        for number, text in enumerate(["graphs", "s", " and", ".\n\n", "\n", " "])
    )
    with document.start_continuation("model", SamplingParams(seed=7)) as continuation:
        continuation.append(" photographs", [Token(9, 6, log(0.5)), Token(0, 6, log(0.5), others)])
    found = document.token_at(8)
    assert found is not None
    word = rest_of_word(document.text, found.start, found.end)
    html = unescape(views.alternatives(found, None, 7, document.guidance, word))
    assert re.findall(r"<span>([^<]*)</span>", html) == [
        *("photographs", "photos", "photo and", "photo. ¶ new paragraph", "photo ↵ new line", "photo")
    ]
    assert rest_of_word(document.text, 1, 7) == ("", "graphs")
    assert rest_of_word("月が出た", 1, 2) == ("", "")


def test_words_tell_what_they_were_written_under() -> None:
    document = Document()
    document.guidance = Guidance("Rain.", lore=(LoreEntry(content="x"), LoreEntry(enabled=False)))
    document.stops = (HOSTILE, "\nThe End")
    with document.start_continuation("model", SamplingParams(seed=7)) as continuation:
        continuation.append(" one", [Token(1, 4, log(0.5), (TokenLogprob(1, " one", log(0.5)),))])
    found = document.token_at(1)
    assert found is not None
    generation = document.generation(found.span)
    html = views.alternatives(found, generation, 1, document.guidance)
    expect_harmless(html)
    assert r"“\nThe End”" in html and "With memory, 1 of the lorebook" in html
    assert "its guidance" not in html  # it is what is there now
    assert "its guidance" in views.alternatives(found, generation, 1, Guidance())


def test_the_history_is_empty_in_words() -> None:
    assert "Nothing has been written" in views.history([])


def test_long_texts_are_shortened_in_the_middle() -> None:
    document = Document.from_text("")
    document.fork(0)
    document.edit("begin " + "x" * 10_000 + " end")
    html = views.comparison(document.compare(document.current, 0))
    assert "begin" in html and " end" in html and len(html) < 5_000
