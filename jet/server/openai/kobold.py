"""KoboldAI's native API, used by KoboldAI Lite and other writing programs.

Requests do not name a model, and answers contain only the text. The client polls `/check` or reads the
stream. To abort a request, the client names the `genkey` that it sent with the request; each API key has its
own genkeys.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from jet.api import Request, RequestError
from jet.server.openai.answers import Answer
from jet.server.openai.batch import Batch
from jet.server.openai.completions import request_of
from jet.server.openai.errors import from_request_error, invalid, too_much
from jet.server.openai.generation import Delta
from jet.server.openai.keys import Caller
from jet.server.openai.reading import read_fields, stops_of
from jet.server.openai.responding import headers_of
from jet.server.openai.schema import AbortRequest, CountRequest, KoboldRequest
from jet.server.openai.service import SHORT, ApiService, model_name
from jet.server.openai.tokens import Codec, codec_of

DEFAULT_TOKENS = 80
VERSION = "1.2.5"  # of the API whose routes these are
CPP_VERSION = "1.60"  # from which on Lite streams; later ones promise more than is here


async def generate(service: ApiService, http: HttpRequest, stream: bool) -> Response:
    """Continue a prompt; answer whole or as a stream of KoboldAI's events. Raises ApiError."""
    caller = service.caller(http)
    fields, unknown = await read_fields(http, KoboldRequest)
    if (fields.n or 1) > 1:
        raise invalid("n is 1 here: use /v1/completions for several answers.", param="n")
    engine = await service.engine()
    codec = codec_of(engine)
    salt = service.cache_salt(http, caller, fields.user)
    read = partial(_request_of, fields, service.facts(engine).context, codec, salt)
    is_short = len(fields.prompt or "") + len(fields.memory or "") <= SHORT
    request = read() if is_short else await asyncio.to_thread(read)
    name = (caller.digest, fields.user or "")
    if fields.user and name in service.generations:
        raise too_much("This genkey's last text is still being written.")
    counted = service.limited_as(http, caller)
    batch = Batch(service, engine, [request], counted, stops_of(fields.stop), codec)
    await batch.open()
    if fields.user:
        _name(service, name, batch)
    return Answer(batch, KoboldForm(), stream, headers_of(http, unknown))


def _name(service: ApiService, name: tuple[str, str], batch: Batch) -> None:
    """Register the generation of `batch` under `name` (digest of the API key, genkey) until it is closed."""
    (generation,) = batch.generations
    service.generations[name] = generation
    generation.on_close(lambda: service.generations.pop(name, None))


def _request_of(fields: KoboldRequest, context: int, codec: Codec | None, salt: str) -> Request:
    most = fields.max_tokens or DEFAULT_TOKENS
    text = (fields.memory or "") + (fields.prompt or "")
    request = request_of(fields, most, text, (), None, salt)
    # Lite's context is a window: of what does not fit, the beginning is left out.
    window = min(fields.max_context_length or context, context)
    if codec is None or len(text) < window // 2:
        return request
    try:
        ids = codec.ids_of(text, salt).tolist()
        memory = codec.ids_of(fields.memory, salt).tolist() if fields.memory else []
    except RequestError as error:
        raise from_request_error(error) from None
    room = max(1, min(window - most, context - 1 - most) - len(codec.start))
    if len(ids) <= room:
        return request
    head = memory[: room // 2]
    kept = [*codec.start, *head, *ids[len(ids) - (room - len(head)) :]]
    return replace(request, prompt="", prompt_ids=tuple(kept))


class KoboldForm:
    """KoboldAI's format; see `jet.server.openai.answers.Form`."""

    def __init__(self) -> None:
        self._text = ""
        self._finish: str | None = None
        self._unfinished = ""
        self._prompt_tokens = self._tokens = 0

    def opening(self) -> list[bytes]:
        """Return an empty list: there are no frames before the text."""
        return []

    def frames(self, number: int, delta: Delta) -> list[bytes]:
        """Return the event for a part of the text."""
        if not delta.text and delta.finish_reason is None:
            return []
        unfinished = {"unfinished": delta.stats.unfinished} if delta.stats.unfinished else {}
        return [_event({"token": delta.text, "finish_reason": delta.finish_reason, **unfinished})]

    def closing(self) -> list[bytes]:
        """Return an empty list: the frame of the last text has the finish reason."""
        return []

    def error(self, plain: dict[str, Any]) -> list[bytes]:
        """Return the event of an error, after which KoboldAI Lite keeps the text so far."""
        return [_event({"token": "", "finish_reason": "error", **plain})]

    def add(self, number: int, delta: Delta) -> None:
        """Add a part of the text."""
        self._text += delta.text
        self._tokens += delta.tokens
        self._prompt_tokens = delta.stats.prompt_tokens
        self._finish, self._unfinished = delta.finish_reason, delta.stats.unfinished

    def whole(self) -> dict[str, Any]:
        """Return the whole text as one JSON object."""
        result = {
            "text": self._text.removesuffix(self._unfinished),
            "finish_reason": self._finish,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._tokens,
            **({"unfinished": self._unfinished} if self._unfinished else {}),
        }
        return {"results": [result]}


async def abort(service: ApiService, http: HttpRequest) -> Response:
    """Abort the request with a genkey; the answer says whether there was one."""
    name = await _named(service, http)
    generation = service.generations.get(name)
    if generation is not None:
        generation.stop()
    success = "true" if generation is not None else "false"
    return JSONResponse({"success": success, "done": success}, headers=headers_of(http))


async def check(service: ApiService, http: HttpRequest) -> Response:
    """Return the text generated so far by the request with a genkey; "" without such a request."""
    generation = service.generations.get(await _named(service, http))
    text = "" if generation is None else generation.text
    return JSONResponse({"results": [{"text": text}]}, headers=headers_of(http))


async def _named(service: ApiService, http: HttpRequest) -> tuple[str, str]:
    caller: Caller = service.caller(http)
    if http.method == "GET":
        return caller.digest, http.query_params.get("genkey", "")
    fields, _ = await read_fields(http, AbortRequest)
    return caller.digest, fields.user or ""


async def count(service: ApiService, http: HttpRequest) -> Response:
    """Return the number of tokens of a text, and the token ids. Raises ApiError."""
    service.caller(http)
    fields, unknown = await read_fields(http, CountRequest)
    text = fields.prompt or ""
    engine = await service.engine()
    codec = codec_of(engine)
    try:
        if codec is None:
            tokens = await asyncio.to_thread(engine.count_tokens, text)
            return JSONResponse({"value": tokens, "ids": []}, headers=headers_of(http, unknown))
        ids = (await asyncio.to_thread(codec.ids_of, text)).tolist()
    except RequestError as error:
        raise from_request_error(error) from None
    return JSONResponse({"value": len(ids), "ids": ids}, headers=headers_of(http, unknown))


async def facts(service: ApiService, http: HttpRequest, name: str) -> Response:
    """Return one fact that clients ask for: version, model, maximal lengths, or the load.

    `name`: which fact, as the table of routes names it. Raises ApiError.
    """
    service.caller(http)
    if name == "version":
        return JSONResponse({"result": VERSION}, headers=headers_of(http))
    if name == "cpp_version":
        plain = {"result": "KoboldCpp", "version": CPP_VERSION, "protected": service.options.keys is not None}
        return JSONResponse(plain, headers=headers_of(http))
    info = (await service.engine()).info()
    value: Any = {
        "model": model_name(info.model),
        "context": info.context,
        "length": DEFAULT_TOKENS,
    }.get(name)
    if name == "perf":
        idle = not service.limiter.active
        perf = {"idle": int(idle), "queue": info.queued_requests, "total_gens": 0, "last_token_count": 0}
        return JSONResponse({**perf, "stop_reason": 1, "uptime": 0}, headers=headers_of(http))
    plain = {"value": value} if name in ("context", "length") else {"result": value}
    return JSONResponse(plain, headers=headers_of(http))


def _event(plain: dict[str, Any]) -> bytes:
    return b"event: message\ndata: " + json.dumps(plain).encode() + b"\n\n"
