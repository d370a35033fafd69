from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from jet.api import RequestStats, TokenChunk, TokenLogprob, TokenLogprobs
from jet.story.alignment import Aligner, align
from jet.story.document import Document
from jet.story.pieces import Token
from tests.story.factory import MODEL, SAMPLING


def detail(text: str, id: int = 1, *others: tuple[str, float]) -> TokenLogprobs:
    alternatives = tuple(TokenLogprob(9, other, logprob) for other, logprob in others)
    return TokenLogprobs(TokenLogprob(id, text, -0.123456), alternatives)


def test_examples() -> None:
    assert align("one two", ["one", " two"]) == [3, 4]
    assert align("a語b", ["a", "\ufffd", "\ufffd", "b"]) == [1, 0, 1, 1]
    assert align(" Once upon", ["Once", " upon"]) == [1 + 4, 5] or align(" Once upon", ["Once", " upon"]) == [
        5,
        5,
    ]
    assert align("a", ["a", "", "b"]) == [1]  # the others may still come
    assert align("", []) == []


@given(
    st.lists(st.sampled_from(["a", " the", "語", "😀", "é", ".", "\n"]), max_size=20),
    st.integers(1, 4),
    st.integers(0, 6),
)
def test_streams_of_bytes(words: list[str], size: int, lag: int) -> None:
    """Stream words as tokens of `size` bytes; whole characters arrive up to `lag` characters later."""
    parts = [word.encode() for word in words]
    tokens = [part[at : at + size] for part in parts for at in range(0, len(part), size)]
    aligner, found, sent, received = Aligner(), [], 0, b""
    for number, token in enumerate(tokens):
        received += token
        as_piece = received.decode(errors="ignore")
        shown = as_piece[: max(0, len(as_piece) - (lag if number < len(tokens) - 1 else 0))]
        found += aligner.add(shown[sent:], [detail(token.decode(errors="replace"), number)])
        sent = max(sent, len(shown))
    found += aligner.finish()
    assert [token.id for token in found] == list(range(len(tokens)))
    text = "".join(words)
    assert sum(token.length for token in found) == len(text)
    # A token that is whole characters stands where it says.
    at = 0
    for token, raw in zip(found, tokens, strict=True):
        proper = raw.decode(errors="replace")
        if "\ufffd" not in proper and size >= 4:
            assert text[at : at + token.length] == proper
        at += token.length


def test_tokens_that_never_match_are_given_up() -> None:
    aligner = Aligner()
    found: list[Token] = []
    for _ in range(1_000):
        found += aligner.add("x", [detail("something else")])
        assert len(aligner._pending) <= 64
    found += aligner.finish()
    assert len(found) == 1_000
    assert sum(token.length for token in found) == 1_000


def test_chunks_of_the_engine() -> None:
    document = Document.from_text("Once")
    continuation = document.start_continuation(MODEL, SAMPLING)
    stats = RequestStats(phase="decode")
    continuation.add_chunk(TokenChunk("", (), stats))
    others = ((" in", -1.000049), (" no", -math.inf))
    continuation.add_chunk(
        TokenChunk(" upon", (5, 6), stats, (detail(" upon", 5, *others), detail("\ufffd", 6)))
    )
    assert document.text == "Once upon"
    last = TokenChunk("語", (7,), RequestStats(phase="done", finish_reason="stop"), (detail("\ufffd", 7),))
    continuation.add_chunk(last)
    assert not document.generating
    assert document.text == "Once upon語"
    assert [(t.start, t.end, t.token.id, t.token.logprob) for t in document.tokens()] == [
        (4, 9, 5, -0.1235),
        (9, 10, 7, -0.1235),
    ]
    assert document.tokens()[0].token.alternatives == (TokenLogprob(9, " in", -1.0),)
    made = document.generation(document.ranges()[-1].span)
    assert made is not None
    assert made.finish_reason == "stop"


def test_chunks_without_details() -> None:
    document = Document()
    continuation = document.start_continuation(MODEL, SAMPLING)
    continuation.add_chunk(TokenChunk("a b", (1, 2), RequestStats()))
    continuation.add_chunk(TokenChunk("", (), RequestStats(finish_reason="aborted")))
    assert (document.text, document.tokens(), document.generating) == ("a b", [], False)
