"""Test the use of proxies: never for this machine; errors name a proxy that fails."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from jet import proxies
from jet.api import Request, SamplingParams
from jet.engine.remote.client import RemoteConfig, RemoteEngine, RemoteOptions
from jet.engine.remote.responses import RemoteError
from tests.engine.faulty_server import MODELS, FaultyServer, faulty_server
from tests.engine.http_server import serving

OPTIONS = RemoteOptions(connect_s=2.0, first_token_s=5.0, pause_s=0.02)
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
DEAD = "http://ann:pw-of-the-proxy@127.0.0.1:9"
NAMES = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        for one in (name, name.upper()):
            monkeypatch.setenv(one, "x")  # so that it is put back, whatever a test does
            monkeypatch.delenv(one)


@contextmanager
def proxy(status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """Serve a proxy that answers everything itself; yield its URL and its requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def _answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            body = b'{"data": [{"id": "behind the proxy", "max_model_len": 99}]}' if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_CONNECT = _answer

    with serving(Handler) as url:
        yield url, asked


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        yield server


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "stories.localhost."])
def test_an_engine_of_this_machine_is_reached_without_a_proxy(
    server: FaultyServer, name: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(server.url.split(":")[2].split("/")[0])
    if host == "stories.localhost.":  # which not every resolver knows
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda name, *more, **named: real("127.0.0.1", *more, **named)
        )
    monkeypatch.setenv(name, DEAD)
    engine = RemoteEngine(RemoteConfig(f"http://{host}:{port}/v1"), OPTIONS)
    assert engine.info().model == MODELS["data"][0]["id"]
    chunks = list(engine.submit(Request("Once", SamplingParams(max_new_tokens=3))))
    engine.close()
    assert chunks[-1].stats.error is None and any(chunk.text == "Hello" for chunk in chunks)


@pytest.mark.parametrize("broken", ["socks5://127.0.0.1:9", "ftp://127.0.0.1", "http://[", "nonsense:port"])
def test_a_proxy_that_is_none_does_not_keep_a_local_engine_away(
    server: FaultyServer, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", broken)
    engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
    assert engine.info().context == 500
    engine.close()


def test_over_ipv6_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    with pytest.raises(RemoteError, match=r"cannot be reached: ") as error:
        RemoteEngine(RemoteConfig("http://[::1]:9/v1"), OPTIONS)
    assert "proxy" not in str(error.value)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_an_engine_elsewhere_keeps_its_proxy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as (url, asked):
        monkeypatch.setenv(name, url.removeprefix("http://") if name == "HTTP_PROXY" else url)
        engine = RemoteEngine(RemoteConfig("http://engine.invalid/v1"), OPTIONS)
        assert engine.info().model == "behind the proxy"
        assert asked == ["GET http://engine.invalid/v1/models"]
        engine.close()


@pytest.mark.parametrize("no_proxy", ["engine.invalid", "other, .invalid", "*"])
def test_no_proxy_is_still_heeded(no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as (url, asked):
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("NO_PROXY", no_proxy)
        with pytest.raises(RemoteError, match="cannot be reached: "):
            RemoteEngine(RemoteConfig("http://engine.invalid/v1"), OPTIONS)
        assert asked == []


@pytest.mark.parametrize(
    ("address", "variable", "value", "words"),
    [
        (
            "http://engine.invalid/v1",
            "http_proxy",
            DEAD,
            "through the proxy http://127.0.0.1:9 of http_proxy: ",
        ),
        ("https://engine.invalid/v1", "HTTPS_PROXY", DEAD, "the proxy http://127.0.0.1:9 of HTTPS_PROXY: "),
        (
            "http://engine.invalid/v1",
            "all_proxy",
            "socks5://ann:pw-of-the-proxy@h:1",
            "needs the package socksio",
        ),
        (
            "http://engine.invalid/v1",
            "ALL_PROXY",
            "ftp://ann:pw-of-the-proxy@h:1",
            "of ALL_PROXY cannot be used",
        ),
        ("http://engine.invalid/v1", "http_proxy", "http://ann:pw-of-the-proxy@h:port", "cannot be used"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    address: str, variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RemoteError) as error:
        RemoteEngine(RemoteConfig(address), OPTIONS)
    said = str(error.value)
    assert words in said and "NO_PROXY=engine.invalid" in said
    assert "pw-of-the-proxy" not in said and error.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "words"), [(407, "wants a name and a password"), (502, "has failed (502)")]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_a_proxy_refuses_names_the_proxy(
    status: int, words: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(status) as (url, asked):
        monkeypatch.setenv("all_proxy", url)
        with pytest.raises(RemoteError) as error:
            RemoteEngine(RemoteConfig(f"{scheme}://engine.invalid/v1"), OPTIONS)
        said = str(error.value)
        assert f"through the proxy {url} of all_proxy" in said
        assert words in said if scheme == "http" else str(status) in said
        assert len(asked) == 1


def test_other_libraries_are_told_and_what_was_said_before_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as (url, asked), faulty_server() as server:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "intranet.invalid")
        proxies.prepare_environment("127.0.0.7", "[::1]", "elsewhere.invalid", None)
        assert httpx.get(f"{server.url}/models").json() == MODELS
        assert asked == []
        assert httpx.get("http://elsewhere.invalid/").status_code == 200 and len(asked) == 1
        with pytest.raises(httpx.ConnectError):
            httpx.get("http://intranet.invalid/")
    for host in (
        "localhost",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "::ffff:127.0.0.1",
        "a.localhost",
        "0.0.0.0",
    ):
        assert proxies.is_loopback(host), host
    for host in ("localhost.example", "128.0.0.1", "::2", "127.0.0.1.example", "10.0.0.1", "example"):
        assert not proxies.is_loopback(host), host


@pytest.mark.parametrize("name", ["ALL_PROXY", "http_proxy", "https_proxy"])
@pytest.mark.parametrize(
    "broken", ["socks5://h:9", "socks5h://ann:pw-of-ann@h", "ftp://h", "nonsense:port", "://"]
)
def test_a_proxy_that_is_none_keeps_no_library_from_this_machine(
    server: FaultyServer, name: str, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "_set_aside", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv(name, broken)
    with pytest.raises((ValueError, ImportError, httpx.InvalidURL)):
        httpx.Client()
    proxies.prepare_environment()
    httpx.Client().close()  # as Gradio makes one when it is imported
    assert httpx.get(f"{server.url}/models").json() == MODELS
    scheme = "https" if name == "https_proxy" else "http"
    found = proxies.proxy_of(scheme, "elsewhere.invalid")
    assert found is not None and found.variable == name and found.trouble, "what goes there still names it"
    assert "pw-of-ann" not in repr(found)
    assert proxies.proxy_of(scheme, "127.0.0.1") is None
    monkeypatch.setenv("http_proxy", DEAD)
    assert (
        str(proxies.proxy_of("http", "elsewhere.invalid")) == "Proxy('http://127.0.0.1:9', from http_proxy)"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("localhost,127.0.0.1,::1,fd00::/8", "localhost,127.0.0.1,::1"),
        ("[::1]", "::1,localhost,127.0.0.1"),
        ("[2001:db8::1]:8080 , .svc", "2001:db8::1,.svc,localhost,127.0.0.1,::1"),
        ("10.0.0.0/8,fe80::/10,::1/128", "10.0.0.0/8,localhost,127.0.0.1,::1"),
        ("intranet:port,intranet:80", "intranet:80,localhost,127.0.0.1,::1"),
        ("https://intranet,<local>,*.local", "https://intranet,<local>,*.local,localhost,127.0.0.1,::1"),
        ("fd00::/8,*", "fd00::/8,*"),
    ],
)
def test_whatever_no_proxy_names_libraries_can_read(
    given: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", given)
    proxies.prepare_environment()
    httpx.Client().close()
    assert os.environ["no_proxy"] == kept


def test_the_page_opens_and_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.ui.served import serve

    for name in ("http_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, DEAD)
    with serve() as served:
        assert httpx.get(f"{served.url}healthz").status_code == 200
    assert threading.active_count() < 100
