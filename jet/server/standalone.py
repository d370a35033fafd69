"""Serve the API without a page (`app.py --api-only`) by uvicorn, with limits, metrics and health routes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from jet.engine.holder import EngineHandle
from jet.server.binding import close, listen
from jet.server.connections import configure_server
from jet.server.hosting import Hosting
from jet.server.openai import allow_origins

_PATIENCE_S = 5.0  # for the server to end


class Standalone:
    """A server of the API, in a thread of its own.

    Attributes:
        url: its address.
        server: uvicorn's server.
    """

    def __init__(self, app: Starlette, listening: list[socket.socket]) -> None:
        host, port = listening[0].getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        # The middleware of `hosting` says which proxies are believed: uvicorn's own would believe any here.
        config = uvicorn.Config(app, log_level="warning", access_log=False, proxy_headers=False)
        self.server = uvicorn.Server(config)
        self.server.config.load()
        self._thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": listening}, name="jet-api", daemon=True
        )
        self._sockets = listening

    def cpu_s(self) -> float | None:
        """Return the CPU seconds that the server's thread has used; None if that is unknown."""
        if not hasattr(time, "pthread_getcpuclockid") or self._thread.ident is None:
            return None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    def start(self) -> None:
        """Serve in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and wait at most 5 seconds for the thread to end."""
        self.server.should_exit = True
        self._thread.join(_PATIENCE_S)
        close(self._sockets)


def launch_api(
    source: EngineHandle, hosting: Hosting, host: str | None = None, port: int | None = None
) -> Standalone:
    """Serve the API on the engine of `source` in a thread, until the returned server's `close` is called.

    Args:
        source: gives the engine.
        hosting: limits, keys, middleware and metrics.
        host: a name or address; None takes the variable GRADIO_SERVER_NAME, or else this machine only.
        port: None takes the variable GRADIO_SERVER_PORT, or else a free port from 7860 on.

    Raises AddressError.
    """
    host = (host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1").strip("[]")
    if port is None and "GRADIO_SERVER_PORT" in os.environ:
        port = int(os.environ["GRADIO_SERVER_PORT"])
    hosting.add_engine_gauges(source)
    hosting.offer_api(source)
    local = host in ("localhost", "::1") or host.startswith("127.")
    app = Starlette(
        routes=[Route("/", _greet(hosting)), *hosting.routes], middleware=hosting.middleware(local)
    )
    running = Standalone(app, listen(host, port))
    configure_server(running.server)
    allow_origins(running.server, hosting.api.origins)
    running.start()
    return running


def _greet(hosting: Hosting) -> Callable[[Request], Awaitable[Response]]:
    async def greet(request: Request) -> Response:
        documents = {"docs": "/docs"} if hosting.is_private and hosting.api.keys is None else {}
        return JSONResponse({"server": "Jet Stories", "api": "/v1", **documents})

    return greet
