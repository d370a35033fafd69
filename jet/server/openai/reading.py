"""Parse and check the body of a request, and translate its fields into the engine's parameters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from jet.api import MAX_SEED, RequestError, SamplingParams
from jet.server.openai.errors import ApiError, from_request_error, invalid, shown
from jet.server.openai.sampler_order import order_of
from jet.server.openai.schema import MAX_STOP_CHARACTERS, MAX_STOPS, Sampling
from jet.server.openai.spellings import HARMLESS, rename

Fields = TypeVar("Fields", bound=BaseModel)

# OpenAI's defaults: the model's own distribution, and nothing else.
NEUTRAL = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0)
_SAMPLERS = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "xtc_probability", "xtc_threshold"),
    *("presence_penalty", "frequency_penalty", "top_n_sigma", "typical_p", "dynatemp_range"),
    *("dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay"),
)
_LARGE = 200_000  # bytes that are parsed in a thread: the event loop has others to serve
MOST_TOKENS = 1_000_000  # that `SamplingParams` takes


async def read_fields(request: Request, kind: type[Fields]) -> tuple[Fields, list[str]]:
    """Parse a request's body; return its fields, and the names of ignored fields. Raises ApiError.

    `kind`: the model of the body.
    """
    try:
        body = await request.body()
    except ClientDisconnect:
        raise ApiError(499, "The connection was closed.") from None
    plain = await asyncio.to_thread(_parse, body) if len(body) > _LARGE else _parse(body)
    try:
        return check_fields(plain, kind)
    except RecursionError:
        raise invalid("The JSON is nested too deeply.") from None


def check_fields(plain: dict[str, object], kind: type[Fields]) -> tuple[Fields, list[str]]:
    """Check parsed JSON; return its fields, and the names of ignored fields. Raises ApiError.

    Ignored fields are those that `kind` lacks. Harmless and empty ones are not named.
    """
    try:
        fields = kind.model_validate(rename(plain))
    except ValidationError as error:
        raise _explain(error) from None
    unknown = [name for name, value in (fields.model_extra or {}).items() if not _means_nothing(name, value)]
    return fields, unknown


def _means_nothing(name: str, value: object) -> bool:
    """Return whether an unknown field is harmless or empty, so that the answer need not mention it."""
    return name in HARMLESS or value is None or value is False or value in ("", [], {})


def _parse(body: bytes) -> dict[str, object]:
    try:
        plain = json.loads(body.decode("utf-8") or "{}", parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise invalid("The body is no text in UTF-8.") from None
    except RecursionError:
        raise invalid("The JSON is nested too deeply.") from None
    except ValueError as error:
        raise invalid(f"The body is no JSON: {error}.") from None
    if not isinstance(plain, dict):
        raise invalid("The body must be a JSON object.")
    return plain


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _explain(error: ValidationError) -> ApiError:
    """Return the error with the first wrong field and the reason, but not its value, which may be secret."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part) for part in first["loc"] if not _names_a_type(part)]
    name = ".".join(place)[:100]
    if first["type"] == "missing":
        return invalid(f"{name} is missing.", param=name)
    count = error.error_count()
    message = f"{name}: {first['msg']}" if name else str(first["msg"])
    if len({str(one["loc"][0]) for one in error.errors(include_input=False)}) == 1 and count > 1:
        message = f"{place[0]} has the wrong type or shape ({first['msg']})"
    return invalid(f"{message}.", param=place[0] if place else None)


def _names_a_type(part: object) -> bool:
    """Return whether a part of an error's location is pydantic's name for one type of a union."""
    return isinstance(part, str) and (
        "[" in part or part in ("str", "int", "bool", "float", "constrained-int")
    )


def sampling_of(fields: Sampling, max_tokens: int) -> SamplingParams:
    """Return the sampling parameters of a request. Raises ApiError."""
    values: dict[str, Any] = {
        name: value for name in _SAMPLERS if (value := getattr(fields, name)) is not None
    }
    if values.get("top_k") == -1:
        values["top_k"] = 0
    values["top_n_sigma"] = max(0.0, values.get("top_n_sigma", 0.0))
    values["adaptive_target"] = max(-1.0, values.get("adaptive_target", -1.0))
    values["sampler_order"] = order_of(fields.samplers)
    try:
        return SamplingParams(
            **{
                **{name: getattr(NEUTRAL, name) for name in _SAMPLERS},
                **values,
                "max_new_tokens": max_tokens,
                "seed": seed_of(fields.seed),
                "end_at": fields.end_at or NEUTRAL.end_at,
            }
        )
    except RequestError as error:
        raise from_request_error(error) from None


def seed_of(seed: int | None) -> int | None:
    """Return a valid seed; None for a random one.

    None and -1 mean a random seed. Other seeds are reduced to the engine's range. Raises ApiError if a seed
    has more than 64 bits.
    """
    if seed is None or seed == -1:
        return None
    if not -(2**64) < seed < 2**64:
        raise invalid("seed must have at most 64 bits.", param="seed")
    return seed % (MAX_SEED + 1)


def stops_of(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the stop strings that are not empty.

    Raises ApiError if there are too many, or if one is too long.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        raise invalid(f"stop can have {MAX_STOPS} texts, not {len(stops)}.", param="stop")
    if any(len(one) > MAX_STOP_CHARACTERS for one in stops):
        raise invalid(f"A text in stop can have {MAX_STOP_CHARACTERS} characters.", param="stop")
    return tuple(one for one in stops if one)


def bias_of(fields: Sampling) -> tuple[tuple[tuple[int, float], ...], tuple[tuple[str, float], ...]]:
    """Return pairs of a token id and its bias, and pairs of a word and its bias. Raises ApiError."""
    given = fields.logit_bias or {}
    pairs: list[tuple[int | str, float]] = []
    if isinstance(given, dict):
        pairs = [(int(name) if _is_id(name) else name, bias) for name, bias in given.items()]
    else:  # llama.cpp's form, in which false bans a token
        pairs = [(token, -100.0 if isinstance(bias, bool) else bias) for token, bias in given]
    if len(pairs) > 10_000:
        raise invalid("logit_bias can have 10,000 tokens.", param="logit_bias")
    for token, bias in pairs:
        if (isinstance(token, int) and not 0 <= token < 2**31) or not -100 <= bias <= 100:
            raise invalid(f"logit_bias must be from -100 to 100, not {bias:g}.", param="logit_bias")
    ids = {token: bias for token, bias in pairs if isinstance(token, int)}
    words = {word: bias for word, bias in pairs if isinstance(word, str)}
    return tuple(sorted(ids.items())), tuple(words.items())


def _is_id(name: str) -> bool:
    """Return whether a key of `logit_bias` is a token id, and not a word.

    Raises ApiError if the id is too large.
    """
    if name.isascii() and name.isdecimal():
        if len(name) >= 10:
            raise invalid(f"logit_bias has too large a token id: {shown(name)}.", param="logit_bias")
        return True
    return False
