"""The table of the API's routes, with the handler of each and its description at /docs.

A dictionary maps paths to handlers. FastAPI only describes the routes: its own routing took longer than all
other work on a call before the engine has the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from jet.server.openai import kobold, listing, probes
from jet.server.openai.chat import chat
from jet.server.openai.completions import complete
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

Handler = Callable[[ApiService, Request], Awaitable[Response]]
NAME = "{name}"  # the end of a path that stands for anything


@dataclass(frozen=True)
class ApiRoute:
    """One route.

    Attributes:
        method: "GET", which also serves HEAD, or "POST".
        path: a literal path, or one that ends with `NAME`. The handler finds the name in
            `request.path_params`.
        answer: the handler of a call. Raises ApiError.
        summary: a sentence for /docs; routes without a summary are not described there.
        tag: the heading of the route at /docs.
        body: the model of the JSON body; None without a body.
    """

    method: str
    path: str
    answer: Handler
    summary: str = ""
    tag: str = "Server"
    body: type[BaseModel] | None = None


def _post(path: str, answer: Handler, summary: str, tag: str, body: type[BaseModel]) -> ApiRoute:
    return ApiRoute("POST", path, answer, summary, tag, body)


def _fact(path: str, name: str) -> ApiRoute:
    answer: Handler = partial(kobold.facts, name=name)
    return ApiRoute("GET", path, answer, f"Tell {path.rpartition('/')[2]}.", "KoboldAI")


ROUTES: tuple[ApiRoute, ...] = (
    _post(
        "/v1/completions",
        complete,
        "Continue a text, several texts or token ids; as server-sent events with `stream`.",
        "OpenAI",
        CompletionRequest,
    ),
    _post(
        "/v1/chat/completions",
        chat,
        "Answer a chat by the model's chat template; an error if the model has none.",
        "OpenAI",
        ChatRequest,
    ),
    ApiRoute("GET", "/v1/models", listing.models, "List the model that runs here.", "OpenAI"),
    ApiRoute("GET", f"/v1/models/{NAME}", listing.model, "Describe a model by name.", "OpenAI"),
    _post("/tokenize", listing.tokenize, "Return the tokens of a text or a chat.", "Tokens", TokenizeRequest),
    _post("/detokenize", listing.detokenize, "Return the text of tokens.", "Tokens", DetokenizeRequest),
    ApiRoute(
        "GET",
        "/tokenizer_info",
        listing.tokenizer_info,
        "Return the names of the special tokens, and the chat template.",
        "Tokens",
    ),
    ApiRoute(
        "GET",
        "/health",
        listing.health,
        "Answer 200 if requests are served, 503 while the model loads or the server shuts down.",
    ),
    ApiRoute(
        "GET",
        "/server_info",
        probes.server_info,
        "Return the name of the model and the sizes of this engine, for a router.",
    ),
    ApiRoute("GET", "/get_server_info", probes.server_info),
    ApiRoute("GET", "/model_info", probes.model_info, "Return the kind of the model, for a router."),
    ApiRoute("GET", "/get_model_info", probes.model_info),
    ApiRoute(
        "GET", "/get_load", probes.load, "Return the numbers of running and waiting requests, for a router."
    ),
    _post(
        "/api/v1/generate",
        partial(kobold.generate, stream=False),
        "Continue a text.",
        "KoboldAI",
        KoboldRequest,
    ),
    _post(
        "/api/extra/generate/stream",
        partial(kobold.generate, stream=True),
        "Continue a text, as server-sent events.",
        "KoboldAI",
        KoboldRequest,
    ),
    _post("/api/extra/abort", kobold.abort, "Abort the request with a genkey.", "KoboldAI", AbortRequest),
    ApiRoute("GET", "/api/extra/generate/check", kobold.check),
    _post(
        "/api/extra/generate/check",
        kobold.check,
        "Return the text generated so far by the request with a genkey.",
        "KoboldAI",
        AbortRequest,
    ),
    _post("/api/extra/tokencount", kobold.count, "Count the tokens of a text.", "KoboldAI", CountRequest),
    _fact("/api/v1/model", "model"),
    _fact("/api/v1/info/version", "version"),
    _fact("/api/v1/config/max_context_length", "context"),
    _fact("/api/v1/config/max_length", "length"),
    _fact("/api/extra/version", "cpp_version"),
    _fact("/api/extra/true_max_context_length", "context"),
    _fact("/api/extra/perf", "perf"),
)


class RouteTable:
    """Finds the handler of a call."""

    def __init__(self, routes: tuple[ApiRoute, ...] = ROUTES) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._prefixed: dict[str, dict[str, Handler]] = {}
        for route in routes:
            table = self._prefixed if route.path.endswith(NAME) else self._exact
            table.setdefault(route.path.removesuffix(NAME), {})[route.method] = route.answer

    def find(self, path: str) -> tuple[dict[str, Handler], dict[str, str]]:
        """Return the handlers of a path by method, and the path's parameters.

        Both are empty for an unknown path.
        """
        if (found := self._exact.get(path)) is not None:
            return found, {}
        for prefix, handlers in self._prefixed.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return handlers, {"name": path[len(prefix) :]}
        return {}, {}
