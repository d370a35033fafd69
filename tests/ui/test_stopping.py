"""Test stop strings in streams: tokens stay with their text, and a match at the very start is skipped."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jet.api import RequestStats, TokenChunk, TokenLogprob, TokenLogprobs
from jet.story.document import Document
from jet.ui.stop_strings import StopStringFilter, format_stop, parse_stop
from tests.story.factory import MODEL, SAMPLING

VOCABULARY = [
    " **",
    " *",
    " was",
    "*",
    "* ",
    " ",
    "\n",
    "\n\n",
    "The",
    " End",
    " the",
    "a",
    "ab",
    "aab",
    ".",
    "語",
]
STOPS = ["* * *", "\n\n", "\nThe End", "aab", ".", " *", "ab", "\n", "a語"]


def cut(text: str, stops: list[str]) -> str:
    """Cut a text at the first stop string, by definition."""
    at = 0
    while whole := [len(stop) for stop in stops if text.startswith(stop, at)]:
        at += max(whole)
    ends = [found for stop in stops if (found := text.find(stop, at)) >= 0]
    return text[: min(ends, default=len(text))]


def streamed(tokens: list[str], stops: list[str], sizes: list[int]) -> Document:
    """Stream these tokens into a story, a number of them per chunk, and return it."""
    document = Document.from_text("Once")
    stop_filter = StopStringFilter(stops)
    stats, done = RequestStats(phase="decode"), RequestStats(phase="done", finish_reason="length")
    with document.start_continuation(MODEL, SAMPLING) as continuation:
        at = 0
        for size in [*sizes, len(tokens)]:
            row = range(at, min(at + size, len(tokens)))
            details = tuple(TokenLogprobs(TokenLogprob(id, tokens[id], -0.5), ()) for id in row)
            at = row.stop
            chunk = TokenChunk("".join(tokens[id] for id in row), tuple(row), stats, details)
            continuation.add_chunk(stop_filter.filter(chunk))
            if stop_filter.matched:
                break
        continuation.add_chunk(stop_filter.filter(TokenChunk("", (), done)))
    return document


@given(
    st.lists(st.sampled_from(VOCABULARY), max_size=14),
    st.lists(st.sampled_from(STOPS), max_size=3),
    st.lists(st.integers(0, 3), max_size=20),
)
@example([" **", " *", " was"], ["* * *"], [1, 1, 1])
@example(["a", "\n", "The", " Enemy"], ["\nThe End"], [1, 1, 1, 1])
@example([" *", " *", " **"], ["* * *"], [1, 1, 1])
@example(["ab", "a"], ["aab", "ab"], [1, 1])
@example([".", "\n\n", ".", " was", "."], [".", "\n\n"], [2, 1, 1, 1])
@settings(max_examples=200, deadline=None)
def test_every_token_stays_with_its_text(tokens: list[str], stops: list[str], sizes: list[int]) -> None:
    document = streamed(tokens, stops, sizes)
    text = cut("".join(tokens), stops)
    assert document.text == "Once" + text
    at = 4
    for number, found in enumerate(document.tokens()):
        assert found.token.id == number
        whole = tokens[number]
        # The last one may be cut; all others are whole and stand where they were drawn.
        assert found.start == at
        assert document.text[found.start : found.end] == whole[: len(document.text) - at]
        at = found.end
    assert at == len(document.text)


def test_a_stop_at_the_very_beginning_is_skipped() -> None:
    for stop, text, wanted in (
        (".", ". And then. No", ". And then"),
        ("\n", "\n\nThen she\nleft", "\n\nThen she"),
        ("\n\n", "\n\nOne\n\ntwo", "\n\nOne"),
        ("The End", "The EndThe End. More. The End", "The EndThe End. More. "),
        ("***", "***", "***"),
        (".", "", ""),
    ):
        for size in (1, 2, 100):
            stop_filter = StopStringFilter([stop])
            pieces = [text[at : at + size] for at in range(0, len(text), size)]
            assert "".join(map(stop_filter.push, pieces)) + stop_filter.push("", last=True) == wanted
            assert stop_filter.matched == (wanted != text)


@given(st.text(st.sampled_from('\\nt\n\t a"'), max_size=12))
def test_a_stop_string_is_read_back_from_its_line(stop: str) -> None:
    assert parse_stop(format_stop(stop)) == stop
    assert "\n" not in format_stop(stop)


@pytest.mark.parametrize(
    ("line", "stop"),
    [
        (r"\n\n", "\n\n"),
        (r"\nThe End", "\nThe End"),
        (r"\\n", r"\n"),
        (r"C:\dir", r"C:\dir"),
        (r"\t", "\t"),
        ("\\", "\\"),
        ("plain", "plain"),
    ],
)
def test_a_line_break_can_be_said_and_so_can_a_backslash(line: str, stop: str) -> None:
    assert parse_stop(line) == stop
    assert parse_stop(format_stop(stop)) == stop


def test_nothing_passes_after_a_stop() -> None:
    stop_filter = StopStringFilter(["x"])
    stats = RequestStats(phase="decode")
    detail = TokenLogprobs(TokenLogprob(1, "ax", -0.5), ())
    first = stop_filter.filter(TokenChunk("ax", (1,), stats, (detail,)))
    assert (first.text, first.logprobs, stop_filter.matched) == ("a", (detail,), True)
    after = stop_filter.filter(TokenChunk("more", (2,), replace(stats, finish_reason="length"), (detail,)))
    assert (after.text, after.logprobs) == ("", ())
