"""Hosting: composes limits, accounts, middleware, health check and metrics of a page."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from jet.credentials import clean
from jet.engine.holder import EngineHandle, loaded_engine
from jet.engine.stored_states import StateFolder
from jet.server.accounts import Accounts
from jet.server.addresses import rate_limit_key
from jet.server.limits import AdmissionLimiter, Limits
from jet.server.metrics import CONTENT_TYPE, Metrics
from jet.server.middleware import AllowlistMiddleware
from jet.server.openai import ApiApp, ApiFirst, ApiOptions, ApiService, NameConnections, routes_of

# Imported in functions, since it takes seconds: hosting is read before the model starts to load.
if TYPE_CHECKING:
    import gradio as gr

TOKEN_VARIABLE = "JET_METRICS_TOKEN"


@dataclass
class Hosting:
    """The hosting of one page. Its defaults suit a private page.

    Attributes:
        limits: admission limits.
        accounts: accounts that may log in; None requires no login.
        proxies: the number of reverse proxies in front of the server.
        metrics_token: bearer token for /metrics; None leaves the metrics open.
        behind_router: whether all connections come from a router. Cached prefixes are then shared by API key
            and user, not by connection.
        api: the options of the API beside the page.
        states: the folder in which the model's states of stories are stored; None stores no states.
        models: whether visitors may choose the model; None allows it only on a private page.
        limiter, metrics: created from these options.
    """

    limits: Limits = field(default_factory=Limits)
    accounts: Accounts | None = None
    proxies: int = 0
    metrics_token: str | None = field(default=None, repr=False)
    behind_router: bool = False
    api: ApiOptions = field(default_factory=ApiOptions)
    states: StateFolder | None = None
    models: bool | None = None
    limiter: AdmissionLimiter = field(init=False)
    metrics: Metrics = field(init=False)
    _service: ApiService | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.metrics_token is not None:
            self.metrics_token = clean(self.metrics_token, TOKEN_VARIABLE)
        self.limiter = AdmissionLimiter(self.limits)
        self.metrics = Metrics()
        self.metrics.add_gauge("jet_num_requests_admitted", "Requests admitted", lambda: self.limiter.active)

    @property
    def is_private(self) -> bool:
        """Return whether the page is private: it has the default limits and no accounts."""
        return self.accounts is None and self.limits == Limits()

    @property
    def allows_models(self) -> bool:
        """Return whether visitors may choose the model, which then changes for all visitors."""
        return self.is_private if self.models is None else self.models

    def app_kwargs(self, local: bool, routes: Sequence[BaseRoute] = ()) -> dict[str, object]:
        """Return the arguments for Gradio's server.

        Args:
            local: whether the server listens on a loopback address.
            routes: routes besides /healthz and /metrics.
        """
        from jet.server.compression import PageCompression

        middleware = [*self.middleware(local), Middleware(PageCompression)]
        return {"middleware": middleware, "routes": [*self.routes, *routes]}

    @property
    def routes(self) -> list[BaseRoute]:
        """Return the routes /healthz and /metrics, for servers with and without a page."""
        return [Route("/healthz", self._healthz), Route("/metrics", self._metrics)]

    def middleware(self, local: bool) -> list[Middleware]:
        """Return the ASGI middleware in front of the page, outermost first.

        Args:
            local: whether the server listens on a loopback address.
        """
        service = self._service
        guard = Middleware(
            AllowlistMiddleware,
            limits=self.limits,
            proxies=self.proxies,
            local=local,
            on_reject=self.metrics.record_rejection,
            more=None if service is None else routes_of(service),
        )
        if service is None:
            return [guard]
        api = Middleware(ApiFirst, api=ApiApp(service), documented=service.options.documented)
        return [Middleware(NameConnections, shared=not (self.proxies or self.behind_router)), guard, api]

    def offer_api(self, source: EngineHandle) -> None:
        """Serve the API on the engine of `source`, beside the page and within the same limits."""
        options = replace(self.api, documented=self.is_private and self.api.keys is None)
        login = self.accounts is not None
        self._service = ApiService(source, self.limiter, options, self.metrics.record_request, login)

    def add_engine_gauges(self, source: EngineHandle) -> None:
        """Add gauges for the engine of `source`: readiness, and numbers of running and waiting requests."""

        def read(name: str) -> Callable[[], float]:
            def value() -> float:
                engine = loaded_engine(source)
                return 0.0 if engine is None else float(getattr(engine.info(), name))

            return value

        self.metrics.add_gauge("jet_engine_ready", "Whether the model is loaded", lambda: float(source.ready))
        self.metrics.add_gauge(
            "jet_num_requests_running", "Requests the engine runs", read("active_requests")
        )
        self.metrics.add_gauge(
            "jet_num_requests_waiting", "Requests in the engine's queue", read("queued_requests")
        )

    async def _healthz(self, request: Request) -> Response:
        """Answer a load balancer: 200 while the server accepts visitors, 503 while it shuts down."""
        closing = self.limiter.closing_reason is not None
        return JSONResponse({"status": "closing" if closing else "ok"}, 503 if closing else 200)

    async def _metrics(self, request: Request) -> Response:
        scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
        expected = self.metrics_token
        if expected is not None and not (
            scheme.lower() == "bearer"
            and secrets.compare_digest(credentials.strip().encode(), expected.encode())
        ):
            return JSONResponse({"detail": "This wants a token."}, 401)
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)


def user_id_of(request: gr.Request | None) -> str:
    """Return the id under which limits count a request.

    The id names the account, or without an account the client's `rate_limit_key`.
    """
    name = getattr(request, "username", None)
    address = getattr(getattr(request, "client", None), "host", None)
    return f"user {name}" if name else f"address {rate_limit_key(str(address))}"


def current_cache_salt() -> str:
    """Return the cache salt of the current API call: its user and client session; "" without a session."""
    request = _current_request()
    session = getattr(request, "session_hash", None)
    return f"{user_id_of(request)} session {session}" if session else ""


def current_user_id() -> str:
    """Return `user_id_of` the current API call."""
    return user_id_of(_current_request())


def _current_request() -> gr.Request | None:
    from gradio.context import LocalContext

    return LocalContext.request.get(None)
