"""Test the middleware: allowed requests reach Gradio, others do not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from jet.server import middleware
from jet.server.limits import Limits
from jet.server.middleware import HEADERS, AllowlistMiddleware

Headers = Sequence[tuple[str, str]]
HOST = ("Host", "localhost:7860")


class Call:
    """A call through the middleware to an application that records requests and answers 200."""

    def __init__(
        self,
        guard: AllowlistMiddleware | None = None,
        path: str = "/",
        method: str = "GET",
        headers: Headers = (HOST,),
        body: Sequence[bytes] = (),
        client: str = "192.0.2.7",
    ) -> None:
        self.seen: dict[str, Any] | None = None
        self.body = b""
        self.sent: list[Any] = []
        self.guard = guard or make()
        self.guard._app = self._app
        self.scope = {
            "type": "http",
            "path": path,
            "method": method,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
            "client": (client, 1234),
            "root_path": "",
        }
        pieces = list(body) or [b""]
        self._messages = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces) - 1}
            for number, piece in enumerate(pieces)
        ]

    def run(self) -> Call:
        asyncio.run(self.guard(self.scope, self._receive, self._send))
        return self

    async def _receive(self) -> Any:
        if not self._messages:
            await asyncio.sleep(3600)
        return self._messages.pop(0)

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen = scope
        if scope["method"] == "POST":
            self.body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    def header(self, name: str) -> str | None:
        found = dict(self.sent[0]["headers"]).get(name.lower().encode())
        return None if found is None else found.decode()


def make(**more: Any) -> AllowlistMiddleware:
    limits = more.pop("limits", Limits())
    return AllowlistMiddleware(lambda *_: None, limits, **more)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/config",
        "/assets/index-Ab_1.js",
        "/web/0123456789abcdef/app.js",
        "/theme.css",
        "/gradio_api/queue/data",
        "/gradio_api/heartbeat/abc123",
        "/gradio_api/call/generate/0f3a",
        "/gradio_api/mcp/",
        "/healthz",
        "/metrics",
    ],
)
def test_the_page_gets_through(path: str) -> None:
    call = Call(path=path).run()
    assert call.status == 200
    is_part = path.endswith((".js", ".css", ".ico"))  # a policy is the document's that loads it
    for name, value in HEADERS.items():
        assert call.header(name) == (None if is_part and name != "X-Content-Type-Options" else value)


def test_what_is_a_document_of_its_own_has_every_header() -> None:
    for path in ("/static/img/logo.svg", "/assets/frame.html", "/assets/worker", "/web/0123456789abcdef/"):
        call = Call(path=path).run()
        assert all(call.header(name) == value for name, value in HEADERS.items()), path


@pytest.mark.parametrize(
    "path, lasts", [("/assets/index-Ab_1.js", True), ("/", False), ("/theme.css", False)]
)
def test_only_what_never_changes_is_kept_by_browsers(path: str, lasts: bool) -> None:
    assert ("immutable" in (Call(path=path).run().header("Cache-Control") or "")) == lasts


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://192.0.2.1/",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://192.0.2.1/",
        "/gradio_api/upload_progress",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/custom_component/x/client/component/index.js",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/monitoring/summary",
        "/gradio_api/dev/reload",
        "/docs",
        "/openapi.json",
        "/web/app.js",
        "/web/0123456789abcdef/page_state.js",
        "/web/0123456789abcdef/package.json",
        "/static/../../../etc/passwd",
        "/static/..%2f",
        "/assets/a\\b",
        "/assets/a\0b",
        "//etc/passwd",
        "/static//etc/passwd",
        "/gradio_api/heartbeat/a/b",
    ],
)
def test_nothing_else_does(path: str) -> None:
    call = Call(path=path).run()
    assert call.status == 404 and call.seen is None
    assert call.header("X-Content-Type-Options") == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/gradio_api/queue/join", 200),
        ("POST", "/gradio_api/call/generate", 200),
        ("POST", "/gradio_api/run/stats", 200),
        ("POST", "/login", 200),
        ("POST", "/gradio_api/upload", 404),
        ("POST", "/gradio_api/component_server", 404),
        ("POST", "/gradio_api/process_recording", 404),
        ("POST", "/gradio_api/vibe-edit", 404),
        ("POST", "/", 404),
        ("PUT", "/", 405),
        ("TRACE", "/", 405),
        ("DELETE", "/gradio_api/file=x", 404),
    ],
)
def test_methods(method: str, path: str, status: int) -> None:
    assert Call(path=path, method=method).run().status == status


def test_a_websocket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(make()({"type": "websocket", "path": "/"}, send, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Host", "localhost")], 200),
        ([("Host", "127.0.0.1:7860")], 200),
        ([("Host", "[::1]:7860")], 200),
        ([("Host", "rebound.example")], 421),
        ([("Host", "localhost.rebound.example:7860")], 421),
        ([("Host", "a b")], 400),
        ([("Host", "localhost:7860@rebound.example")], 400),
        ([("Host", 'localhost"><script>')], 400),
        ([("Host", "localhost"), ("Host", "rebound.example")], 400),
        ([], 400),
    ],
)
def test_hosts_of_a_page_for_this_machine(headers: Headers, status: int) -> None:
    assert Call(headers=headers).run().status == status


def test_a_call_has_one_length() -> None:
    chunked, counted = ("Transfer-Encoding", "chunked"), ("Content-Length", "2")
    assert Call(headers=[HOST, chunked, counted]).run().status == 400
    assert Call(headers=[HOST, chunked]).run().status == Call(headers=[HOST, counted]).run().status == 200


def test_hosts_of_a_page_for_others() -> None:
    headers = [("Host", "stories.example")]
    assert Call(make(local=False), headers=headers).run().status == 200
    assert Call(make(proxies=1), headers=headers).run().status == 200


def test_forwarded_headers_are_ignored_without_a_proxy() -> None:
    lies = [HOST, ("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-Host", "evil"), ("Forwarded", "for=1.2.3.4")]
    call = Call(headers=[*lies, ("X-Real-IP", "10.0.0.1")]).run()
    assert call.seen is not None
    assert call.seen["client"] == ("192.0.2.7", 1234)
    assert call.seen["headers"] == [(b"host", b"localhost:7860")]


@pytest.mark.parametrize(
    ("proxies", "said", "client"),
    [
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "10.9.9.9, 203.0.113.9", "203.0.113.9"),
        (2, "10.9.9.9, 203.0.113.9, 198.51.100.1", "203.0.113.9"),
        (2, "203.0.113.9", "192.0.2.7"),
        (1, "not an address", "192.0.2.7"),
        (1, "", "192.0.2.7"),
    ],
)
def test_a_proxy_is_believed_about_the_last_hops_only(proxies: int, said: str, client: str) -> None:
    call = Call(make(proxies=proxies), headers=[HOST, ("X-Forwarded-For", said)]).run()
    assert call.seen is not None and call.seen["client"][0] == client


def post(guard: AllowlistMiddleware, body: Sequence[bytes] = (), headers: Headers = (), **more: Any) -> Call:
    return Call(
        guard, more.pop("path", "/gradio_api/queue/join"), "POST", [HOST, *headers], body, **more
    ).run()


def test_a_body_arrives_whole() -> None:
    assert post(make(), [b"ab", b"", b"cd"]).body == b"abcd"


def test_a_body_that_is_too_large_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.05)
    small = make(limits=Limits(body_bytes=10))
    assert post(small, [b"x" * 10]).status == 200
    assert post(small, [b"x" * 6, b"x" * 5]).status == 413
    assert post(small, headers=[("Content-Length", "11")]).status == 413
    assert post(small, headers=[("Content-Length", "-1")]).status == 413
    assert post(small, headers=[("Content-Length", "1e9")]).status == 413


def test_a_body_that_never_ends_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.05)
    call = Call(make(), "/gradio_api/queue/join", "POST")
    call._messages = [{"type": "http.request", "body": b"x", "more_body": True}]
    assert call.run().status == 408


def test_a_flood_is_refused_politely_and_no_one_else_with_it() -> None:
    now = [0.0]
    told: list[int] = []
    limits = Limits(calls_per_second=2)
    page = make(limits=limits, clock=lambda: now[0], on_reject=told.append)
    statuses = [post(page).status for _ in range(30)]
    assert statuses == [200] * 20 + [429] * 10
    call = post(page)
    assert call.header("Retry-After") == "1"
    assert b"Your text is still here" in call.sent[1]["body"]
    assert Call(page).run().status == 200, "reading is not counted"
    assert post(page, client="192.0.2.8").status == 200
    now[0] = 1.0
    assert [post(page).status for _ in range(3)] == [200, 200, 429]
    assert told == [429] * 12


def test_passwords_cannot_be_tried_for_long() -> None:
    page = make(limits=Limits(logins_per_minute=3), clock=lambda: 0.0)
    assert [post(page, path="/login").status for _ in range(4)] == [200, 200, 200, 429]
    assert [post(page, path="/login/").status for _ in range(1)] == [429]
    assert post(page).status == 200


def test_many_open_calls_from_one_address() -> None:
    async def main() -> list[int]:
        page = make(limits=Limits(open_calls=3))
        calls = [Call(page, path="/gradio_api/queue/data") for _ in range(4)]
        leave = asyncio.Event()

        async def hang(scope: Any, receive: Any, send: Any) -> None:
            await leave.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        page._app = hang
        tasks = [asyncio.create_task(page(call.scope, call._receive, call._send)) for call in calls]
        await asyncio.sleep(0.01)
        leave.set()
        await asyncio.gather(*tasks)
        assert not page._open_calls
        return [call.status for call in calls]

    assert asyncio.run(main()) == [200, 200, 200, 429]
