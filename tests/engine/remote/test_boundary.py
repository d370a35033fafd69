"""Test blanks between a prompt and a remote answer: none at the end is sent, and none is shown twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.api import Request, TokenLogprob, TokenLogprobs
from jet.engine.remote.boundary import WhitespaceBoundary
from jet.engine.remote.client import RemoteConfig, RemoteEngine
from tests.engine.faulty_server import Answer, faulty_server
from tests.engine.remote.test_client import OPTIONS, PLAIN, begin, text_of

PIECES = st.lists(st.sampled_from([" ", "\t", " upon", "a ", "\n", "", "\N{NO-BREAK SPACE}b"]), max_size=6)


@pytest.mark.parametrize("blanks", [" ", "\t", "  ", "\N{NO-BREAK SPACE}", "\u3000"])
@pytest.mark.parametrize("pieces", [(" upon", " a"), (" ", " upon", " a"), ("upon", " a")])
def test_a_server_gets_no_blanks_at_the_end_and_its_answer_begins_without(
    blanks: str, pieces: tuple[str, ...]
) -> None:
    def tell(answer: Answer) -> None:
        begin(answer, *pieces)
        answer.done("stop", tokens=3)

    with faulty_server() as server:
        server.answer(tell)
        engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
        prompt = f"Once{blanks}"
        assert engine.normalize_prompt(prompt) == "Once"
        text = text_of(list(engine.submit(Request(prompt, PLAIN, healing=True, min_tokens=3))))
        (body,) = server.bodies
        engine.close()
    assert (body["prompt"], body["min_tokens"]) == ("Once", 3)
    assert text == "upon a"


@pytest.mark.parametrize("prompt", ["Once", "Once\n", "Once "])
def test_all_other_answers_begin_as_they_do(prompt: str) -> None:
    with faulty_server() as server:
        server.answer(lambda answer: (begin(answer, " upon"), answer.done("stop", tokens=1)))
        engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
        text = text_of(list(engine.submit(Request(prompt, PLAIN, healing=prompt != "Once "))))
        (body,) = server.bodies
        engine.close()
    assert (body["prompt"], text) == (prompt, " upon")
    assert "min_tokens" not in body


@given(pieces=PIECES, sent=st.booleans())
def test_text_and_tokens_lose_the_same(pieces: list[str], sent: bool) -> None:
    border = WhitespaceBoundary("a ", "a " if sent else "a")
    shown, told = "", ""
    for piece in pieces:
        detail = TokenLogprobs(TokenLogprob(1, piece, -0.1), (TokenLogprob(2, " x", -1.0),))
        text, details = border.strip(piece, (detail,))
        shown += text
        told += "".join(one.sampled.text for one in details)
    whole = "".join(pieces)
    assert shown == told == (whole if sent else whole.lstrip(" \t\N{NO-BREAK SPACE}"))
