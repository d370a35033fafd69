"""CORS for the API: allows web pages of given origins to call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from jet.server.middleware import App, Receive, Scope, Send
from jet.server.openai.paths import is_api, path_of
from jet.server.openai.responding import IGNORED, REQUEST_ID


class ApiCors:
    """ASGI middleware: CORS for the API's paths, and for no others."""

    def __init__(self, app: App, origins: Sequence[str]) -> None:
        self._app = app
        self._cors = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, IGNORED],
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one call, with CORS headers if it is a call of the API."""
        ours = scope["type"] == "http" and is_api(path_of(scope))
        await (self._cors if ours else self._app)(scope, receive, send)


def allow_origins(server: Any, origins: Sequence[str]) -> None:
    """Allow web pages of these origins to call the API of uvicorn's `server`.

    Applies to connections opened from now on. The middleware runs before Gradio's own CORS middleware, which
    would answer for every path.
    """
    if origins:
        server.config.loaded_app = ApiCors(server.config.loaded_app, origins)
