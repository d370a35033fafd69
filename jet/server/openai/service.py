"""ApiService: the engine, limits, metrics and key check that all routes of the API share.

request ─ caller ─ limits ─ engine.submit ─ Reader ─ Generation ─ frames
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request as HttpRequest

from jet.api import Engine, EngineInfo, Request, RequestError, RequestStats
from jet.engine.holder import EngineHandle, loaded_engine
from jet.server.addresses import rate_limit_key
from jet.server.limits import AdmissionLimiter
from jet.server.openai.connection_names import connection_of
from jet.server.openai.errors import ApiError, from_request_error, invalid_key, too_much, unavailable
from jet.server.openai.generation import Generation
from jet.server.openai.ids import random_id
from jet.server.openai.keys import Caller, Keys, presented_key
from jet.server.openai.tokens import Codec, codec_of
from jet.server.openai.wakeups import Wakeups

MAX_MODEL_NAME = 200
SHORT = 2_000  # characters of a prompt up to which it is tokenized at once; a longer one is in a thread

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ApiOptions:
    """Options of the API. Their defaults are defined only here.

    Attributes:
        keys: the accepted keys; None requires no key.
        origins: the origins whose web pages may call the API; "*" means all.
        documented: whether /docs describes the API; meant for private servers.
    """

    keys: Keys | None = None
    origins: tuple[str, ...] = ()
    documented: bool = False


@dataclass
class ApiService:
    """Serves all routes of one server. Used on the server's event loop.

    Attributes:
        source: gives the engine.
        limiter: admits requests within the limits.
        options: keys, origins, and whether /docs is served.
        record: called with the last stats of each engine request.
        login: whether the page requires a login. An API without keys then rejects every request.
        started: the Unix time in seconds at which the server started.
        generations: running requests that can be polled or aborted, by the digest of the caller's key and
            KoboldAI's `genkey`.
    """

    source: EngineHandle
    limiter: AdmissionLimiter
    options: ApiOptions
    record: Callable[[RequestStats], object] = lambda stats: None
    login: bool = False
    started: int = field(default_factory=lambda: int(time.time()))
    generations: dict[tuple[str, str], Generation] = field(default_factory=dict)
    _wakeups: Wakeups | None = None
    _loading: asyncio.Task[Engine] | None = None
    _known: tuple[weakref.ref[Engine], EngineInfo] | None = None

    def caller(self, request: HttpRequest) -> Caller:
        """Return the caller of a request. Raises ApiError if a key is missing or unknown."""
        keys = self.options.keys
        if keys is None:
            if self.login:
                raise invalid_key(
                    "This server wants a login, and its API has no keys: start it with --api-key."
                )
            return Caller()
        presented = presented_key(request.headers)
        if not presented:
            raise invalid_key("This server wants a key: Authorization: Bearer KEY.")
        if (caller := keys.find(presented)) is None:
            raise invalid_key("This key is not known here.")
        return caller

    async def engine(self) -> Engine:
        """Return the engine; if it is not loaded, start loading it and raise ApiError."""
        if self.limiter.closing_reason is not None:
            raise unavailable("The server is about to end.", "closing")
        if (loaded := loaded_engine(self.source)) is not None:
            return loaded
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(asyncio.to_thread(self.source.engine))
            self._loading.add_done_callback(_forget_failure)
        await asyncio.wait([self._loading], timeout=0.05)
        if self._loading.done() and self._loading.exception() is None:
            return self._loading.result()
        progress = self.source.progress
        raise unavailable(
            f"The model is being loaded{f' ({progress})' if progress else ''}: please try again.",
            "model_loading",
        )

    async def codec(self) -> tuple[Engine, Codec]:
        """Return the engine and its tokenizer.

        Raises ApiError if the engine is not loaded or has no tokenizer.
        """
        engine = await self.engine()
        if (codec := codec_of(engine)) is None:
            raise ApiError(
                400,
                "The model runs on another server, and its tokenizer is not here: send text.",
                code="no_tokenizer",
            )
        return engine, codec

    def facts(self, engine: Engine) -> EngineInfo:
        """Return the fixed properties of an engine: model, context, vocabulary and the like.

        The properties of a local engine are cached, since `Engine.info()` also measures load and memory by
        system calls. An engine on another server is asked each time, since its model may change.
        """
        if self._known is not None and self._known[0]() is engine:
            return self._known[1]
        info = engine.info()
        if info.placement == "local":
            self._known = weakref.ref(engine), info
        return info

    def check_model(self, info: EngineInfo, wanted: str | None) -> str:
        """Return the model's name. Raises ApiError if the request names another model."""
        name = model_name(info.model)
        if not wanted or wanted in (name, name.rpartition("/")[2]):
            return name
        shown = wanted[:MAX_MODEL_NAME]
        raise ApiError(
            404,
            f"The model {shown!r} does not exist here, but {name!r}.",
            param="model",
            code="model_not_found",
        )

    def cache_salt(self, request: HttpRequest, caller: Caller, user: str | None) -> str:
        """Return the salt that isolates a request's cached prefixes: one for each key and user.

        Requests without key and user share a salt with their connection. Returns "", which caches nothing, if
        the connection has no name.
        """
        if caller.digest or user:
            said = f"{len(caller.digest)}:{caller.digest}{user or ''}"
        else:
            said = connection_of(request.scope)
        return hashlib.sha256(b"jet api\0" + said.encode()).hexdigest() if said else ""

    def limited_as(self, request: HttpRequest, caller: Caller) -> str:
        """Return the name under which limits count a request: its key, or else its address."""
        if caller.name:
            return f"key {caller.name}"
        address = request.client.host if request.client is not None else "unknown"
        return f"address {rate_limit_key(address)}"

    async def begin(
        self,
        engine: Engine,
        request: Request,
        counted: str,
        stops: Sequence[str] = (),
        codec: Codec | None = None,
    ) -> Generation:
        """Start one engine request within the limits. Raises ApiError.

        Args:
            engine: runs the request.
            request: the engine request.
            counted: the name under which limits count the request.
            stops: stop strings.
            codec: the engine's tokenizer; None if the engine has none.
        """
        entered = self.limiter.admit(counted)
        try:
            self.limiter.check(request.prompt, request.sampling)
        except RequestError as error:
            raise from_request_error(error) from None
        try:
            entered.__enter__()
        except RequestError as error:
            if self.limiter.closing_reason is not None:
                raise unavailable("The server is about to end.", "closing") from None
            raise too_much(str(error)) from None

        def leave() -> None:
            entered.__exit__(None, None, None)

        try:
            if len(request.prompt) > SHORT:
                stream = await asyncio.to_thread(engine.submit, request)
            else:
                stream = engine.submit(request)
        except RequestError as error:
            leave()
            raise from_request_error(error) from None
        except BaseException:
            leave()
            raise
        if self._wakeups is None:
            self._wakeups = Wakeups()
        return Generation(
            stream, self._wakeups, stops, self.limiter.limits.deadline_s, self.record, leave, codec
        )

    @property
    def gap_s(self) -> float:
        """Return the least seconds between two frames of a stream at the present load."""
        return 0.0 if self._wakeups is None else self._wakeups.gap_s


def model_name(name: str) -> str:
    """Return a model's name for clients: the hub id, or of a local model only its folder's name."""
    if name.startswith(("/", ".", "~")) or "\\" in name or name[1:2] == ":":
        return name.replace("\\", "/").rstrip("/").rpartition("/")[2] or "model"
    return name


def new_id(kind: str) -> str:
    """Return a new id for an answer in OpenAI's format, such as "cmpl-…" for the kind "cmpl"."""
    return f"{kind}-{random_id()}"


def _forget_failure(task: asyncio.Task[Engine]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("The model could not be loaded for the API.")
