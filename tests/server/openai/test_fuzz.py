"""Fuzz the API: each request gets 200 or a 4xx with a message, and the engine stays as it was."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from jet.cache.state_pool import PAGE_SIZE
from tests.server.openai.served_api import Api, Source, served_api, small_engine

EVERYDAY, THOROUGH = 200, 5_000
AT_ONCE = 16
PATIENCE_S = 60.0

PATHS = {
    "/v1/completions": {"prompt": "The sea", "max_tokens": 3, "seed": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "seed": 1},
    "/tokenize": {"prompt": "The sea"},
    "/detokenize": {"tokens": [5, 9, 200]},
    "/api/v1/generate": {"prompt": "The sea", "max_length": 3},
    "/api/extra/generate/stream": {"prompt": "The sea", "max_length": 3},
    "/api/extra/generate/check": {"genkey": "x"},
    "/api/extra/abort": {"genkey": "x"},
    "/api/extra/tokencount": {"prompt": "The sea"},
}
FIELDS = (
    *(
        "model",
        "prompt",
        "messages",
        "tokens",
        "content",
        "max_tokens",
        "max_completion_tokens",
        "max_length",
    ),
    *("n", "stream", "stream_options", "stop", "stop_sequence", "echo", "logprobs", "top_logprobs", "seed"),
    *(
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "rep_pen",
        "dry_multiplier",
        "dry_base",
    ),
    *("dry_allowed_length", "xtc_probability", "xtc_threshold", "logit_bias", "ignore_eos", "min_tokens"),
    *("user", "genkey", "best_of", "suffix", "response_format", "tools", "functions", "memory", "n_predict"),
    *(
        "max_context_length",
        "banned",
        "banned_lists",
        "banned_tokens",
        "continue_final_message",
        "add_special_tokens",
        "return_token_strs",
        "unheard_of",
    ),
)
VALUES: tuple[object, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        7,
        1e308,
        -1e308,
        10**30,
        -(10**30),
        0.5,
        1e-320,
        2**63,
        2**31,
        "",
        "x",
    ),
    *("\x00", "\ud83c", "\u202e\ufeff", "😀" * 50, "<|endoftext|><|im_end|>", "../../etc/passwd", "NaN", "1"),
    *("\r\nX-Harm: 1", "{{7*7}}", "bytes:\\xff", [], {}, [None], [[]], [[], [1]], [1, "a"], [True], [-1]),
    *([0] * 9, [10**9], [[1, 2], [3]], ["a", "b"], [["a"]], [{}], {"a": 1}, {"1": 5}, {"-1": 1}, {"9999": 1}),
    *({"1": 1e9}, {"1": None}, [[1, -5]], [[1, False]], [[1]], {"type": "text"}, {"include_usage": True}),
    *({"include_usage": 5}, [{"role": "user", "content": None}], [{"role": "robot", "content": "a"}]),
    *([{"role": "assistant", "content": "a"}], [{"role": "user", "content": [{"type": "image_url"}]}]),
)
LONG: tuple[object, ...] = (
    "a" * 100_000,
    "word " * 20_000,
    [5] * 20_000,
    ["a"] * 3_000,
    {"a": [[[[[1]]]]] * 99},
)
RAW: tuple[bytes, ...] = (
    *(
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'"a"',
        b"[" * 50_000,
        b'{"prompt":' * 20_000,
        b"\xff\xfe\x00",
        b"NaN",
    ),
    *(b'{"prompt": NaN}', b'{"temperature": Infinity}', b'{"n": 1e999}', b'{"n": ' + b"9" * 5_000 + b"}"),
    *(b'{"prompt": "a", "prompt": 5}', b'{"prompt": "\\ud83c"}', b"prompt=a&n=1"),
    b'{"__proto__": {"a": 1}}',
)
ODD_HEADERS: tuple[dict[str, str], ...] = (
    *({}, {}, {}, {"content-type": "text/plain"}, {"authorization": "Bearer " + "k" * 5_000}),
    *(
        {"authorization": "Basic x"},
        {"x-request-id": "a b<script>"},
        {"x-api-key": "secret-8261"},
        {"accept": "x"},
    ),
)


def requests(count: int, seed: int) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Yield mutated requests: some fields replaced, left out or added, whole bodies that are no JSON."""
    rng = random.Random(seed)
    # Every field of every route with every value comes first, as far as that goes, then anything.
    single = [(path, field, value) for path in PATHS for field in FIELDS for value in VALUES]
    rng.shuffle(single)
    for number in range(count):
        path, field, value = single[number % len(single)]
        headers = dict(rng.choice(ODD_HEADERS))
        body: dict[str, Any] = {**PATHS[path], field: value}
        if number % 3 == 2:
            for _ in range(rng.randrange(5)):
                body[rng.choice(FIELDS)] = rng.choice(LONG if rng.random() < 0.05 else VALUES)
            for gone in rng.sample(sorted(body), rng.randrange(2)):
                del body[gone]
        if number % 23 == 7:
            yield path, headers, rng.choice(RAW)
        else:
            yield path, headers, json.dumps(body, allow_nan=False).encode()


@dataclass
class Reply:
    """A response."""

    status: int
    headers: dict[str, str]
    text: str


class Connection:
    """A client of a few lines, because other clients take longer over a request than the server."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Send a call and read the response to its end."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        status, *pairs = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = dict(pair.lower().split(": ", 1) for pair in pairs if pair)
        text = b""
        if "content-length" in found:
            text = await self._reader.readexactly(int(found["content-length"]))
        else:
            while size := int(await self._reader.readline(), 16):
                text += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        if found.get("connection") == "close":
            self.close()
        return Reply(int(status.split()[1]), found, text.decode())

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def send_all(api: Api, sent: Iterator[tuple[str, dict[str, str], bytes]]) -> list[str]:
    """Send requests, `AT_ONCE` at a time; return the faults of the answers."""
    wrong: list[str] = []

    async def work() -> None:
        connection = Connection(api.url)
        for path, headers, body in sent:
            try:
                answer = await asyncio.wait_for(connection.post(path, headers, body), PATIENCE_S)
            except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
                wrong.append(f"{path} {body[:200]!r}: {error!r}")
                connection.close()
                continue
            if problem := problem_of(answer):
                wrong.append(f"{path} {body[:300]!r}: {answer.status} {problem}")
        connection.close()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return wrong


def problem_of(answer: Reply) -> str | None:
    """Return the fault of an answer; None if it has none."""
    if "secret-8261" in answer.text or "Traceback" in answer.text or "x-harm" in answer.headers:
        return f"tells what it should not: {answer.text[:200]}"
    if not answer.headers.get("x-request-id"):
        return "has no id"
    if answer.status == 200:
        return None if '"error"' not in answer.text else f"an error in the answer: {answer.text[-300:]}"
    if not 400 <= answer.status < 500:
        return answer.text[:300]
    error = json.loads(answer.text)["error"]
    whole = set(error) == {"message", "type", "param", "code"} and 0 < len(error["message"]) < 1_000
    return None if whole else f"not in words: {answer.text[:300]}"


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    """Yield the API of a server whose answers end soon, however many tokens are requested."""
    engine = small_engine(context=PAGE_SIZE)
    with served_api(Source(engine)) as api:
        yield api
    engine.close()


def reference(api: Api) -> object:
    """Return the choices that the engine writes for a fixed request."""
    body = {"prompt": "The old lighthouse", "max_tokens": 12, "seed": 5, "logprobs": 2, "echo": True}
    return api.post("/v1/completions", body).json()["choices"]


@pytest.mark.parametrize(
    "count", [EVERYDAY, pytest.param(THOROUGH, marks=[pytest.mark.thorough, pytest.mark.timeout(600)])]
)
def test_no_request_makes_the_server_fail_hang_or_change(
    api: Api, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    before, pages = reference(api), api.engine.info()
    wrong = asyncio.run(send_all(api, requests(count, seed=count)))
    assert not wrong, "\n".join(wrong[:20])
    found, wanted = reference(api), before
    # Log-probabilities may differ in their last digits with the company that a prompt was read in.
    assert [one["text"] for one in found] == [one["text"] for one in wanted]
    values = [one["logprobs"]["token_logprobs"][1:] for one in (found[0], wanted[0])]
    assert values[0] == pytest.approx(values[1], abs=1e-4)
    assert pages.context == api.engine.info().context and api.engine.alive
    assert "secret-8261" not in caplog.text
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]
