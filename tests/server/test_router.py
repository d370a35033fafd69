"""Test SGLang's router in front of two engines: what it asks for, and where stories go."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from starlette.middleware import Middleware

from jet.engine.remote.client import RemoteConfig, RemoteEngine
from jet.server.hosting import Hosting
from jet.server.openai.paths import READ, SENT
from jet.server.router import is_installed, router_command
from scripts.processes import free_port
from tests.server.openai.served_api import Api, Source, served_api, small_engine
from tests.ui.served import wait_until

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not is_installed(), reason="sglang-router is not installed: the router is NOT tested"),
]
ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0
CLIENT = httpx.Client(timeout=PATIENCE_S, trust_env=False)


class Recorder:
    """ASGI middleware that records method and path of each request."""

    def __init__(self, app: object, asked: list[tuple[str, str]]) -> None:
        self._app, self._asked = app, asked

    async def __call__(self, scope: dict[str, object], receive: object, send: object) -> None:
        if scope["type"] == "http":
            self._asked.append((str(scope["method"]), str(scope["path"])))
        await self._app(scope, receive, send)  # type: ignore[operator]


@dataclass
class NotingHosting(Hosting):
    """Hosting that records method and path of each request."""

    asked: list[tuple[str, str]] = field(default_factory=list)

    def middleware(self, local: bool) -> list[Middleware]:
        return [Middleware(Recorder, asked=self.asked), *super().middleware(local)]


@dataclass
class Routed:
    """A router in front of two engines, and the requests that the engines got."""

    url: str
    engines: list[Api]
    asked: list[tuple[str, str]]


def answers(get: Callable[[], bool]) -> Callable[[], bool]:
    def safely() -> bool:
        try:
            return get()
        except (httpx.HTTPError, KeyError, ValueError):
            return False

    return safely


@contextmanager
def router(engines: list[str]) -> Iterator[str]:
    """Run a router until left; yield its address once it knows all engines."""
    port = free_port()
    process = subprocess.Popen(router_command(engines, "127.0.0.1", port))
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(answers(lambda: healthy(url) == len(engines)), PATIENCE_S)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def healthy(url: str) -> int:
    """Return how many engines the router uses."""
    return sum(one["is_healthy"] for one in CLIENT.get(f"{url}/workers").json()["workers"])


@pytest.fixture(scope="module")
def routed() -> Iterator[Routed]:
    asked: list[tuple[str, str]] = []
    with ExitStack() as stack:
        engines = []
        for _ in range(2):
            hosting = NotingHosting(behind_router=True)
            hosting.asked = asked
            engine = small_engine()
            stack.callback(engine.close)
            engines.append(stack.enter_context(served_api(Source(engine), hosting)))
        url = stack.enter_context(router([str(api.client.base_url).rstrip("/") for api in engines]))
        yield Routed(url, engines, asked)


def test_all_that_the_router_asks_for_is_offered(routed: Routed) -> None:
    assert {path for _, path in routed.asked} >= {"/health", "/server_info", "/model_info"}
    # PRI: it also tries whether a worker speaks gRPC.
    for method, path in {one for one in routed.asked if one[0] != "PRI"}:
        assert (READ if method == "GET" else SENT).fullmatch(path), path
        assert routed.engines[0].client.request(method, path).status_code in (200, 400)
    for older in ("/get_server_info", "/get_model_info", "/get_load"):
        assert routed.engines[0].client.get(older).status_code == 200
    assert CLIENT.get(f"{routed.url}/v1/models").json()["data"][0]["id"] == "tests/tiny"
    assert CLIENT.get(f"{routed.url}/get_model_info").json()["context_length"] > 0


def test_the_page_learns_context_and_kind_of_server_through_the_router(routed: Routed) -> None:
    engine = RemoteEngine(RemoteConfig(f"{routed.url}/v1"))
    try:
        info = engine.info()
        assert info.context == routed.engines[0].engine.info().context
        assert info.device_name == "another server (jet-stories)"
    finally:
        engine.close()


def test_fields_beyond_openais_and_errors_pass_through(routed: Routed) -> None:
    body = {"model": "tests/tiny", "prompt": "the sea", "max_tokens": 9, "seed": 3}
    plain = CLIENT.post(f"{routed.url}/v1/completions", json=body).json()["choices"][0]["text"]
    other = CLIENT.post(
        f"{routed.url}/v1/completions", json={**body, "xtc_probability": 1, "xtc_threshold": 0.01}
    )
    assert other.json()["choices"][0]["text"] != plain
    refused = CLIENT.post(f"{routed.url}/v1/completions", json={**body, "dry_multiplier": "x"})
    assert refused.status_code == 400 and "dry_multiplier" in refused.json()["error"]["message"]
    foreign = CLIENT.post(
        f"{routed.url}/v1/completions", json=body, headers={"Origin": "https://evil.example"}
    )
    assert foreign.headers.get("access-control-allow-origin") in (None, f"http://localhost:{routed.url[-5:]}")


def test_stories_spread_and_stay_where_their_beginning_is(routed: Routed) -> None:
    """Continue eight stories side by side, three times.

    At least 90 % of the tokens of each story's previous prompt must come from the cache.
    """
    openings = ["The sea", "A hill", "Two old men", "When it rained", "Snow", "My aunt", "No door", "Ships"]
    stories = [f"{words} and the keeper of the light went on. " * 12 for words in openings]

    def go_on(number: int) -> tuple[str, int, int]:
        body = {"model": "tests/tiny", "prompt": stories[number], "max_tokens": 60, "user": f"user {number}"}
        body |= {"seed": number, "ignore_eos": True}
        answer = CLIENT.post(f"{routed.url}/v1/completions", json=body).json()
        usage = answer["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return answer["choices"][0]["text"], cached, usage["prompt_tokens"]

    cached, known, last = 0, 0, [0] * len(stories)
    with ThreadPoolExecutor(len(stories)) as pool:
        for turn in range(3):
            for number, (text, restored, tokens) in enumerate(pool.map(go_on, range(len(stories)))):
                if turn:
                    cached, known = cached + min(restored, last[number]), known + last[number]
                last[number] = tokens
                stories[number] += text.replace("\ufffd", "") + " And so on."
    assert cached / known >= 0.9
    assert all(prompt_tokens(api) for api in routed.engines), "one engine got no story"


def prompt_tokens(api: Api) -> float:
    lines = api.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("jet_prompt_tokens_total "))
