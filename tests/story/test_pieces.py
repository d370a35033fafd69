from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.api import TokenLogprob
from jet.story.errors import StoryError
from jet.story.offsets import from_utf16, to_utf16
from jet.story.pieces import (
    Generation,
    Piece,
    PieceTable,
    Span,
    Token,
    as_piece,
    clean,
    length_of,
    text_of,
    to_valid_unicode,
    token_ranges,
)
from tests.story.factory import SAMPLING, any_text, tokens


@st.composite
def rows(draw: st.DrawFn) -> tuple[Piece, ...]:
    pieces = []
    for number, text in enumerate(draw(st.lists(st.text("abc", min_size=1, max_size=6), max_size=6))):
        start = draw(st.integers(0, len(text) - 1))
        pieces.append(Piece(Span(number, text), start, draw(st.integers(start + 1, len(text)))))
    return tuple(pieces)


@given(rows(), st.integers(0, 40), st.integers(0, 40))
def test_cutting_pieces_cuts_their_text(pieces: tuple[Piece, ...], start: int, end: int) -> None:
    text, table = text_of(pieces), PieceTable(pieces)
    assert text_of(table.slice(start, end)) == text[start:end]
    assert text_of(table.slice(start)) == text[start:]
    assert all(piece.end > piece.start for piece in table.slice(start, end))
    assert table.slice(0) == pieces
    assert length_of(pieces) == len(text)


@given(st.text(st.characters(), max_size=20))
def test_clean_text_is_fit_for_files_and_for_text_boxes(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert not {"\0", "\r"} & set(cleaned)
    assert clean(cleaned) == cleaned


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_what_is_carried_keeps_its_offsets(text: str) -> None:
    assert len(to_valid_unicode(text)) == len(text)


@given(any_text.filter(lambda text: not {"\0", "\r"} & set(text)))
def test_clean_leaves_good_text_alone(text: str) -> None:
    assert clean(text) is text or clean(text) == text


def test_clean_examples() -> None:
    assert clean("a\ud83db\0c") == "a\ufffdb\ufffdc"
    assert clean("\ud83d\ude00") == "😀"
    assert clean("a\r\nb\rc\n\rd\r\r\ne") == "a\nb\nc\n\nd\n\ne"


@given(any_text, st.integers(-3, 60))
def test_offsets_of_the_browser(text: str, offset: int) -> None:
    inside = min(max(offset, 0), len(text))
    assert from_utf16(text, to_utf16(text, offset)) == inside
    assert from_utf16(text, 10**9) == len(text)


def test_offset_inside_a_character_is_before_it() -> None:
    assert to_utf16("a😀b", 2) == 3
    assert from_utf16("a😀b", 2) == 1
    assert from_utf16("ab", -1) == 0


def test_tokens_stand_where_their_characters_do() -> None:
    made = tuple(tokens("one", "", " two", " three"))
    span = Span(1, "one two three", Generation("m", SAMPLING, tokens=made))
    before = as_piece(Span(0, "xx"))
    everything = list(token_ranges((before, as_piece(span))))
    assert [(t.start, t.end) for t in everything] == [(2, 5), (5, 9), (9, 15)]
    # "ne two th": the first and the last token are no longer whole
    cut = list(token_ranges((before, Piece(span, 1, 9))))
    assert [(t.start, t.end, t.token.id) for t in cut] == [(4, 8, 2)]


def test_tokens_refuse_what_json_cannot_carry() -> None:
    with pytest.raises(StoryError, match="finite"):
        Token(1, 1, math.nan)
    with pytest.raises(StoryError, match="finite"):
        Token(1, 1, None, (TokenLogprob(1, "a", -math.inf),))
    with pytest.raises(StoryError, match="-1 characters"):
        Token(1, -1)
