"""The JSON of OpenAI-compatible servers: request bodies, model lists and completion events as plain data.

Servers agree on completions as far as OpenAI has defined them. They differ in further sampling settings,
which they name differently or lack, and in the format of log-probabilities.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jet.api import Request, RequestError, SamplingParams, TokenLogprob, TokenLogprobs
from jet.credentials import redact
from jet.engine.remote.samplers import further_samplers

ROUTER = "local"  # what SGLang's router calls the owner of models
OUR_SERVER = "jet-stories"  # what this program's own API calls itself
UNKNOWN_CONTEXT = 4096  # tokens, for servers that do not report their context
SHOWN_CHARACTERS = 300  # most characters shown of a server's message

_CONTEXT_NAMES = (
    "max_model_len",
    "n_ctx",
    "context_length",
    "context_window",
    "max_context_length",
    "max_seq_len",
)
_NEUTRAL = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
# Settings that OpenAI does not have. A server without them may ignore them silently, so they are sent only if
# they have an effect.
_FURTHER = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_DRY = ("dry_multiplier", "dry_base", "dry_allowed_length")
_XTC = ("xtc_probability", "xtc_threshold")
_OTHER_NAMES = {"llamacpp": {"repetition_penalty": "repeat_penalty"}}
_WITHOUT_DRY_AND_XTC = {"sglang", "vllm"}
# Servers' names for the two finish reasons. "" and null mean that the text continues.
_STOPPED = {
    "stop",
    "eos",
    "eos_token",
    "stop_sequence",
    "stop_token",
    "end_turn",
    "end_of_text",
    "eos_token_id",
}
_FULL = {"length", "max_tokens", "max_length", "max_new_tokens", "token_limit", "limit"}


class ProtocolError(ValueError):
    """An answer that does not follow OpenAI's API. The message names the fault."""


class ServerError(ProtocolError):
    """An error that the server reports; the message is the server's."""


@dataclass(frozen=True)
class ServedModel:
    """A model that a server offers.

    Attributes:
        name: the server's name for it.
        server: the kind of server: "sglang", "vllm", "llamacpp"; "" if unknown.
        context: most tokens of prompt and answer together; None if unknown.
        parameters: the number of weights; None if unknown.
    """

    name: str
    server: str = ""
    context: int | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class CompletionChunk:
    """One event of a completion.

    Attributes:
        text: the new text, possibly ending in half a character.
        logprobs: log-probabilities of the new tokens, if requested and sent.
        tokens: the number of new tokens, from log-probabilities; None if unknown.
        tokens_so_far: the server's count of generated tokens; None if not in this event.
        prompt_tokens: the server's count of prompt tokens; None if not in this event.
        cached_tokens: the number of prompt tokens that the server had cached; None if not in this event.
        finish_reason: set in the last event with text: "stop", "length", "banned", or the server's own word.
        oddity: a description of the fault in an event without content; "" for keep-alive events.
    """

    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    tokens: int | None = None
    tokens_so_far: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    oddity: str = ""


def read_models(answer: str, wanted: str | None) -> ServedModel:
    """Parse the answer to `/models`; return the model `wanted`, or the first. Raises ProtocolError."""
    models = _object(answer).get("data")
    known = [
        m
        for m in (models if isinstance(models, list) else ())
        if isinstance(m, dict) and isinstance(m.get("id"), str)
    ]
    if not known:
        raise ProtocolError("it offers no model")
    chosen = next((model for model in known if wanted in (None, model["id"])), None)
    if chosen is None:
        raise ProtocolError(
            f"it does not offer {wanted}, but {', '.join(model['id'] for model in known[:5])}"
        )
    said = {**chosen, **(chosen["meta"] if isinstance(chosen.get("meta"), dict) else {})}
    server = said.get("owned_by")
    return ServedModel(
        chosen["id"],
        server if isinstance(server, str) else "",
        _context(said),
        _count(said.get("n_params")),
    )


def read_model_info(answer: str) -> tuple[int | None, str]:
    """Parse an engine's `/get_model_info`; return the context in tokens and the kind of server.

    Returns None and "" for those that it does not contain.
    """
    try:
        said = _object(answer)
    except ProtocolError:
        return None, ""
    return _context(said), OUR_SERVER if said.get("owned_by") == OUR_SERVER else ""


def read_properties(answer: str) -> tuple[int | None, str]:
    """Parse llama.cpp's `/props`; return the context in tokens, None if not given.

    The second value is "", since the answer does not contain the kind of server.
    """
    try:
        said = _object(answer)
    except ProtocolError:
        return None, ""
    settings = said.get("default_generation_settings")
    return _context({**said, **(settings if isinstance(settings, dict) else {})}), ""


def _context(said: Mapping[str, Any]) -> int | None:
    found = (_count(said.get(name)) for name in _CONTEXT_NAMES)
    return next((count for count in found if count), None)


def completion(request: Request, model: ServedModel, max_tokens: int | None = None) -> dict[str, object]:
    """Build the body of a request to `/completions`; `max_tokens`: None for the request's own limit.

    Raises RequestError for settings that the server is known not to support.
    """
    sampling = request.sampling
    body: dict[str, object] = {
        "model": model.name,
        "prompt": request.prompt,
        "max_tokens": max_tokens or sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    names = _OTHER_NAMES.get(model.server, {})
    for name in _FURTHER:
        value = getattr(sampling, name)
        if value != getattr(_NEUTRAL, name):
            body[names.get(name, name)] = value
    wanted = [*(_DRY if sampling.dry_multiplier else ()), *(_XTC if sampling.xtc_probability else ())]
    if wanted and model.server in _WITHOUT_DRY_AND_XTC:
        raise RequestError(
            f"The engine is a server of {model.server}, which has neither DRY nor XTC: "
            "please set DRY strength and XTC probability to 0."
        )
    body.update({name: getattr(sampling, name) for name in wanted})
    body.update(further_samplers(sampling, model.server))
    if request.banned:
        if model.server != OUR_SERVER:
            other = f"a server of {model.server}" if model.server else "another program"
            raise RequestError(
                f"The engine is {other}, which cannot go back to before a banned phrase: please ban none."
            )
        body["banned"] = list(request.banned)
    if request.top_logprobs:
        body["logprobs"] = request.top_logprobs
    if request.cache_salt:
        body["user"] = public_name(request.cache_salt)
    if request.min_tokens:
        body["min_tokens"] = request.min_tokens  # supported by vLLM and SGLang, ignored by others
    if request.stop_token_ids:
        body["stop_token_ids"] = list(request.stop_token_ids)
    if request.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in request.logit_bias}
    return body


def public_name(cache_salt: str) -> str:
    """Return a public name for the user with this `cache_salt`, by which a server may limit requests.

    The name does not reveal the secret salt. It is the same in every process of one page.
    """
    return hashlib.sha256(b"jet user\0" + cache_salt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_chunk(data: str, logprobs_due: bool = True) -> CompletionChunk:
    """Parse one event of a completion. Raises ProtocolError, or ServerError if it reports an error.

    Other events (words, lists, usage without choices) become chunks without content. Unreadable
    log-probabilities raise ProtocolError only if `logprobs_due`, and are left out otherwise.
    """
    if not data.strip() or data.lstrip()[0] not in "{[":
        return CompletionChunk(oddity="it is not JSON" if data.strip() else "")
    said = _json(data)
    if not isinstance(said, dict):
        return CompletionChunk(oddity="it is no JSON object")
    if said.get("error") or said.get("object") == "error":
        raise ServerError(error_message(data))
    choices, usage = said.get("choices"), said.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens_so_far, prompt_tokens = (
        _count(counts.get("completion_tokens")),
        _count(counts.get("prompt_tokens")),
    )
    details = counts.get("prompt_tokens_details")
    cached_tokens = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    if choices is None and "choices" not in said and not isinstance(usage, dict):
        return CompletionChunk(oddity="an event has no choices")
    if choices is not None and not isinstance(choices, list):
        raise ProtocolError("an event has no choices")
    choice = (choices[0] if choices else None) or {}
    text = _text_of(choice)
    if text is None:
        raise ProtocolError("a choice has no text")
    logprobs = _logprobs(choice.get("logprobs"), logprobs_due)
    return CompletionChunk(
        text,
        logprobs or (),
        len(logprobs) if logprobs else None,
        tokens_so_far,
        prompt_tokens,
        cached_tokens,
        "banned" if choice.get("stop_reason") == "banned" else _finish_reason(choice.get("finish_reason")),
    )


def _text_of(choice: object) -> str | None:
    """Return the text of a choice, which may end in half a character.

    Returns "" if the choice has no text, None if it is malformed.
    """
    if not isinstance(choice, dict):
        return None
    text = choice.get("text")
    delta = choice.get("delta")  # of a chat, as some servers answer completions, too
    if text is None and isinstance(delta, dict):
        text = delta.get("content")
    return text if isinstance(text, str) else None if text else ""


def _finish_reason(said: object) -> str | None:
    if isinstance(said, dict):
        said = said.get("type") or said.get("reason")
    if not said:
        return None
    reason = str(said).strip()
    word = reason.lower().replace("-", "_").replace(" ", "_")
    return "stop" if word in _STOPPED else "length" if word in _FULL else reason or None


def error_message(answer: str) -> str:
    """Return the message of a server's error answer, in one line, from any format in use."""
    try:
        said: object = _object(answer)
    except ProtocolError:
        said = answer
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    line = redact(whole(" ".join(str(said if said != {} else "").split())))
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def error_sizes(answer: str) -> str:
    """Return the token counts in llama.cpp’s error answers as text; "" for other servers."""
    try:
        said = _object(answer).get("error")
    except ProtocolError:
        return ""
    found = (
        {name: _count(said.get(name)) for name in ("n_ctx", "n_prompt_tokens")}
        if isinstance(said, dict)
        else {}
    )
    return "".join(f" ({name} {count})" for name, count in found.items() if count)


def _logprobs(logprobs: object, due: bool) -> tuple[TokenLogprobs, ...] | None:
    """Parse log-probabilities in OpenAI's completions or chat format; llama.cpp uses the latter for both.

    Returns None if there are none. If they are unreadable, raises ProtocolError if they are `due`, and
    returns None otherwise.
    """
    if not isinstance(logprobs, dict) or not any(logprobs.values()):
        return None
    try:
        content = logprobs.get("content")
        return _chat_form(content) if content is not None else _completions_form(logprobs)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        if due:
            raise ProtocolError("its log-probabilities cannot be read") from error
        return None


def _chat_form(content: list[Mapping[str, Any]]) -> tuple[TokenLogprobs, ...]:
    def read(said: Mapping[str, Any]) -> TokenLogprob:
        return _alternative(said["token"], said["logprob"], said.get("id"))

    return tuple(
        TokenLogprobs(read(said), tuple(map(read, said.get("top_logprobs") or ()))) for said in content
    )


def _completions_form(logprobs: Mapping[str, Any]) -> tuple[TokenLogprobs, ...]:
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    others = logprobs.get("top_logprobs") or [None] * len(tokens)
    by_likelihood: Callable[[TokenLogprob], float] = lambda other: -other.logprob  # noqa: E731 - typed
    return tuple(
        TokenLogprobs(
            _alternative(token, value),
            tuple(sorted((_alternative(*other) for other in (top or {}).items()), key=by_likelihood)),
        )
        for token, value, top in zip(tokens, values, others, strict=True)
    )


def _alternative(text: str, logprob: float | None, token: int | None = None) -> TokenLogprob:
    """Make a candidate token; without an id from the server, the id is a checksum of the text."""
    number = zlib.crc32(text.encode("utf-8", "surrogatepass")) if token is None else int(token)
    return TokenLogprob(number, whole(text), float("-inf") if logprob is None else float(logprob))


def whole(text: str) -> str:
    """Join surrogate pairs, which JSON may write as two halves; replace unpaired ones by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("it is not JSON") from error


def _object(text: str) -> dict[str, Any]:
    said = _json(text)
    if not isinstance(said, dict):
        raise ProtocolError("it is no JSON object")
    return said


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
