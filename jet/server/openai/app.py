"""The API's routes as an ASGI application, and the middleware that sends calls of the API there."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from jet.server.middleware import App, MoreRoutes, Receive, Scope, Send
from jet.server.openai import kobold, listing, probes
from jet.server.openai.chat import chat
from jet.server.openai.completions import complete
from jet.server.openai.documents import page_of
from jet.server.openai.errors import ApiError, error_body
from jet.server.openai.paths import DOCUMENTS, READ, SENT, is_api, is_spoken_to_programs
from jet.server.openai.responding import REQUEST_ID, request_id
from jet.server.openai.schema import (
    AbortRequest,
    ChatRequest,
    CompletionRequest,
    CountRequest,
    DetokenizeRequest,
    KoboldRequest,
    TokenizeRequest,
)
from jet.server.openai.service import ApiService

log = logging.getLogger(__name__)


class ApiFirst:
    """ASGI middleware: sends calls of the API to its application, and all others to the page's."""

    def __init__(self, app: App, api: App, documented: bool = False) -> None:
        self._app, self._api, self._documented = app, api, documented

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        ours = is_api(path) or (self._documented and DOCUMENTS.fullmatch(path) is not None)
        await (self._api if ours else self._app)(scope, receive, send)


def routes_of(service: ApiService) -> MoreRoutes:
    """Return the API's routes for the allowlist, with the format of its rejections."""
    pattern = f"{READ.pattern}|{DOCUMENTS.pattern}" if service.options.documented else READ.pattern

    def explain(path: str, status: int, message: str) -> dict[str, Any] | None:
        if not is_spoken_to_programs(path):
            return None
        kind = "rate_limit_error" if status == 429 else "invalid_request_error"
        return error_body(message, kind, code="rate_limit_exceeded" if status == 429 else None)

    return MoreRoutes(re.compile(pattern), SENT, explain)


def make_app(service: ApiService) -> FastAPI:
    """Return the API's routes as an application without middleware of its own."""
    app = FastAPI(title="Jet Stories", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(Exception, _fail)
    _add_openai(app, service)
    _add_probes(app, service)
    _add_kobold(app, service)
    if service.options.documented:
        _add_documents(app)
    return app


def _add_openai(app: FastAPI, service: ApiService) -> None:
    @app.post("/v1/completions", tags=["OpenAI"], openapi_extra=_body(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue a text, several texts or token ids; as server-sent events with `stream`."""
        return await complete(service, request)

    @app.post("/v1/chat/completions", tags=["OpenAI"], openapi_extra=_body(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a chat by the model's chat template; an error if the model has none."""
        return await chat(service, request)

    @app.get("/v1/models", tags=["OpenAI"])
    async def models(request: Request) -> Response:
        """List the model that runs here."""
        return await listing.models(service, request)

    @app.get("/v1/models/{name:path}", tags=["OpenAI"])
    async def model(request: Request, name: str) -> Response:
        """Describe a model by name."""
        return await listing.model(service, request, name)

    @app.post("/tokenize", tags=["Tokens"], openapi_extra=_body(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """Return the tokens of a text or a chat."""
        return await listing.tokenize(service, request)

    @app.post("/detokenize", tags=["Tokens"], openapi_extra=_body(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """Return the text of tokens."""
        return await listing.detokenize(service, request)

    @app.get("/tokenizer_info", tags=["Tokens"])
    async def tokenizer_info(request: Request) -> Response:
        """Return the names of the special tokens, and the chat template."""
        return await listing.tokenizer_info(service, request)

    @app.get("/health", tags=["Server"])
    async def health(request: Request) -> Response:
        """Answer 200 if requests are served, 503 while the model loads or the server shuts down."""
        return await listing.health(service, request)


def _add_probes(app: FastAPI, service: ApiService) -> None:
    @app.get("/get_server_info", include_in_schema=False)
    @app.get("/server_info", tags=["Server"])
    async def server_info(request: Request) -> Response:
        """Return the name of the model and the sizes of this engine, for a router."""
        return await probes.server_info(service, request)

    @app.get("/get_model_info", include_in_schema=False)
    @app.get("/model_info", tags=["Server"])
    async def model_info(request: Request) -> Response:
        """Return the kind of the model, for a router."""
        return await probes.model_info(service, request)

    @app.get("/get_load", tags=["Server"])
    async def load(request: Request) -> Response:
        """Return the numbers of running and waiting requests, for a router."""
        return await probes.load(service, request)


def _add_kobold(app: FastAPI, service: ApiService) -> None:
    @app.post("/api/v1/generate", tags=["KoboldAI"], openapi_extra=_body(KoboldRequest))
    async def generate(request: Request) -> Response:
        """Continue a text."""
        return await kobold.generate(service, request, stream=False)

    @app.post("/api/extra/generate/stream", tags=["KoboldAI"], openapi_extra=_body(KoboldRequest))
    async def generate_stream(request: Request) -> Response:
        """Continue a text, as server-sent events."""
        return await kobold.generate(service, request, stream=True)

    @app.post("/api/extra/abort", tags=["KoboldAI"], openapi_extra=_body(AbortRequest))
    async def abort(request: Request) -> Response:
        """Abort the request with a genkey."""
        return await kobold.abort(service, request)

    @app.get("/api/extra/generate/check", include_in_schema=False)
    @app.post("/api/extra/generate/check", tags=["KoboldAI"], openapi_extra=_body(AbortRequest))
    async def check(request: Request) -> Response:
        """Return the text generated so far by the request with a genkey."""
        return await kobold.check(service, request)

    @app.post("/api/extra/tokencount", tags=["KoboldAI"], openapi_extra=_body(CountRequest))
    async def tokencount(request: Request) -> Response:
        """Count the tokens of a text."""
        return await kobold.count(service, request)

    def fact(path: str, name: str) -> None:
        async def tell(request: Request) -> Response:
            return await kobold.facts(service, request, name)

        app.get(path, tags=["KoboldAI"], summary=f"Tell {path.rpartition('/')[2]}", name=name)(tell)

    fact("/api/v1/model", "model")
    fact("/api/v1/info/version", "version")
    fact("/api/v1/config/max_context_length", "context")
    fact("/api/v1/config/max_length", "length")
    fact("/api/extra/version", "cpp_version")
    fact("/api/extra/true_max_context_length", "context")
    fact("/api/extra/perf", "perf")


def _add_documents(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(page_of(app.openapi()))

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(app.openapi())


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body, which `jet.server.openai.reading` parses."""
    return {
        "requestBody": {
            "content": {"application/json": {"schema": kind.model_json_schema()}},
            "required": True,
        }
    }


Handler = Callable[[Request, Exception], Awaitable[Response]]


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {REQUEST_ID: request_id(request)}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body, error.status, headers=headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "There is nothing here.", 405: "This route does not know that method."}
    told = ApiError(error.status_code, words.get(error.status_code, str(error.detail)))
    return await _refuse(request, told)


async def _fail(request: Request, error: Exception) -> Response:
    log.error("A call of the API failed.", exc_info=error)
    told = ApiError(500, "The server failed over this request.", "server_error", code="internal_error")
    return await _refuse(request, told)
