"""Run Gradio's server on sockets that are already listening.

Gradio checks whether a port is free, releases it, and binds it later. Two pages that start at once can thus
choose the same port. The page that fails to bind starts its application again on the next port, but the MCP
server in an application starts only once, so every further port fails too. A socket that listens from the
check on prevents this.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from gradio import http_server, utils

from jet.server.binding import AddressError, close

_START_S = 120.0  # a busy machine takes its time
_replacing = threading.Lock()


class HeldServer(http_server.Server):
    """Gradio's server on sockets that are already listening. It closes them when it ends."""

    def __init__(self, config: uvicorn.Config, listening: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self._listening = list(listening)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on the held sockets until the server is closed. `sockets` is ignored."""
        super().run(sockets=self._listening)

    def run_in_thread(self) -> None:
        """Serve in a thread; return once the server answers calls.

        Raises AddressError if the server does not start within 120 seconds.
        """
        self.thread = threading.Thread(target=self.run, name="jet-page", daemon=True)
        self.thread.start()
        limit = time.monotonic() + _START_S
        while not self.started:
            if not self.thread.is_alive() or time.monotonic() > limit:
                self.should_exit = True
                raise AddressError("The page cannot be opened: its server did not start.")
            time.sleep(0.001)


@contextmanager
def serving_on(listening: Sequence[socket.socket]) -> Iterator[None]:
    """Make Gradio serve on these sockets when it launches a page while the context is open.

    Gradio's own server stays on a Space and in Gradio's reload mode, where it reloads edited files. The
    sockets are then closed at once.
    """
    if utils.get_space() is not None or http_server.GRADIO_WATCH_DIRS:
        close(listening)
        yield
        return
    port = listening[0].getsockname()[1]

    def start_server(
        app: Any, server_name: str | None = None, *_: object, **__: object
    ) -> tuple[str, int, str, http_server.Server]:
        server = HeldServer(uvicorn.Config(app, log_level="warning"), listening)
        server.run_in_thread()
        host = server_name or http_server.LOCALHOST_NAME
        name = "localhost" if host == "0.0.0.0" else host
        return host, port, f"http://{name}:{port}/", server

    with _replacing:
        original = http_server.start_server
        http_server.start_server = start_server
        try:
            yield
        except BaseException:
            close(listening)
            raise
        finally:
            http_server.start_server = original
