"""Test that text is normalized to what a text box can hold, at every entry, and keeps its authors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.api import RequestStats, TokenChunk, TokenLogprob, TokenLogprobs
from jet.story.document import Document
from jet.story.files import from_json, to_json
from tests.story.factory import MODEL, SAMPLING, owners, read_file, story

broken = st.text(st.sampled_from("ab\r\n語"), max_size=10)


def ours(text: str) -> str:
    """Normalize a text as a text box does."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def detail(id: int, text: str) -> TokenLogprobs:
    return TokenLogprobs(
        TokenLogprob(id, text, -0.5), (TokenLogprob(id, text, -0.5), TokenLogprob(99, "\r\n", -2))
    )


def written(pieces: list[str]) -> Document:
    """Return a story with a continuation in chunks of one token."""
    document = Document.from_text("Once")
    with document.start_continuation(MODEL, SAMPLING) as continuation:
        for id, piece in enumerate(pieces):
            stats = RequestStats(phase="decode")
            continuation.add_chunk(TokenChunk(piece, (id,), stats, (detail(id, piece),)))
        continuation.add_chunk(TokenChunk("", (), RequestStats(phase="done", finish_reason="length")))
    return document


@given(st.lists(broken, max_size=8))
def test_a_stream_has_our_line_breaks_however_it_is_cut(pieces: list[str]) -> None:
    document = written(pieces)
    text = ours("".join(pieces))
    assert document.text == "Once" + text
    assert owners(document) == "wwww" + "m" * len(text)
    assert sum(found.end - found.start for found in document.tokens()) == len(text)


def test_a_line_break_in_two_chunks_is_one() -> None:
    document = written(["a\r", "\nb", "\r", "\r\n", "c"])
    assert document.text == "Oncea\nb\n\nc"
    assert [document.text[found.start : found.end] for found in document.tokens()] == [
        "a\n",
        "b",
        "\n",
        "\n",
        "c",
    ]
    assert all("\r" not in other.text for found in document.tokens() for other in found.token.alternatives)


def test_another_word_with_a_line_break_can_be_picked() -> None:
    document = written([" a", " b"])
    assert document.replace_token(5, 1) == 5
    assert document.text == "Once\n"


@given(broken)
def test_what_the_writer_sends_has_our_line_breaks(text: str) -> None:
    document = Document()
    document.edit(text)
    assert document.text == ours(text)
    assert not document.edit(text)


@pytest.mark.parametrize("name", ["a.txt", "a.md"])
def test_files_of_any_system_have_our_line_breaks(name: str) -> None:
    assert read_file(name, b"one\r\ntwo\rthree\n").text == "one\ntwo\nthree\n"


def kept(spans: list[tuple[str, bool]], pieces: list[list[int]]) -> str:
    """Return a browser's copy of a story; each span is a text, and True if the model wrote it."""
    plain = json.loads(to_json(story("a", "b")))
    written = next(span for span in plain["spans"] if "model" in span)
    plain["spans"] = []
    for id, (text, by_model) in enumerate(spans):
        made = {name: value for name, value in written.items() if name not in ("id", "text", "tokens")}
        tokens = [[at, 1, -0.5, []] for at in range(len(text))]
        plain["spans"].append({"id": id, "text": text, **({**made, "tokens": tokens} if by_model else {})})
    plain["branches"] = [{"id": 0, "name": "", "parent": None, "pieces": pieces}]
    plain["current"] = 0
    return json.dumps(plain)


@given(st.lists(st.tuples(broken.filter(bool), st.booleans()), max_size=4), st.data())
@settings(max_examples=120, deadline=None)
def test_a_copy_that_was_kept_with_other_line_breaks_keeps_its_authors(
    spans: list[tuple[str, bool]], data: st.DataObject
) -> None:
    pieces = []
    for id, (text, _) in enumerate(spans):
        start = data.draw(st.integers(0, len(text) - 1))
        pieces.append([id, start, data.draw(st.integers(start + 1, len(text)))])
    document = from_json(kept(spans, pieces))
    raw = "".join(spans[id][0][start:end] for id, start, end in pieces)
    assert document.text == ours(raw)
    authors = "".join("m" if spans[id][1] else "w" for id, start, end in pieces for _ in range(start, end))
    # The author of a line break is that of its first character.
    expected = "".join(a for at, a in enumerate(authors) if raw[max(0, at - 1) : at + 1] != "\r\n")
    assert owners(document) == expected
    for found in document.tokens():
        assert document.text[found.start : found.end]
    again = from_json(to_json(document))
    assert (again.text, owners(again)) == (document.text, owners(document))


def test_tokens_of_a_kept_copy_stay_with_their_characters() -> None:
    document = from_json(kept([("a\r\nb語", True)], [[0, 0, 5]]))
    assert [(found.token.id, document.text[found.start : found.end]) for found in document.tokens()] == [
        (0, "a"),
        (1, "\n"),
        (3, "b"),
        (4, "語"),
    ]


def test_a_break_that_was_parted_stays_two() -> None:
    document = from_json(kept([("a\r\nb", True), ("X", False)], [[0, 0, 2], [1, 0, 1], [0, 2, 4]]))
    assert document.text == "a\nX\nb"
    assert owners(document) == "mmwmm"
