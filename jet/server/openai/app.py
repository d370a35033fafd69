"""The API's routes as an ASGI application, and the middleware that sends calls of the API there."""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from jet.server.middleware import App, MoreRoutes, Receive, Scope, Send
from jet.server.openai.documents import describe, page_of
from jet.server.openai.errors import ApiError, error_body
from jet.server.openai.paths import DOCUMENTS, READ, SENT, is_api, is_spoken_to_programs, path_of
from jet.server.openai.responding import REQUEST_ID, request_id
from jet.server.openai.routes import ROUTES, ApiRoute, RouteTable
from jet.server.openai.service import ApiService

_NO_ROUTE = (
    "There is no such route. Those of OpenAI's API are POST /v1/completions, POST /v1/chat/completions and "
    "GET /v1/models."
)

log = logging.getLogger(__name__)


class ApiFirst:
    """ASGI middleware: sends calls of the API to its application, and all others to the page's."""

    def __init__(self, app: App, api: App, documented: bool = False) -> None:
        self._app, self._api, self._documented = app, api, documented

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one call to the API's application or to the page's."""
        path = path_of(scope) if scope["type"] == "http" else ""
        ours = is_api(path) or (self._documented and DOCUMENTS.fullmatch(path) is not None)
        await (self._api if ours else self._app)(scope, receive, send)


def routes_of(service: ApiService) -> MoreRoutes:
    """Return the API's routes for the allowlist, with a function that formats rejections as JSON."""
    # A known path with another method gets through, so that its answer names the right one.
    known = f"{READ.pattern}|{SENT.pattern}"
    read = f"{known}|{DOCUMENTS.pattern}" if service.options.documented else known

    def explain(path: str, status: int, message: str) -> dict[str, Any] | None:
        if not is_spoken_to_programs(path):
            return None
        kind = "rate_limit_error" if status == 429 else "invalid_request_error"
        if status == 404:
            message = _NO_ROUTE
        return error_body(message, kind, code="rate_limit_exceeded" if status == 429 else None)

    return MoreRoutes(re.compile(read), re.compile(known), explain)


class ApiApp:
    """ASGI application: looks up the handler of a call, and turns errors into OpenAI's form."""

    def __init__(self, service: ApiService) -> None:
        self._service = service
        self._table = RouteTable(ROUTES + _DOCUMENTS if service.options.documented else ROUTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call of the API."""
        request = Request(scope, receive)
        try:
            response = await self._answer(scope, request)
        except ApiError as error:
            response = _refuse(request, error)
        except Exception as error:
            log.error("A call of the API failed.", exc_info=error)
            told = ApiError(
                500, "The server failed over this request.", "server_error", code="internal_error"
            )
            response = _refuse(request, told)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, request: Request) -> Response:
        handlers, scope["path_params"] = self._table.find(path_of(scope))
        handler = handlers.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if handler is None:
            raise _unknown(list(handlers))
        return await handler(self._service, request)


def _unknown(methods: list[str]) -> ApiError:
    """Return the error 404 for an unknown path, or 405 for a known path with another method.

    `methods`: the methods of the path; empty if the path is unknown.
    """
    if not methods:
        return ApiError(404, _NO_ROUTE)
    allowed = ", ".join(methods)
    return ApiError(405, f"This route does not know that method, but {allowed}.", headers={"allow": allowed})


async def _docs(service: ApiService, request: Request) -> Response:
    return HTMLResponse(page_of(_description()))


async def _openapi(service: ApiService, request: Request) -> Response:
    return JSONResponse(_description())


@cache
def _description() -> dict[str, Any]:
    return describe(ROUTES)


_DOCUMENTS = (ApiRoute("GET", "/docs", _docs), ApiRoute("GET", "/openapi.json", _openapi))


def _refuse(request: Request, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, {REQUEST_ID: request_id(request), **error.headers})
