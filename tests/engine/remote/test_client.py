"""Test stories from an OpenAI-compatible server, whatever that server does."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from jet.api import Request, RequestError, SamplingParams, TokenChunk
from jet.engine.remote.client import RemoteConfig, RemoteEngine, RemoteOptions
from jet.engine.remote.protocol import OUR_SERVER, ServedModel, completion, read_chunk
from jet.engine.remote.responses import KEY_VARIABLE, RemoteError
from tests.engine.faulty_server import MODELS, Answer, FaultyServer, Script, faulty_server

OPTIONS = RemoteOptions(connect_s=2.0, first_token_s=0.6, silence_s=0.3, pause_s=0.02, most_pause_s=0.5)
PLAIN = SamplingParams(min_p=0.0, repetition_penalty=1.0, max_new_tokens=20, seed=5)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.fixture
def engine(server: FaultyServer) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
    yield engine
    engine.close()


def read(engine: RemoteEngine, sampling: SamplingParams = PLAIN, alternatives: int = 0) -> list[TokenChunk]:
    return list(engine.submit(Request("Once", sampling, alternatives)))


def text_of(chunks: list[TokenChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def begin(answer: Answer, *words: str) -> None:
    answer.head()
    for word in words:
        answer.word(word)


# --- what goes well --------------------------------------------------------------------------------------


def test_a_story_streams_in(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer) -> None:
        begin(answer, " upon", " a", " time")
        answer.done("stop", tokens=4)

    server.answer(tell)
    chunks = read(engine)
    assert text_of(chunks) == " upon a time"
    assert chunks[0].text == "" and chunks[0].stats.phase == "queued"
    last = chunks[-1].stats
    assert (last.phase, last.finish_reason, last.error) == ("done", "stop", None)
    assert (last.tokens, last.prompt_tokens, last.tokens_estimated) == (4, 7, False)
    assert last.seed == 5 and last.time_to_first_token_s is not None
    assert last.state_bytes == 0 and last.device_memory_bytes is None


def test_what_is_asked_for(server: FaultyServer, engine: RemoteEngine) -> None:
    read(engine)
    (body,) = server.bodies
    assert body == {
        "model": "stand-in",
        "prompt": "Once",
        "max_tokens": 20,
        "temperature": 0.8,
        "top_p": 0.95,
        "seed": 5,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_the_user_is_named_without_telling_the_salt_and_what_was_cached_is_told(
    server: FaultyServer, engine: RemoteEngine
) -> None:
    def tell(answer: Answer) -> None:
        answer.head()
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 5}}
        answer.event({"choices": [{"index": 0, "text": " upon"}], "usage": usage})
        answer.done("stop", tokens=1)

    server.answer(tell)
    salts = ("secret of a tab", "secret of a tab", "another's")
    chunks = [list(engine.submit(Request("Once", PLAIN, cache_salt=salt))) for salt in salts]
    names = [body["user"] for body in server.bodies]
    assert names[0] == names[1] != names[2] and "secret" not in str(server.bodies)
    assert chunks[0][-1].stats.cached_tokens == 5


def test_settings_beyond_openai_are_sent_where_they_do_something(
    server: FaultyServer, engine: RemoteEngine
) -> None:
    read(engine, SamplingParams(top_k=40, seed=None))
    (body,) = server.bodies
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (40, 0.05, 1.05)
    assert isinstance(body["seed"], int), "a drawn seed is sent, so that the page can name it"


@pytest.mark.parametrize("setting", [{"dry_multiplier": 0.8}, {"xtc_probability": 0.5}])
def test_what_a_server_is_known_not_to_do_is_refused(
    server: FaultyServer, engine: RemoteEngine, setting: dict[str, float]
) -> None:
    with pytest.raises(RequestError, match="sglang, which has neither DRY nor XTC"):
        engine.submit(Request("Once", replace(PLAIN, **setting)))
    assert server.bodies == []


def test_banned_phrases_go_to_a_server_of_ours_and_are_refused_by_others(
    server: FaultyServer, engine: RemoteEngine
) -> None:
    request = Request("Once", replace(PLAIN, max_new_tokens=5), banned=("a testament to",))
    with pytest.raises(RequestError, match="sglang, which cannot go back to before a banned phrase"):
        engine.submit(request)
    body = completion(request, ServedModel("m", OUR_SERVER))
    assert body["banned"] == ["a testament to"]
    with pytest.raises(RequestError, match="another program, which cannot go back"):
        completion(request, ServedModel("m"))
    said = {"choices": [{"text": "", "finish_reason": "stop", "stop_reason": "banned"}]}
    assert read_chunk(json.dumps(said)).finish_reason == "banned"


def test_the_server_says_what_it_offers(server: FaultyServer, engine: RemoteEngine) -> None:
    info = engine.info()
    assert (info.model, info.context, info.placement) == ("stand-in", 500, "remote")
    assert (info.parameters, info.dtype, info.load_s) == (None, None, None)
    assert info.device_name == "another server (sglang)"
    assert "127.0.0.1" not in repr(info), "visitors need not know the addresses behind the page"


def test_log_probabilities_in_the_form_of_completions(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer) -> None:
        answer.head()
        tops = [{" upon": -0.1, " there": -2.5}, {" a": -0.2}]
        said = {"tokens": [" upon", " a"], "token_logprobs": [-0.1, None], "top_logprobs": tops}
        answer.word(" upon a", logprobs=said)
        answer.done()

    server.answer(tell)
    chunks = read(engine, alternatives=2)
    assert server.bodies[0]["logprobs"] == 2
    details = [detail for chunk in chunks for detail in chunk.logprobs]
    assert [detail.sampled.text for detail in details] == [" upon", " a"]
    assert [other.text for other in details[0].top_logprobs] == [" upon", " there"]
    assert details[0].sampled == details[0].top_logprobs[0]
    assert details[0].top_logprobs[0].token_id != details[0].top_logprobs[1].token_id
    assert details[1].sampled.logprob == -math.inf
    assert chunks[-1].stats.tokens == 2 and not chunks[-1].stats.tokens_estimated


def test_unrequested_log_probabilities_only_count_tokens(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer) -> None:
        answer.head()
        answer.word("ab", logprobs={"tokens": ["a", "b"], "token_logprobs": [-1, -1]})
        answer.done()

    server.answer(tell)
    chunks = read(engine)
    assert not any(chunk.logprobs for chunk in chunks)
    assert chunks[-1].stats.tokens == 2


def test_log_probabilities_that_were_asked_for_have_to_be_readable(
    server: FaultyServer, engine: RemoteEngine
) -> None:
    server.answer(lambda answer: (answer.head(), answer.word("x", logprobs={"tokens": [1]}), answer.done()))
    last = read(engine, alternatives=2)[-1].stats
    assert last.error == CANNOT + "its log-probabilities cannot be read."


def test_chunks_are_counted_without_a_token_count(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer) -> None:
        begin(answer, " one", " two", " three")
        answer.done()

    server.answer(tell)
    last = read(engine)[-1].stats
    assert (last.tokens, last.tokens_estimated) == (3, True)


def test_a_full_context_is_told_from_enough_tokens(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer) -> None:
        begin(answer, " one")
        answer.done("length", tokens=12)

    server.answer(tell)
    assert read(engine)[-1].stats.finish_reason == "context"
    assert read(engine, replace(PLAIN, max_new_tokens=12))[-1].stats.finish_reason == "length"


def test_the_key_is_sent_and_never_said(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "very-secret")
    engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
    server.answer(lambda answer: (answer.head(403, "application/json"), answer.send(b"{}")))
    last = read(engine)[-1].stats
    engine.close()
    assert set(server.keys) == {"Bearer very-secret"}
    assert last.error == ("The engine’s server wants a key: set JET_ENGINE_KEY where this page is started.")
    assert "very-secret" not in repr(vars(engine)) + repr(last) + repr(engine.info())


def test_an_estimate_of_tokens_is_rather_too_high(engine: RemoteEngine) -> None:
    assert engine.count_tokens("") == 0
    assert engine.count_tokens("The lighthouse stood on the cliff.") == 12
    assert engine.count_tokens("灯台") == 2


# --- stopping --------------------------------------------------------------------------------------------


def test_stop_closes_the_connection_at_once(server: FaultyServer, engine: RemoteEngine) -> None:
    closed = threading.Event()

    def tell(answer: Answer) -> None:
        begin(answer, " upon")
        if answer.closed_by_reader():
            closed.set()

    server.answer(tell)
    stream = engine.submit(Request("Once", PLAIN))
    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        if chunk.text:
            stream.abort()
            stream.abort()
    assert closed.wait(2), "a server goes on writing until its reader hangs up"
    assert (text_of(chunks), chunks[-1].stats.finish_reason) == (" upon", "aborted")


def test_a_forgotten_stream_closes_the_connection(server: FaultyServer, engine: RemoteEngine) -> None:
    closed = threading.Event()
    server.answer(lambda answer: (begin(answer), answer.closed_by_reader() and closed.set()))
    stream = engine.submit(Request("Once", PLAIN))
    while not server.bodies:
        time.sleep(0.01)
    del stream
    assert closed.wait(2)


def test_stop_before_anything_has_been_sent(server: FaultyServer, engine: RemoteEngine) -> None:
    stream = engine.submit(Request("Once", PLAIN))
    stream.abort()
    assert list(stream)[-1].stats.finish_reason == "aborted"
    assert engine.info().active_requests == 0


def test_closing_the_engine_ends_every_stream_and_says_so(server: FaultyServer, engine: RemoteEngine) -> None:
    server.answer(lambda answer: (begin(answer, " upon"), answer.closed_by_reader()))
    stream = engine.submit(Request("Once", replace(PLAIN)))
    chunks = iter(stream)
    while not next(chunks).text:
        pass
    engine.close()
    assert list(chunks)[-1].stats.error == "The engine has been closed."
    assert not engine.alive
    with pytest.raises(RequestError, match="has been closed"):
        engine.submit(Request("Once", PLAIN))


# --- another attempt -------------------------------------------------------------------------------------


def tell_hello(answer: Answer) -> None:
    begin(answer, " hello")
    answer.done()


@pytest.mark.parametrize(
    "failure",
    [
        lambda answer: answer.drop(),
        lambda answer: answer.head(500),
        lambda answer: answer.head(502, "text/html"),
        lambda answer: answer.head(503),
        lambda answer: answer.head(429, Retry_After="0"),
        lambda answer: (answer.head(), answer.drop()),
        lambda answer: answer.head(),
        lambda answer: (answer.head(), answer.send(b': wait\n\ndata: {"cho')),
    ],
    ids=["drop", "500", "502", "503", "429", "drop after head", "nothing", "broken event"],
)
def test_before_the_first_token_it_is_tried_again(
    server: FaultyServer, engine: RemoteEngine, failure: Script
) -> None:
    server.answer(failure, failure, tell_hello)
    chunks = read(engine)
    assert (text_of(chunks), chunks[-1].stats.finish_reason) == (" hello", "length")
    assert len(server.bodies) == 3
    server.answer(failure)
    assert read(engine)[-1].stats.finish_reason == "error"
    assert len(server.bodies) == 6, "three times, and no more"


def test_a_pause_that_is_asked_for_is_kept(server: FaultyServer, engine: RemoteEngine) -> None:
    server.answer(lambda answer: answer.head(429, Retry_After="0"), tell_hello)
    read(engine)
    engine._options = replace(OPTIONS, most_pause_s=1.5)
    server.answer(lambda answer: answer.head(503, Retry_After="1"), tell_hello)
    read(engine)
    assert server.at[3] - server.at[2] >= 1.0


def test_a_long_pause_is_left_to_the_writer(server: FaultyServer, engine: RemoteEngine) -> None:
    server.answer(lambda answer: answer.head(429, Retry_After="60"))
    last = read(engine)[-1].stats
    assert last.error == "The engine’s server is busy. It asks to try again in 60 s."
    assert len(server.bodies) == 1


def test_stop_ends_a_pause(server: FaultyServer, engine: RemoteEngine) -> None:
    engine._options = replace(OPTIONS, most_pause_s=60)
    server.answer(lambda answer: answer.head(503, Retry_After="50"))
    stream = engine.submit(Request("Once", PLAIN))
    while not server.bodies:
        time.sleep(0.01)
    stream.abort()
    assert list(stream)[-1].stats.finish_reason == "aborted"


def test_nothing_is_written_twice(server: FaultyServer, engine: RemoteEngine) -> None:
    server.answer(lambda answer: (begin(answer, " upon"), answer.drop()), tell_hello)
    chunks = read(engine)
    assert text_of(chunks) == " upon"
    assert chunks[-1].stats.error == (
        "The engine’s server broke off in the middle of the story. What it has written is kept."
    )
    assert len(server.bodies) == 1


# --- what no server should do ----------------------------------------------------------------------------


def hang(answer: Answer) -> None:
    answer.closed_by_reader()


def comment_for_ever(answer: Answer) -> None:
    for _ in range(500):
        answer.send(b": still here\n\n")
        time.sleep(0.01)


def drip_for_ever(answer: Answer) -> None:
    answer.send(b"data: ")
    for _ in range(500):
        answer.send(b"x")
        time.sleep(0.01)


def flood(answer: Answer) -> None:
    for _ in range(40):
        answer.send(b"data: " + b"x" * 65_536)


def said(answer: Answer, *events: bytes) -> None:
    answer.head()
    for event in events:
        answer.send(b"data: " + event + b"\n\n")
    answer.closed_by_reader(1)


def with_head(script: Script) -> Script:
    return lambda answer: (answer.head(), script(answer))


CANNOT = "The engine’s server answers in a way that cannot be read: "
BAD = {
    "hangs": (hang, "The engine’s server does not answer. Please try again later."),
    "hangs after the head": (
        with_head(hang),
        "The engine’s server does not answer. Please try again later.",
    ),
    "comments": (
        with_head(comment_for_ever),
        "The engine’s server does not answer. Please try again later.",
    ),
    "drips": (with_head(drip_for_ever), "The engine’s server does not answer. Please try again later."),
    "floods": (with_head(flood), CANNOT + "a line has no end."),
    "no JSON": (lambda answer: said(answer, b"{oops"), CANNOT + "it is not JSON."),
    "deep JSON": (lambda answer: said(answer, b"[" * 200_000), CANNOT + "it is not JSON."),
    "a list": (lambda answer: said(answer, b"[]"), CANNOT + "it is no JSON object."),
    "no choices": (lambda answer: said(answer, b"{}"), CANNOT + "an event has no choices."),
    "no text": (
        lambda answer: said(answer, b'{"choices": [{"text": 5}]}'),
        CANNOT + "a choice has no text.",
    ),
    "no UTF-8": (lambda answer: said(answer, b'{"choices": "\xff"}'), CANNOT + "it is not UTF-8."),
    "a web page": (
        lambda answer: (answer.head(kind="text/html"), answer.send(b"<h1>hello</h1>")),
        CANNOT + "it sends text/html instead of a stream.",
    ),
    "no type": (
        lambda answer: answer.send(b"HTTP/1.1 200 OK\r\n\r\nhello"),
        CANNOT + "it sends something without a type instead of a stream.",
    ),
    "an endless page": (
        lambda answer: (answer.head(kind="text/html"), [answer.send(b"x" * 65_536) for _ in range(100)]),
        CANNOT + "it sends text/html instead of a stream.",
    ),
    "an error in words": (
        lambda answer: said(answer, b'{"error": "out of memory"}'),
        "The engine’s server says: out of memory. ",
    ),
    "an error": (
        lambda answer: said(answer, b'{"error": {"message": "too\\nlong", "code": 400}}'),
        "The engine’s server says: too long. ",
    ),
    "400": (
        lambda answer: (answer.head(400, "application/json"), answer.send(b'{"message": "no such thing"}')),
        "The engine’s server refuses this (400): no such thing.",
    ),
    "404": (
        lambda answer: answer.head(404),
        "The engine’s server has nothing at this address; it should end in /v1.",
    ),
    "elsewhere": (
        lambda answer: answer.head(302, Location="http://192.0.2.1/"),
        "The engine’s server is elsewhere (302): it sends this page to http://192.0.2.1/. A story and a key "
        "are not sent on to another server: if that one is meant, give its address.",
    ),
    "500": (
        lambda answer: (answer.head(500), answer.send(b'{"error": "' + b"x" * 1000 + b'"}')),
        "The engine’s server has failed (500): " + "x" * 299 + "…. Please try again later.",
    ),
    "no HTTP": (
        lambda answer: answer.send(b"SSH-2.0-hello\r\n\r\n"),
        "The engine’s server broke off before it wrote anything.",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_answer_is_the_end_of_its_request_in_clear_words(
    server: FaultyServer, engine: RemoteEngine, what: str
) -> None:
    script, message = BAD[what]
    server.answer(script)
    started = time.monotonic()
    last = read(engine)[-1].stats
    assert (last.finish_reason, last.error) == ("error", message)
    assert time.monotonic() - started < 8
    server.answer(tell_hello)
    assert text_of(read(engine)) == " hello", "and of nothing else"
    assert engine.info().active_requests == 0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda answer: answer.drop(), "broke off in the middle of the story"),
        (hang, "has fallen silent"),
        (comment_for_ever, "has fallen silent"),
        (lambda answer: answer.event({"error": {"message": "worker died"}}), "says: worker died"),
        (lambda answer: answer.send(b"data: {\n\n"), "cannot be read"),
        (lambda answer: answer.word("", finish_reason="abort"), "ended the story: abort"),
    ],
    ids=["drops", "hangs", "comments", "error", "no JSON", "aborts"],
)
def test_in_mid_stream_the_text_is_kept(
    server: FaultyServer, engine: RemoteEngine, act: Script, message: str
) -> None:
    server.answer(lambda answer: (begin(answer, " upon", " a time"), act(answer)))
    chunks = read(engine)
    last = chunks[-1].stats
    assert text_of(chunks) == " upon a time"
    assert last.finish_reason == "error" and last.error is not None and message in last.error
    assert last.tokens == 2
    assert len(server.bodies) == 1


def test_an_end_without_the_last_word_is_an_end(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer, after: Callable[[Answer], object]) -> None:
        begin(answer, " upon")
        answer.word("", finish_reason="stop")
        after(answer)

    for after in (lambda answer: None, lambda answer: answer.drop(), hang):
        server.answer(lambda answer, after=after: tell(answer, after))
        chunks = read(engine)
        assert (text_of(chunks), chunks[-1].stats.finish_reason) == (" upon", "stop")


def test_characters_come_whole_from_bytes_that_are_split(server: FaultyServer, engine: RemoteEngine) -> None:
    story = " née 灯台 🏮\u2028\x85 end"

    def tell(answer: Answer) -> None:
        answer.head()
        event = b'data: {"choices": [{"text": "' + story.encode() + b'"}]}\r\n\r\n'
        for byte in event:
            answer.send(bytes([byte]))
        answer.send(b'event: x\ndata: {"choices":\ndata: [{"text": " \\ud83c\\udfee \\ud800"}]}\n\n')
        answer.done()

    server.answer(tell)
    assert text_of(read(engine)) == story + " 🏮 �"


def test_a_slow_story_is_no_silence(server: FaultyServer, engine: RemoteEngine) -> None:
    def tell(answer: Answer) -> None:
        answer.head()
        for number in range(8):
            time.sleep(0.1)
            answer.word(f" {number}")
        answer.done()

    server.answer(tell)
    assert text_of(read(engine)) == " 0 1 2 3 4 5 6 7"


# --- many, and none at all -------------------------------------------------------------------------------


def test_many_stories_at_once(server: FaultyServer, engine: RemoteEngine) -> None:
    together = threading.Barrier(24)

    def tell(answer: Answer) -> None:
        together.wait(60)
        begin(answer, answer.body["prompt"], "!")
        answer.done()

    server.answer(tell)
    streams = [engine.submit(Request(f" {number}", PLAIN)) for number in range(24)]
    assert [text_of(list(stream)) for stream in streams] == [f" {number}!" for number in range(24)]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/v1", "cannot be reached"),
        ("ftp://127.0.0.1/v1", "must be like http://host:port/v1"),
        ("127.0.0.1:9", "must be like"),
        ("http://[", "cannot be reached|must be like|is none"),
        ("", "must be like"),
    ],
)
def test_an_address_where_nothing_is(url: str, message: str) -> None:
    before = threading.active_count()
    with pytest.raises(RemoteError, match=message):
        RemoteConfig(url).create()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"data": []}, "it offers no model"),
        ({"data": [{"name": "x"}]}, "it offers no model"),
        ({"data": "x"}, "it offers no model"),
        ([], "it is no JSON object"),
        (lambda answer: (answer.head(), answer.send(b"<html>")), "it is not JSON"),
        (lambda answer: answer.head(404), "should end in /v1"),
        (lambda answer: answer.head(401), "wants a key"),
        (lambda answer: answer.head(500), "has failed"),
        (hang, "does not answer"),
    ],
)
def test_a_server_that_offers_nothing(server: FaultyServer, models: object, message: str) -> None:
    server.models = models
    with pytest.raises(RemoteError, match=message):
        RemoteEngine(RemoteConfig(server.url), replace(OPTIONS, connect_s=0.3))


def test_the_model_that_is_wanted(server: FaultyServer) -> None:
    server.models = {"data": [*MODELS["data"], {"id": "other", "meta": {"n_ctx": 99, "n_params": 7}}]}
    engine = RemoteEngine(RemoteConfig(server.url, model="other", context=1000), OPTIONS)
    info = engine.info()
    engine.close()
    assert (info.model, info.context, info.parameters, info.device_name) == ("other", 99, 7, "another server")
    with pytest.raises(RemoteError, match="it does not offer third, but stand-in, other"):
        RemoteEngine(RemoteConfig(server.url, model="third"), OPTIONS)


@pytest.mark.parametrize(("wanted", "context"), [(None, 4096), (100, 100), (10_000, 10_000)])
def test_the_context_of_a_server_that_does_not_say(
    server: FaultyServer, wanted: int | None, context: int
) -> None:
    server.models = {"data": [{"id": "m"}]}
    engine = RemoteEngine(RemoteConfig(server.url, context=wanted), OPTIONS)
    assert engine.info().context == context
    engine.close()
