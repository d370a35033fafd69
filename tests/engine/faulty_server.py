"""An OpenAI-compatible server that answers as a test tells it, above all as no server should."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.engine.http_server import serving

MODELS = {"data": [{"id": "stand-in", "object": "model", "owned_by": "sglang", "max_model_len": 500}]}


class Answer:
    """One connection on which a completion was requested; a test answers by calling its methods."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self._handler = handler
        self.body = body

    def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        self._handler.send_response(status)
        for name, value in {"Content-Type": kind, "Connection": "close", **headers}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def send(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def event(self, plain: object) -> None:
        self.send(b"data: " + json.dumps(plain, ensure_ascii=False).encode() + b"\n\n")

    def word(self, text: str, **more: object) -> None:
        self.event({"choices": [{"index": 0, "text": text, **more}]})

    def done(self, reason: str = "length", tokens: int | None = None) -> None:
        self.word("", finish_reason=reason)
        if tokens is not None:
            self.event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": tokens}})
        self.send(b"data: [DONE]\n\n")

    def drop(self) -> None:
        """Close the connection without an answer."""
        self._handler.connection.close()

    def closed_by_reader(self, timeout_s: float = 5.0) -> bool:
        """Send nothing; return True if the client closes the connection within `timeout_s` seconds."""
        self._handler.connection.settimeout(timeout_s)
        try:
            return self._handler.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


Script = Callable[[Answer], object]


class FaultyServer:
    """Answers each request for a completion by the next of `scripts`; the last script is used repeatedly.

    Attributes:
        bodies: JSON bodies of the requests for completions.
        at: times of these requests (`time.monotonic`).
        keys: Authorization header of every request, None without one.
        models: answer to `/v1/models`: JSON, or a script.
    """

    def __init__(self) -> None:
        self.scripts: list[Script] = [lambda answer: (answer.head(), answer.word("Hello"), answer.done())]
        self.models: object = MODELS
        self.bodies: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.keys: list[str | None] = []
        self.url = ""

    def answer(self, *scripts: Script) -> None:
        self.scripts = list(scripts)


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            server.keys.append(self.headers.get("Authorization"))
            answer = Answer(self, {})
            if callable(server.models):
                server.models(answer)
            else:
                answer.head(kind="application/json")
                answer.send(json.dumps(server.models).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                server.bodies.append(body)
                server.at.append(time.monotonic())
                server.keys.append(self.headers.get("Authorization"))
                script = server.scripts.pop(0) if len(server.scripts) > 1 else server.scripts[0]
            with suppress(OSError):  # the reader has gone
                script(Answer(self, body))

    with serving(Handler) as address:
        server.url = f"{address}/v1"
        yield server
