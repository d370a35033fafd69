"""Serve GET /v1/models, /health and the tokenizer's routes."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from jet.api import EngineInfo, RequestError
from jet.server.openai.chat import plain_messages
from jet.server.openai.errors import ApiError, from_request_error, invalid
from jet.server.openai.reading import read_fields
from jet.server.openai.responding import headers_of
from jet.server.openai.schema import DetokenizeRequest, TokenizeRequest
from jet.server.openai.service import ApiService, model_name
from jet.server.openai.tokens import decode, token_name


async def models(service: ApiService, http: HttpRequest) -> Response:
    """List the one model that runs here."""
    service.caller(http)
    info = service.facts(await service.engine())
    return JSONResponse({"object": "list", "data": [_card(service, info)]}, headers=headers_of(http))


async def model(service: ApiService, http: HttpRequest) -> Response:
    """Describe the model that the path names. Raises ApiError if another model runs."""
    service.caller(http)
    info = service.facts(await service.engine())
    service.check_model(info, http.path_params["name"])
    return JSONResponse(_card(service, info), headers=headers_of(http))


def _card(service: ApiService, info: EngineInfo) -> dict[str, Any]:
    name = model_name(info.model)
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "jet-stories",
        "root": name,
        "parent": None,
        "max_model_len": info.context,
        "license": info.license,
    }


async def health(service: ApiService, http: HttpRequest) -> Response:
    """Answer 200 if requests are served, 503 while the model loads or the server shuts down."""
    status = "ok" if service.source.ready else "loading"
    if service.limiter.closing_reason is not None:
        status = "closing"
    return JSONResponse({"status": status}, 200 if status == "ok" else 503, headers=headers_of(http))


async def tokenize(service: ApiService, http: HttpRequest) -> Response:
    """Return the token ids of a text or a chat. Raises ApiError."""
    service.caller(http)
    fields, unknown = await read_fields(http, TokenizeRequest)
    engine, codec = await service.codec()
    info = service.facts(engine)
    service.check_model(info, fields.model)
    text = fields.prompt if fields.prompt is not None else fields.content
    if (text is None) == (fields.messages is None):
        raise invalid("prompt is missing: send a text, or messages.", param="prompt")
    _check_length(service, text or "")

    def read() -> list[int]:
        if fields.messages is not None:
            return [int(token) for token in codec.chat_ids(plain_messages(fields.messages))]
        assert text is not None
        front = [] if fields.add_special_tokens is False else list(codec.start)
        special = fields.parse_special is not False
        return front + (codec.ids_with_special(text) if special else codec.ids_of(text).tolist())

    try:
        ids = await asyncio.to_thread(read)
    except RequestError as error:
        raise from_request_error(error) from None
    plain: dict[str, Any] = {"count": len(ids), "max_model_len": info.context, "tokens": ids}
    plain["token_strs"] = [token_name(codec, token) for token in ids] if fields.return_token_strs else None
    return JSONResponse(plain, headers=headers_of(http, unknown))


async def detokenize(service: ApiService, http: HttpRequest) -> Response:
    """Return the text of token ids, with special tokens written as their names. Raises ApiError."""
    service.caller(http)
    fields, unknown = await read_fields(http, DetokenizeRequest)
    engine, codec = await service.codec()
    info = service.facts(engine)
    service.check_model(info, fields.model)
    vocabulary = info.vocabulary or 2**31
    if any(not 0 <= token < vocabulary for token in fields.tokens):
        raise invalid(f"Token ids of this model are from 0 to {vocabulary - 1:,}.", param="tokens")
    text = await asyncio.to_thread(decode, codec, fields.tokens, True)
    return JSONResponse({"prompt": text, "content": text}, headers=headers_of(http, unknown))


async def tokenizer_info(service: ApiService, http: HttpRequest) -> Response:
    """Return the names of the special tokens, and the chat template."""
    service.caller(http)
    engine, codec = await service.codec()
    names = {id: name for name, id in codec.special_tokens().items()}
    # A chat's end ends a text, too; a text's own end is the first of them.
    ends = [names[token] for token in sorted(codec.stop_ids) if token in names]
    end = next((name for name in ends if "text" in name), ends[0] if ends else None)
    plain = {
        "tokenizer_class": "StoryTokenizer",
        "eos_token": end,
        "bos_token": names.get(codec.start[0]) if codec.start else None,
        "pad_token": end,
        "stop_tokens": ends,
        "chat_template": codec.chat_template,
        "model_max_length": engine.info().context,
        "vocab_size": engine.info().vocabulary,
        "add_bos_token": bool(codec.start),
    }
    return JSONResponse(plain, headers=headers_of(http))


def _check_length(service: ApiService, text: str) -> None:
    longest = service.limiter.limits.characters
    if longest is not None and len(text) > longest:
        raise ApiError(400, f"A text can have {longest:,} characters here, and this has {len(text):,}.")
