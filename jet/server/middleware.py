"""ASGI middleware in front of Gradio: a route allowlist, a body limit and per-address rate limits.

Gradio serves more routes than this page needs: uploads, files, a proxy, custom components. Only the routes of
the page and its API are allowed. Bodies are read here, so that too large ones are rejected early.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from jet.server.addresses import parse_address, rate_limit_key
from jet.server.limits import Limits
from jet.timeouts import within

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_TIMEOUT_S = 30.0  # for a body to arrive
_MAX_CLIENTS = 10_000  # addresses whose calls are counted
_BURST_SECONDS = 10  # seconds' worth of calls that may come at once
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_NAME = r"[A-Za-z0-9_-]+"
_GET_PATHS = re.compile(
    r"/|/(config|favicon\.ico|theme\.css|manifest\.json|robots\.txt|login_check|logout|healthz|metrics)/?"
    r"|/(assets|static|svelte|pwa_icon)(/[A-Za-z0-9._@-]+)+|/pwa_icon|"
    r"|/web/[0-9a-f]{16}/(app\.js|layout\.css|[a-z-]+\.woff2)"
    r"|/gradio_api/(info|openapi\.json|startup-events|app_id|user|login_check|theme\.css|token)/?"
    rf"|/gradio_api/(heartbeat/{_NAME}|queue/data|call/{_NAME}/{_NAME}|mcp(/.*)?)"
)
_POST_PATHS = re.compile(
    rf"/login/?|/gradio_api/(queue/join|cancel|reset/?|(call|call/v2|run|api)/{_NAME}/?|mcp(/.*)?)"
)
_FORWARDED = (b"x-forwarded-", b"forwarded", b"x-real-ip")
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_IMMUTABLE_PREFIX = "/assets/"  # Gradio's scripts and styles, whose names change with what is in them
_IMMUTABLE_HEADER = (b"cache-control", b"public, max-age=31536000, immutable")
_HEADER_PAIRS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
# Scripts, styles, fonts, pictures: a policy is the document's that loads them. Some sixty come with a page.
_PARTS = re.compile(r"/(?:assets|static|svelte|web)/.+\.(?:js|css|woff2?|png|ico)|/theme\.css|/favicon\.ico")
_PART_HEADERS = [pair for pair in _HEADER_PAIRS if pair[0] == b"x-content-type-options"]


@dataclass(frozen=True)
class MoreRoutes:
    """Allowed routes besides those of the page.

    Attributes:
        get_paths, post_paths: patterns that match the paths of allowed GET and POST calls.
        explain: returns the JSON body of a rejection for path, status and message; None for paths of the
            page.
    """

    get_paths: re.Pattern[str]
    post_paths: re.Pattern[str]
    explain: Callable[[str, int, str], dict[str, Any] | None]


class Rejected(Exception):
    """A call is rejected with a status and a message."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class AllowlistMiddleware:
    """Passes allowed calls to the app and rejects all others. Used on the server's event loop only."""

    def __init__(
        self,
        app: App,
        limits: Limits,
        proxies: int = 0,
        local: bool = True,
        on_reject: Callable[[int], object] = lambda status: None,
        clock: Callable[[], float] = time.monotonic,
        more: MoreRoutes | None = None,
    ) -> None:
        """Wrap an ASGI app.

        Args:
            app: the app to protect.
            limits: body size, call rates, open calls.
            proxies: the number of trusted reverse proxies in front, whose X-Forwarded-For is used.
            local: whether the page serves this machine only.
            on_reject: called with the status of every rejected call.
            clock: returns the time in seconds.
            more: allowed routes besides those of the page; None for no others.
        """
        self._app = app
        self._more = more
        self._limits = limits
        self._proxies = proxies
        self._hosts = _LOCAL_HOSTS if local and not proxies else None
        self._on_reject = on_reject
        self._call_buckets = _TokenBuckets(clock)
        self._login_buckets = _TokenBuckets(clock)
        self._open_calls: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check an ASGI call; pass it to the app, or answer with the status of the rejection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        client = rate_limit_key(self._resolve(scope))
        self._open_calls[client] += 1
        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            self._check(scope, path, client)
            body = await self._read_body(scope, receive) if scope["method"] == "POST" else receive
            await self._app(scope, body, _with_headers(send, path))
        except Rejected as rejection:
            self._on_reject(rejection.status)
            explained = self._more and self._more.explain(scope["path"], rejection.status, str(rejection))
            await _send_rejection(send, rejection, explained or {"detail": str(rejection)})
        finally:
            self._open_calls[client] -= 1
            if not self._open_calls[client]:
                del self._open_calls[client]

    def _resolve(self, scope: Scope) -> str:
        """Return the client's address.

        Behind proxies the address comes from X-Forwarded-For. Without proxies such headers are removed from
        `scope`, since a client could forge them.
        """
        headers = scope["headers"]
        peer = str(scope["client"][0]) if scope.get("client") else "unknown"
        client = parse_address(peer) or peer
        if not self._proxies:
            scope["headers"] = [pair for pair in headers if not pair[0].startswith(_FORWARDED)]
            return client
        declared = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
        hops = [hop.strip() for hop in declared.split(",") if hop.strip()]
        if (
            len(hops) >= self._proxies
            and (forwarded_client := parse_address(hops[-self._proxies])) is not None
        ):
            client = forwarded_client
            scope["client"] = (client, 0)
        return client

    def _check(self, scope: Scope, path: str, client: str) -> None:
        method = scope["method"]
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if path == "/healthz" and hosts in ([], [""]):
            hosts = ["localhost"]  # probes of load balancers speak HTTP/1.0, which needs no host
        if len(hosts) != 1 or (host := _HOST.fullmatch(hosts[0])) is None:
            raise Rejected(400, "This call names no host, or more than one.")
        if self._hosts is not None and host[1].lower() not in self._hosts:
            raise Rejected(
                421,
                "This page is for this machine alone: open it as localhost, or start it with --proxies 1.",
            )
        # Both length headers at once allow request smuggling.
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            raise Rejected(400, "This call has two length headers.")
        patterns = {
            "GET": _GET_PATHS,
            "HEAD": _GET_PATHS,
            "POST": _POST_PATHS,
            "DELETE": _POST_PATHS,
            "OPTIONS": None,
        }
        if method not in patterns:
            raise Rejected(405, "This page does not know that method.")
        pattern = patterns[method]
        if ".." in path or (pattern is not None and not self._is_known(method, path, pattern)):
            raise Rejected(404, "There is nothing here.")
        limits = self._limits
        if limits.open_calls is not None and self._open_calls[client] > limits.open_calls:
            raise Rejected(429, "Too much is open from this address at once: please close some tabs.", 5)
        if method == "POST":
            self._count_call(path, client)

    def _is_known(self, method: str, path: str, pattern: re.Pattern[str]) -> bool:
        patterns = [pattern]
        if self._more is not None and method != "DELETE":
            patterns.append(self._more.post_paths if method == "POST" else self._more.get_paths)
        return any(one.fullmatch(path) for one in patterns)

    def _count_call(self, path: str, client: str) -> None:
        limits = self._limits
        if path.startswith("/login"):
            wait = self._login_buckets.take(client, limits.logins_per_minute / 60, limits.logins_per_minute)
        elif limits.calls_per_second is not None:
            wait = self._call_buckets.take(
                client, limits.calls_per_second, limits.calls_per_second * _BURST_SECONDS
            )
        else:
            return
        if wait:
            raise Rejected(429, f"That was very often: please wait {wait} s. Your text is still here.", wait)

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the whole body; return a `receive` function that yields it.

        Raises Rejected if the body is too large or comes too slowly.
        """
        max_bytes = self._limits.body_bytes
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared) > max_bytes:
            raise Rejected(413, f"That is too large: at most {max_bytes / 1e6:g} MB at once.")
        body = bytearray()
        try:
            more = True
            while more:
                message = await within(BODY_TIMEOUT_S, receive())
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > max_bytes:
                    raise Rejected(413, f"That is too large: at most {max_bytes / 1e6:g} MB at once.")
        except asyncio.TimeoutError:
            raise Rejected(408, "That took too long to arrive.") from None
        buffered: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_buffered() -> Message:
            return buffered.pop() if buffered else await receive()

        return receive_buffered


class _TokenBuckets:
    """A token bucket for each client. The bucket fills steadily, and every call takes one token."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, rate: float, capacity: float) -> int:
        """Take a token from a client's bucket; return 0, or the seconds until the bucket has a token.

        Args:
            client: the client's `rate_limit_key`.
            rate: tokens that the bucket gains per second.
            capacity: most tokens in the bucket.
        """
        now = self._clock()
        available, at = self._buckets.get(client, (capacity, now))
        available = min(capacity, available + (now - at) * rate)
        allowed = available >= 1
        self._buckets[client] = (available - 1 if allowed else available, now)
        self._buckets.move_to_end(client)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0 if allowed else max(1, round((1 - available) / rate))


def _with_headers(send: Send, path: str) -> Send:
    added = _PART_HEADERS if _PARTS.fullmatch(path) else _HEADER_PAIRS

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), *added]
            if path.startswith(_IMMUTABLE_PREFIX) and message["status"] in (200, 206, 304):
                headers.append(_IMMUTABLE_HEADER)
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers


async def _send_rejection(send: Send, rejection: Rejected, plain: dict[str, Any]) -> None:
    body = json.dumps(plain).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *_HEADER_PAIRS,
    ]
    if rejection.retry_after_s is not None:
        headers.append((b"retry-after", str(rejection.retry_after_s).encode()))
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": rejection.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
