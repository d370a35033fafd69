"""Validate untrusted settings and prompts, with messages that say what to change."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import asdict
from typing import Any

from jet.api import MAX_SEED, Request, RequestError, SamplingParams
from jet.story.pieces import normalize_line_breaks

DEFAULTS = SamplingParams()
NOT_IN_PRESETS = ("max_new_tokens", "end_at", "seed")  # no matters of taste
MAX_QUOTED_CHARACTERS = 80  # of a value that is quoted back in a message


def parse_request(
    prompt: object,
    max_new_tokens: object,
    temperature: object,
    top_p: object,
    top_k: object,
    min_p: object,
    repetition_penalty: object,
    seed: object,
    end_at: object = DEFAULTS.end_at,
) -> Request:
    """Build a request from untrusted values. Draws a seed if `seed` is None or empty. Raises RequestError."""
    sampling = parse_settings(
        max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, end_at=end_at
    )
    return Request(_text(prompt), sampling.with_seed())


def parse_settings(
    max_new_tokens: object,
    temperature: object,
    top_p: object,
    top_k: object,
    min_p: object,
    repetition_penalty: object,
    seed: object,
    dry_multiplier: object = DEFAULTS.dry_multiplier,
    dry_base: object = DEFAULTS.dry_base,
    dry_allowed_length: object = DEFAULTS.dry_allowed_length,
    xtc_probability: object = DEFAULTS.xtc_probability,
    xtc_threshold: object = DEFAULTS.xtc_threshold,
    presence_penalty: object = DEFAULTS.presence_penalty,
    frequency_penalty: object = DEFAULTS.frequency_penalty,
    end_at: object = DEFAULTS.end_at,
    **further: object,
) -> SamplingParams:
    """Build sampling parameters from untrusted values. A missing seed stays None. Raises RequestError.

    `further`: other settings by name; each must have the type of its default.
    """
    return SamplingParams(
        temperature=_number("temperature", temperature),
        top_p=_number("top_p", top_p),
        top_k=_integer("top_k", top_k),
        min_p=_number("min_p", min_p),
        repetition_penalty=_number("repetition_penalty", repetition_penalty),
        dry_multiplier=_number("dry_multiplier", dry_multiplier),
        dry_base=_number("dry_base", dry_base),
        dry_allowed_length=_integer("dry_allowed_length", dry_allowed_length),
        xtc_probability=_number("xtc_probability", xtc_probability),
        xtc_threshold=_number("xtc_threshold", xtc_threshold),
        presence_penalty=_number("presence_penalty", presence_penalty),
        frequency_penalty=_number("frequency_penalty", frequency_penalty),
        max_new_tokens=_integer("max_new_tokens", max_new_tokens),
        seed=_seed(seed),
        end_at=_one_line("end_at", end_at),
        **{name: _like(name, value) for name, value in further.items()},
    )


def parse_controls(values: dict[str, object], defaults: SamplingParams = DEFAULTS) -> SamplingParams:
    """Build sampling parameters from values by name, completed by `defaults`. Raises RequestError."""
    known: dict[str, object] = asdict(defaults)
    if unknown := values.keys() - known.keys():
        raise RequestError(f"There is no setting {min(unknown)[:MAX_QUOTED_CHARACTERS]!r}.")
    seed = values.get("seed")
    if isinstance(seed, str):
        values = {**values, "seed": seed_from_text(seed)}
    return parse_settings(**{**known, **values})


def seed_from_text(text: str) -> int | None:
    """Return the seed that a writer's text stands for; None if the text is blank.

    Digits stand for their number. Any other text is hashed, so the same text always gives the same seed.
    """
    text = unicodedata.normalize("NFC", text.strip())
    if not text:
        return None
    if text.isdecimal() and len(text) <= len(str(MAX_SEED)) and int(text) <= MAX_SEED:
        return int(text)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def parse_preset(values: dict[str, object]) -> SamplingParams:
    """Build sampling parameters from a preset that the browser has saved. Raises RequestError."""
    if unknown := values.keys() & set(NOT_IN_PRESETS):
        raise RequestError(f"A preset has no setting {min(unknown)!r}.")
    return parse_controls(values)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise RequestError(f"prompt must be text, not {_quoted(value)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The text has half a character (a lone surrogate) at position {error.start}: please remove it."
        ) from None
    return normalize_line_breaks(value)  # as the page's text box would have it


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{name} must be a number, not {_quoted(value)}.")
    return value


def _like(name: str, value: object) -> Any:
    default = getattr(DEFAULTS, name)
    parse = _one_line if isinstance(default, str) else _integer if isinstance(default, int) else _number
    return parse(name, value)


def _one_line(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a word, not {_quoted(value)}.")
    return value[:MAX_QUOTED_CHARACTERS]


def _integer(name: str, value: object) -> int:
    """Return a value as int. Raises RequestError if it is no whole number.

    Accepts integral floats such as 40.0, since JSON and sliders do not distinguish them.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} must be a whole number, not {_quoted(value)}.")
    return value


def _seed(value: object) -> int | None:
    """Parse a seed; None if the value is None or an empty text. Raises RequestError."""
    if isinstance(value, str):
        digits = value.strip()
        if not digits:
            return None
        # isdecimal also takes other scripts' digits, which int() reads; the length keeps int() from refusing.
        if digits.isdecimal() and len(digits) <= len(str(MAX_SEED)):
            value = int(digits)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise RequestError(
            f"seed must be a whole number from 0 to {MAX_SEED}, "
            f"or empty for a random one, not {_quoted(value)}."
        )
    return value


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"
