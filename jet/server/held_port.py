"""Run Gradio's server on sockets that listen already.

Gradio looks whether a port is free, lets it go, and binds it later. Two pages that start at once then find
the same port; the one that loses starts its application again on the next one, which the MCP server in it
refuses, on all hundred ports. A socket that is held from the search on leaves nothing to lose.
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
    """Gradio's server on listening sockets, which it closes at its end."""

    def __init__(self, config: uvicorn.Config, listening: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self._listening = list(listening)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until closed."""
        super().run(sockets=self._listening)

    def run_in_thread(self) -> None:
        """Serve in a thread; return once calls are answered. Raises AddressError."""
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
    """Let Gradio, while it launches a page in this block, serve on these sockets.

    On a Space, Gradio's own server stays: it reloads what is edited there, and no other page starts beside.
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
