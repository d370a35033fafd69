"""POST /v1/chat/completions: applies the model's chat template, answers in OpenAI's chat format."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from jet.api import RequestError
from jet.server.openai.answers import DONE, Answer, event
from jet.server.openai.batch import Batch
from jet.server.openai.completions import request_of
from jet.server.openai.errors import from_request_error, invalid
from jet.server.openai.generation import Delta, TokenInfo
from jet.server.openai.ids import secret_name
from jet.server.openai.reading import read_fields, stops_of
from jet.server.openai.responding import headers_of
from jet.server.openai.schema import ChatRequest, Message
from jet.server.openai.service import SHORT, ApiService, new_id
from jet.server.openai.tokens import Codec
from jet.server.openai.usage import Usage

DEFAULT_TOKENS = 4_096  # an answer ends by itself; without an end, memory for a whole context would be held


async def chat(service: ApiService, http: HttpRequest) -> Response:
    """Answer a call of POST /v1/chat/completions. Raises ApiError."""
    caller = service.caller(http)
    fields, unknown = await read_fields(http, ChatRequest)
    _refuse_unoffered(fields)
    engine, codec = await service.codec()
    model = service.check_model(service.facts(engine), fields.model)
    salt = service.cache_salt(http, caller, fields.user)
    goes_on = bool(fields.continue_final_message)
    messages = plain_messages(fields.messages)
    if goes_on and messages[-1]["role"] != "assistant":
        raise invalid("continue_final_message wants the last message to be an assistant's.", "messages")
    read = partial(codec.chat_ids, messages, salt, not goes_on)
    is_short = sum(len(message["content"]) for message in messages) <= SHORT
    try:
        ids = read() if is_short else await asyncio.to_thread(read)
    except RequestError as error:
        raise from_request_error(error) from None
    count, limit = fields.n or 1, service.limiter.limits.max_new_tokens
    most = fields.max_tokens or min(DEFAULT_TOKENS, limit or DEFAULT_TOKENS)
    logprobs = _logprobs_wanted(fields)
    shared = salt or (secret_name() if count > 1 else "")
    requests = [
        replace(request_of(fields, most, "", tuple(ids.tolist()), logprobs, salt, number), cache_salt=shared)
        for number in range(count)
    ]
    batch = Batch(service, engine, requests, service.limited_as(http, caller), stops_of(fields.stop), codec)
    await batch.open()
    return Answer(
        batch, ChatForm(model, fields, codec, logprobs), bool(fields.stream), headers_of(http, unknown)
    )


def plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return each message as a dictionary of role and content, with the parts of its content joined.

    Raises ApiError for content other than text.
    """
    found = []
    for number, message in enumerate(messages):
        content = message.content or ""
        if not isinstance(content, str):
            if strange := [part.type for part in content if part.type != "text"]:
                raise invalid(
                    f"Message {number + 1} has a part that is no text: {strange[0][:40]!r}.", "messages"
                )
            content = "".join(part.text or "" for part in content)
        role = "system" if message.role == "developer" else message.role
        found.append({"role": role, "content": content})
    return found


def _refuse_unoffered(fields: ChatRequest) -> None:
    if fields.tools or fields.functions:
        name = "tools" if fields.tools else "functions"
        raise invalid(f"{name} are not offered: this model has not learned to call any.", param=name)
    if fields.response_format and fields.response_format.get("type") != "text":
        raise invalid("response_format is not offered, but for text.", param="response_format")


def _logprobs_wanted(fields: ChatRequest) -> int | None:
    """Return how many top log-probabilities to return for each token; None to return no log-probabilities.

    Raises ApiError for other values.
    """
    if fields.logprobs is None or fields.logprobs is False:
        if fields.top_logprobs:
            raise invalid("top_logprobs wants logprobs to be true.", param="top_logprobs")
        return None
    if fields.logprobs is True:
        return fields.top_logprobs or 0
    if not 0 <= fields.logprobs <= 20:
        raise invalid("logprobs must be true or false.", param="logprobs")
    return fields.logprobs


@dataclass
class _Choice:
    """The parts of one answer that have come so far."""

    text: str = ""
    details: list[TokenInfo] = field(default_factory=list)
    finish_reason: str | None = None
    unfinished: str = ""
    stop_reason: str | None = None

    def cut(self) -> None:
        """Remove an incomplete sentence from the end of the answer."""
        self.text = self.text.removesuffix(self.unfinished)
        self.details = [one for one in self.details if not self.unfinished or one.offset < len(self.text)]


class ChatForm:
    """OpenAI's chat format; see `jet.server.openai.answers.Form`."""

    def __init__(self, model: str, fields: ChatRequest, codec: Codec, logprobs: int | None) -> None:
        """Prepare the answers to one request.

        `logprobs`: how many top log-probabilities to return for each token; None to return no
        log-probabilities.
        """
        self._base = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": model}
        self._stream = {**self._base, "object": "chat.completion.chunk"}
        self._codec, self._logprobs = codec, logprobs
        count = fields.n or 1
        options = fields.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._usage = Usage(count)
        self._choices = [_Choice() for _ in range(count)]

    def opening(self) -> list[bytes]:
        """Return a frame for each answer with the role of its message."""
        delta = {"role": "assistant", "content": ""}
        return [self._frame(number, delta, None, _Choice()) for number in range(len(self._choices))]

    def frames(self, number: int, delta: Delta) -> list[bytes]:
        """Return a frame for a part of an answer; an empty list for an empty part."""
        self.add(number, delta)
        choice, self._choices[number] = self._choices[number], _Choice()
        if not (choice.text or choice.details or choice.finish_reason):
            return []
        content = {"content": choice.text} if choice.text or choice.details else {}
        return [self._frame(number, content, self._logprobs_of(choice), choice)]

    def _frame(
        self, number: int, delta: dict[str, str], logprobs: dict[str, Any] | None, of: _Choice
    ) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": of.finish_reason}
        choice |= {"unfinished": of.unfinished} if of.unfinished else {}
        choice |= {"stop_reason": of.stop_reason} if of.stop_reason else {}
        usage = {"usage": self._usage.plain()} if self._usage_always else {}
        return event({**self._stream, "choices": [choice], **usage})

    def closing(self) -> list[bytes]:
        """Return the frame with the usage, if it was requested, and the end of the stream."""
        usage = {**self._stream, "choices": [], "usage": self._usage.plain()}
        return [event(usage), DONE] if self._usage_at_end else [DONE]

    def error(self, plain: dict[str, Any]) -> list[bytes]:
        """Return the frame of an error, as OpenAI's clients expect it."""
        return [event(plain), DONE]

    def add(self, number: int, delta: Delta) -> None:
        """Add a part to an answer."""
        choice = self._choices[number]
        self._usage.add(number, delta.tokens, delta.stats)
        choice.text += delta.text
        choice.details += delta.details
        choice.finish_reason, choice.unfinished = delta.finish_reason, delta.stats.unfinished
        choice.stop_reason = delta.stop_reason

    def whole(self) -> dict[str, Any]:
        """Return all answers as one JSON object."""
        for choice in self._choices:
            choice.cut()
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs_of(choice),
                "finish_reason": choice.finish_reason,
                **({"unfinished": choice.unfinished} if choice.unfinished else {}),
                **({"stop_reason": choice.stop_reason} if choice.stop_reason else {}),
            }
            for number, choice in enumerate(self._choices)
        ]
        usage = self._usage.plain()
        return {**self._base, "object": "chat.completion", "choices": choices, "usage": usage}

    def _logprobs_of(self, choice: _Choice) -> dict[str, Any] | None:
        if self._logprobs is None:
            return None
        stops = self._codec.stop_ids
        shown = [one.detail for one in choice.details if one.detail.sampled.token_id not in stops]
        content = [
            {
                **self._token(detail.sampled.token_id, detail.sampled.logprob),
                "top_logprobs": [
                    self._token(one.token_id, one.logprob)
                    for one in detail.top_logprobs[: self._logprobs or 0]
                ],
            }
            for detail in shown
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._codec.bytes_of(token)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}
