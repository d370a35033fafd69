"""Test servers that follow the API in ways of their own: their stories arrive whole and end correctly."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jet.api import Request, SamplingParams, TokenChunk
from jet.engine.remote.client import RemoteConfig, RemoteEngine, RemoteOptions
from jet.engine.remote.responses import KEY_VARIABLE, RemoteError
from tests.engine.faulty_server import Answer, FaultyServer, Script, faulty_server

OPTIONS = RemoteOptions(connect_s=2.0, first_token_s=5.0, silence_s=3.0, pause_s=0.02, most_pause_s=0.5)
PLAIN = SamplingParams(min_p=0.0, repetition_penalty=1.0, max_new_tokens=20, seed=5)
KEY = "sk-very/secret+key=="


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture(scope="module")
def engine(server: FaultyServer) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
    yield engine
    engine.close()


def write(
    engine: RemoteEngine, sampling: SamplingParams = PLAIN, prompt: str = "Once", alternatives: int = 0
) -> tuple[str, list[TokenChunk]]:
    chunks = list(engine.submit(Request(prompt, sampling, alternatives)))
    return "".join(chunk.text for chunk in chunks), chunks


def sent(*pieces: bytes) -> Script:
    def tell(answer: Answer) -> None:
        answer.head()
        for piece in pieces:
            answer.send(piece)

    return tell


def word(text: str, **more: object) -> bytes:
    return json.dumps({"choices": [{"index": 0, "text": text, **more}]}, ensure_ascii=False).encode()


def events(*data: bytes, end: bytes = b"\n") -> bytes:
    return b"".join(b"data: " + one + end + end for one in data)


STORY = (word(" upon"), word(" a"), word(" time", finish_reason="stop"))
DONE = b"[DONE]"

# --- the framing of events -------------------------------------------------------------------------------

FRAMES: dict[str, bytes] = {
    "CR": events(*STORY, DONE, end=b"\r"),
    "CR LF": events(*STORY, DONE, end=b"\r\n"),
    "mixed line ends": b"".join(
        b"data: " + one + end for one, end in zip(STORY, (b"\r\r", b"\n\r\n", b"\r\n\r"), strict=True)
    ),
    "byte order mark": b"\xef\xbb\xbf" + events(*STORY, DONE),
    "no empty line at the end": events(*STORY[:2]) + b"data: " + STORY[2] + b"\n",
    "no line end at the end": events(*STORY[:2]) + b"data: " + STORY[2],
    "empty data": b"data:\n\ndata: \n\n" + events(*STORY) + b"data:\n\n" + events(DONE),
    "a field without a colon": b"data\n\nretry\n\n" + events(*STORY, DONE),
    "comments": b": ping\n\n:\n\n" + events(STORY[0]) + b": ping - 2026\n\n" + events(*STORY[1:], DONE),
    "comments that are no UTF-8": b": \xff\xfe\n\n" + events(*STORY, DONE),
    "several lines of data": b"".join(
        b"data: " + one.replace(b', "text"', b',\ndata:  "text"') + b"\n\n" for one in STORY
    ),
    "other fields": b"id: 7\nevent: completion\nretry: 10\n" + events(*STORY, DONE),
    "no blank behind the colon": events(*STORY, DONE).replace(b"data: ", b"data:"),
    "events that are called pings": b"event: ping\ndata: {}\n\n" + events(*STORY, DONE),
    "pings in words": events(b"ping", STORY[0], b"keep-alive", *STORY[1:], DONE),
    "pings in JSON": events(b'{"type": "ping"}', STORY[0], b"{}", b"null", b"[]", *STORY[1:], DONE),
    "no last word": events(*STORY),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_story_arrives_whole_in_every_framing(
    server: FaultyServer, engine: RemoteEngine, frame: str
) -> None:
    before = len(server.bodies)
    server.answer(sent(FRAMES[frame]))
    text, chunks = write(engine)
    last = chunks[-1].stats
    assert (text, last.finish_reason, last.error) == (" upon a time", "stop", None)
    assert len(server.bodies) == before + 1, "and is not asked for again"


def test_cr_lf_may_be_split_over_two_packets(server: FaultyServer, engine: RemoteEngine) -> None:
    whole = events(*STORY, DONE, end=b"\r\n")
    server.answer(sent(*(whole[at : at + 1] for at in range(len(whole)))))
    assert write(engine)[0] == " upon a time"


def test_an_event_that_ends_in_cr_does_not_wait_for_the_next(
    server: FaultyServer, engine: RemoteEngine
) -> None:
    shown = threading.Event()

    def tell(answer: Answer) -> None:
        answer.head()
        answer.send(events(STORY[0], end=b"\r"))
        assert shown.wait(3), "the first word is not shown"
        answer.send(events(STORY[2], DONE, end=b"\r"))

    server.answer(tell)
    text = ""
    for chunk in engine.submit(Request("Once", PLAIN)):
        text += chunk.text
        if chunk.text:
            shown.set()
    assert text == " upon time"


# --- what stands in events -------------------------------------------------------------------------------

ODD_LOGPROBS: list[object] = [
    {},
    {"tokens": [1]},
    {"tokens": [], "token_logprobs": [], "top_logprobs": None},
    {"content": None},
    {"content": [{"token": None}]},
    {"tokens": ["a", "b"], "token_logprobs": [-1]},
    {"content": [{"token": "a", "logprob": "low", "id": 1e400}]},
    [[-1.0, 5]],
    "none",
    -0.25,
]


@pytest.mark.parametrize("odd", ODD_LOGPROBS, ids=str)
def test_odd_log_probabilities_that_were_not_asked_for_end_no_story(
    server: FaultyServer, engine: RemoteEngine, odd: object
) -> None:
    server.answer(sent(events(word(" upon", logprobs=odd), word(" a time", finish_reason="stop"), DONE)))
    text, chunks = write(engine)
    assert (text, chunks[-1].stats.error) == (" upon a time", None)


USAGE: dict[str, tuple[bytes, ...]] = {
    "usage without choices": (*STORY, b'{"usage": {"prompt_tokens": 7, "completion_tokens": 3}}'),
    "choices null": (*STORY, b'{"choices": null, "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'),
    "choices empty": (*STORY, b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3.0}}'),
    "usage first": (b'{"usage": {"prompt_tokens": 7, "completion_tokens": 0}}', *STORY),
    "a role first": (b'{"choices": [{"delta": {"role": "assistant"}, "text": null}], "usage": null}', *STORY),
    "no count until the end": tuple(
        one[:-1] + b', "usage": {"prompt_tokens": 7, "completion_tokens": 0}}' for one in STORY
    ),
    "a choice that is null": (b'{"choices": [null], "usage": {"prompt_tokens": 7}}', *STORY),
}


@pytest.mark.parametrize("what", USAGE)
def test_usage_may_come_in_any_event(server: FaultyServer, engine: RemoteEngine, what: str) -> None:
    server.answer(sent(events(*USAGE[what], DONE)))
    text, chunks = write(engine)
    last = chunks[-1].stats
    assert (text, last.finish_reason, last.error) == (" upon a time", "stop", None)
    assert last.tokens == 3
    if what != "a role first":
        assert last.prompt_tokens == 7


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("EOS_TOKEN", "stop"),
        ("stop_sequence", "stop"),
        ("end_turn", "stop"),
        ("a word of its own", "stop"),
        ({"type": "stop"}, "stop"),
        (True, "stop"),
        ("max_tokens", "length"),
        ("LENGTH", "length"),
        ("max_new_tokens", "length"),
    ],
)
def test_a_story_ends_well_whatever_the_end_is_called(
    server: FaultyServer, engine: RemoteEngine, said: object, meant: str
) -> None:
    server.answer(sent(events(word(" upon"), word(" a time", finish_reason=said), DONE)))
    text, chunks = write(engine)
    last = chunks[-1].stats
    assert (text, last.finish_reason, last.error) == (" upon a time", meant, None)


@pytest.mark.parametrize("said", ["", None, False])
def test_a_story_that_is_done_has_ended_even_if_no_event_says_why(
    server: FaultyServer, engine: RemoteEngine, said: object
) -> None:
    server.answer(sent(events(word(" upon", finish_reason=said), word(" a time", finish_reason=said), DONE)))
    text, chunks = write(engine)
    assert (text, chunks[-1].stats.finish_reason) == (" upon a time", "stop")


@pytest.mark.parametrize("said", ["abort", "error", "content_filter", "CANCELLED"])
def test_what_has_gone_wrong_is_no_good_end(server: FaultyServer, engine: RemoteEngine, said: str) -> None:
    server.answer(sent(events(word(" upon"), word("", finish_reason=said), DONE)))
    text, chunks = write(engine)
    assert text == " upon" and f"ended the story: {said}" in str(chunks[-1].stats.error)


def test_text_without_a_counted_token_is_not_asked_for_twice(
    server: FaultyServer, engine: RemoteEngine
) -> None:
    piece = word(" upon")[:-1] + b', "usage": {"completion_tokens": 0}}'
    server.answer(lambda answer: (sent(events(piece))(answer), answer.drop()), sent(events(*STORY, DONE)))
    text, chunks = write(engine)
    assert text == " upon" and "broke off in the middle" in str(chunks[-1].stats.error)


# --- characters in two halves ----------------------------------------------------------------------------


def spelt(*texts: str) -> list[bytes]:
    """Return events that contain these texts as given, JSON escapes included."""
    return [b'{"choices": [{"text": "' + text.encode() + b'"}]}' for text in texts]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (spelt("\\ud83d", "\\ude00"), "😀"),
        (spelt("a\\ud83d", "\\ude00b\\ud83d", "\\ude01"), "a😀b😁"),
        ([*spelt("\\ud83d"), b'{"choices": []}', b"ping", *spelt("", "\\ude00")], "😀"),
        (spelt("\\ud83d\\ude00"), "😀"),
        (spelt("a\\ud83d"), "a\ufffd"),
        (spelt("\\ud83d", "b"), "\ufffdb"),
        (spelt("\\ude00", "b"), "\ufffdb"),
        (spelt("\\ud83d", "\\ud83d", "\\ude00"), "\ufffd😀"),
        (
            [b'{"choices": [{"text": "\xed\xa0\xbd"}]}', b'{"choices": [{"text": "\xed\xb8\x80"}]}'],
            "😀",
        ),
    ],
    ids=[
        "halves",
        "twice",
        "something between",
        "whole",
        "no second",
        "no emoji",
        "no first",
        "late",
        "bytes",
    ],
)
def test_a_character_in_two_events_is_kept_whole(
    server: FaultyServer, engine: RemoteEngine, pieces: list[bytes], text: str
) -> None:
    server.answer(sent(events(*pieces, word("", finish_reason="stop"), DONE)))
    assert write(engine)[0] == text
    server.answer(sent(events(*pieces, DONE)))
    assert write(engine)[0] == text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(min_codepoint=32), min_size=1, max_size=12), st.data())
@example("🏴‍☠️ 👩🏽‍🚀", None)
def test_any_text_may_be_cut_between_any_two_halves_and_packets(
    server: FaultyServer, engine: RemoteEngine, text: str, data: Any
) -> None:
    draw: Callable[[Any], Any] = (lambda strategy: 1) if data is None else data.draw
    units = text.encode("utf-16-le")
    cuts = range(2, len(units), 2)
    taken = {cut for cut in cuts if data is None or draw(st.booleans())}
    bounds = [0, *sorted(taken), len(units)]
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in pairwise(bounds)]
    end = b"\n" if data is None else draw(st.sampled_from([b"\n", b"\r", b"\r\n"]))
    stream = events(*(json.dumps({"choices": [{"text": piece}]}).encode() for piece in pieces), DONE, end=end)
    size = draw(st.integers(1, 40))
    server.answer(sent(*(stream[at : at + size] for at in range(0, len(stream), size))))
    assert write(engine)[0] == text


@pytest.mark.parametrize(
    "kind", ["text/plain; charset=utf-8", "application/octet-stream", "Text/Event-Stream"]
)
def test_events_are_read_whatever_a_server_in_between_calls_them(
    server: FaultyServer, engine: RemoteEngine, kind: str
) -> None:
    server.answer(lambda answer: (answer.head(kind=kind), answer.send(events(*STORY, DONE))))
    text, chunks = write(engine)
    assert (text, chunks[-1].stats.error) == (" upon a time", None)


@pytest.mark.parametrize("reason", ["length", None])
def test_a_story_that_comes_in_one_is_read(
    server: FaultyServer, engine: RemoteEngine, reason: str | None
) -> None:
    said = {
        "choices": [{"text": " upon a time", "finish_reason": reason}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 20},
    }
    server.answer(
        lambda answer: (answer.head(kind="application/json"), answer.send(json.dumps(said).encode()))
    )
    text, chunks = write(engine)
    last = chunks[-1].stats
    assert (text, last.error, last.finish_reason) == (" upon a time", None, reason or "stop")
    assert (last.tokens, last.prompt_tokens) == (20, 3)


# --- lengths ---------------------------------------------------------------------------------------------


def counts_both(context: int, message: str, status: int = 400) -> Script:
    """Return the script of a server whose context must hold the prompt's words and `max_tokens` together.

    `message` is the format of its error message, and `status` the error's status.
    """

    def tell(answer: Answer) -> None:
        prompt, new = len(answer.body["prompt"].split()), answer.body["max_tokens"]
        if prompt + new <= context:
            answer.head()
            answer.word(" on", finish_reason=None)
            answer.done("length", tokens=new)
            return
        said = message.format(context=context, prompt=prompt, new=new, total=prompt + new)
        answer.head(status, "application/json")
        answer.send(json.dumps({"error": {"message": said, "code": status}}).encode())

    return tell


REFUSALS = [
    "This model's maximum context length is {context} tokens. However, you requested {total} tokens "
    "({prompt} in the messages, {new} in the completion). Please reduce the length of the messages.",
    "'max_tokens' or 'max_completion_tokens' is too large: {new}. This model's maximum context length is "
    "{context} tokens and your request has {prompt} input tokens ({new} > {context} - {prompt}).",
    "Requested token count exceeds the model's maximum context length of {context} tokens. You requested a "
    "total of {total} tokens: {prompt} tokens from the input messages and {new} tokens for the completion.",
    "`inputs` tokens + `max_new_tokens` must be <= {context}. Given: {prompt} `inputs` tokens and {new} "
    "`max_new_tokens`",
    "Requested tokens ({total}) exceed context window of {context}",
    "This model's maximum context length is {context} tokens.",
]


@pytest.mark.parametrize("message", REFUSALS)
@pytest.mark.parametrize("known", [True, False], ids=["its context is known", "its context is not known"])
def test_a_server_that_counts_prompt_and_new_tokens_goes_on(message: str, known: bool) -> None:
    with faulty_server() as server:
        server.models = {"data": [{"id": "m", **({"max_model_len": 300} if known else {})}]}
        server.answer(counts_both(300, message, 422 if "inputs" in message else 400))
        engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
        try:
            prompt = "once upon a time " * 20
            text, chunks = write(engine, replace(PLAIN, max_new_tokens=290), prompt)
            last = chunks[-1].stats
            assert (text, last.error, last.finish_reason) == (" on", None, "context")
            assert len(server.bodies) <= 2
            asked = server.bodies[-1]["max_tokens"]
            assert 150 <= asked <= 220 and last.tokens == asked
            assert engine.info().context == 300
            write(engine, replace(PLAIN, max_new_tokens=290), prompt)
            assert len(server.bodies) <= 4
            write(engine, replace(PLAIN, max_new_tokens=20), prompt)
            assert server.bodies[-1]["max_tokens"] == 20
        finally:
            engine.close()


def test_no_more_is_asked_for_than_the_context_has(server: FaultyServer, engine: RemoteEngine) -> None:
    server.answer(sent(events(*STORY, DONE)))
    write(engine, replace(PLAIN, max_new_tokens=100_000))
    assert server.bodies[-1]["max_tokens"] <= 500, "which the server has said of itself"


def test_a_bound_on_new_tokens_alone_is_kept_to(server: FaultyServer) -> None:
    def tell(answer: Answer) -> None:
        if answer.body["max_tokens"] <= 64:
            answer.head()
            answer.word(" on")
            answer.done("length", tokens=answer.body["max_tokens"])
            return
        answer.head(400, "application/json")
        answer.send(b'{"message": "max_tokens is too large: 200. This model supports at most 64 completion '
                    b'tokens, whereas you provided 200."}')  # fmt: skip

    server.answer(tell)
    engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
    text, chunks = write(engine, replace(PLAIN, max_new_tokens=200))
    assert (text, chunks[-1].stats.finish_reason, chunks[-1].stats.tokens) == (" on", "length", 64)
    write(engine, replace(PLAIN, max_new_tokens=200))
    assert server.bodies[-2]["max_tokens"] == 64, "and is remembered"
    engine.close()


def test_a_prompt_that_is_too_long_by_itself_is_told_in_words_after_one_attempt() -> None:
    with faulty_server() as server:
        server.models = {"data": [{"id": "m"}]}
        server.answer(counts_both(100, REFUSALS[0]))
        engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
        last = write(engine, PLAIN, "word " * 400)[1][-1].stats
        assert last.error is not None and "longer than the 100 tokens that the server reads" in last.error
        assert len(server.bodies) == 1
        assert engine.info().context == 100, "so that the next prompt is shorter"
        engine.close()


def test_another_refusal_is_not_taken_for_one_of_lengths(server: FaultyServer, engine: RemoteEngine) -> None:
    before = len(server.bodies)
    server.answer(
        lambda answer: (answer.head(400, "application/json"), answer.send(b'{"message": "bad temperature"}'))
    )
    last = write(engine)[1][-1].stats
    assert last.error == "The engine’s server refuses this (400): bad temperature."
    assert len(server.bodies) == before + 1


def test_the_context_is_asked_for_where_llama_cpp_tells_it() -> None:
    asked: list[str] = []

    def tell(answer: Answer) -> None:
        path = answer._handler.path
        asked.append(path)
        answer.head(kind="application/json")
        said = {"data": [{"id": "m"}]} if path.endswith("/models") else {
            "default_generation_settings": {"n_ctx": 777}
        }  # fmt: skip
        answer.send(json.dumps(said).encode())

    with faulty_server() as server:
        server.models = tell
        engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
        assert engine.info().context == 777
        assert asked == ["/v1/models", "/props"]
        engine.close()


# --- servers that have moved -----------------------------------------------------------------------------


def moved(status: int, to: str, then: Script) -> Script:
    def tell(answer: Answer) -> None:
        if answer._handler.path.startswith("/v1/"):
            answer.head(status, "text/plain", Location=to + answer._handler.path.removeprefix("/v1"))
        else:
            then(answer)

    return tell


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_story_follows_to_another_path_of_the_same_server(status: int) -> None:
    with faulty_server() as server:
        models = json.dumps(server.models).encode()
        server.models = moved(
            status, "/api/v1", lambda answer: (answer.head(kind="application/json"), answer.send(models))
        )
        server.answer(moved(status, "/api/v1", sent(events(*STORY, DONE))))
        engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
        text, chunks = write(engine)
        assert (text, chunks[-1].stats.error) == (" upon a time", None)
        assert server.bodies[-1]["prompt"] == "Once", "also after 301 and 302, the body is sent again"
        engine.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_story_that_is_moved_only_when_it_is_asked_for_follows(
    server: FaultyServer, engine: RemoteEngine, status: int
) -> None:
    server.answer(moved(status, "/elsewhere", sent(events(*STORY, DONE))))
    assert write(engine)[0] == " upon a time"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_neither_a_story_nor_a_key_goes_to_another_server(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    with faulty_server() as other, faulty_server() as server:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        for to in (other.url, elsewhere, f"http://ann:pw-of-ann@{elsewhere.removeprefix('http://')}"):
            server.models = faulty_models = {"data": [{"id": "m", "max_model_len": 500}]}
            server.answer(moved(status, to, sent(b"")))
            engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
            error = str(write(engine)[1][-1].stats.error)
            engine.close()
            shown = to.replace("ann:pw-of-ann@", "")
            assert f"is elsewhere ({status}): it sends this page to {shown}/completions." in error
            assert KEY not in error and "pw-of-ann" not in error
            server.models = moved(status, to, sent(b""))
            with pytest.raises(RemoteError, match="is elsewhere"):
                RemoteEngine(RemoteConfig(server.url), OPTIONS)
            assert faulty_models and other.keys == [] and other.bodies == []


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("/v1", "in circles"),
        ("", "does not say where"),
        ("http://h:port", "does not say where"),
        ("ftp://127.0.0.1", "does not say where"),
        ("https://127.0.0.1.example", "sends this page to https://127.0.0.1.example/completions"),
    ],
)
def test_redirects_that_lead_nowhere_are_told(
    server: FaultyServer, engine: RemoteEngine, to: str, words: str
) -> None:
    server.answer(lambda answer: answer.head(307, Location=to and f"{to}/completions"))
    assert words in str(write(engine)[1][-1].stats.error)


# --- secrets ---------------------------------------------------------------------------------------------


def repeating(answer: Answer) -> None:
    """Answer with an error that repeats the Authorization header, in four forms that take turns."""
    said = str(answer._handler.headers.get("Authorization"))
    ways = getattr(repeating, "ways", 0)
    repeating.ways = ways + 1  # type: ignore[attr-defined]
    if ways % 4 == 0:
        answer.head(400, "application/json")
        answer.send(json.dumps({"error": {"message": "x" * 270 + f" bad key {said}, {said!r}"}}).encode())
    elif ways % 4 == 1:
        answer.head()
        answer.event({"error": f"bad key: {said}"})
    elif ways % 4 == 2:
        answer.head()
        answer.word("", finish_reason=f"error {said}")
        answer.word("", finish_reason="error")
    else:
        answer.head(302, "text/plain", Location=f"http://192.0.2.1/{said.rpartition(' ')[2]}")


SECRETS = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=40),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=8, max_size=40),
).filter(lambda secret: len(set(secret)) > 4 and secret.strip())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SECRETS, st.sampled_from(["", "\n", "\r\n", " ", "\t\n"]))
@example(KEY, "\n")
@example("sk-schlüssel-geheim", "")
@example("sk-first\nsecond-line", "")
@example("sk-bell\x07-and-escape\x1b", "")
@example("sk-\u200binvisible-letter", "")
@example("quoted\"key'with\\slash", "\r\n")
def test_no_message_contains_the_key(server: FaultyServer, secret: str, behind: str) -> None:
    said: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: said.append(handler.format(record))  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    server.answer(repeating)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, secret + behind)
        try:
            engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
            said += [repr(write(engine)[1][-1].stats) for _ in range(4)]
            said += [repr(engine.info()), repr(vars(engine)), repr(getattr(engine, "_server", ""))]
            engine.close()
            assert server.keys[-1] == f"Bearer {secret.strip()}", "a key that can be sent is sent as it is"
        except RemoteError as error:
            said += [str(error), repr(error), repr(error.__cause__), repr(error.__context__)]
            assert str(error).startswith(KEY_VARIABLE), "and one that cannot is named"
        finally:
            root.removeHandler(handler)
            root.setLevel(level)
    everything = "\n".join(said)
    assert secret.strip() not in everything
    assert repr(secret.strip())[1:-1] not in everything


@pytest.mark.parametrize(
    "address",
    [
        "http://ann:{}@{}/v1",
        "http://{}@{}/v1",
        "http://{}:{}x@{}/v1",
        "http://ann:{}@{}/v1?api_key=another-secret-1",
        "http://ann:{}@{}:notaport/v1",
        "http://ann:{}@[{}/v1",
        "ftp://ann:{}@{}/v1",
        "ann:{}@{}",
        "http://ann:{}@127.0.0.1:9/v1",
    ],
)
def test_no_password_in_an_address_is_repeated(server: FaultyServer, address: str) -> None:
    secret, host = "p%40ss-w0rd", server.url.removeprefix("http://").removesuffix("/v1")
    places = address.count("{}")
    url = address.format(*([secret] * (places - 1)), host) if places > 1 else address.format(secret)
    choice = RemoteConfig(url)
    said = [repr(choice)]
    server.answer(lambda answer: (answer.head(400), answer.send(repr(answer._handler.headers).encode())))
    try:
        engine = RemoteEngine(choice, OPTIONS)
        said += [str(write(engine)[1][-1].stats), repr(engine.info()), repr(vars(engine))]
        assert str(server.keys[-1]).startswith("Basic "), "it is sent all the same"
        engine.close()
    except RemoteError as error:
        said += [str(error), repr(error.__cause__)]
    for word in (secret, "p@ss-w0rd", "w0rd", "another-secret"):
        assert word not in "\n".join(said)
