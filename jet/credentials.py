"""Read keys, tokens and passwords, and redact them from every message.

    environment ── read_secret ── clean value, remembered
    any message ── redact ─────── the same message without the remembered secrets

Libraries may repeat a header or a URL in their errors. A secret that no HTTP header can hold is therefore
rejected here, with a message that names its variable. Once a secret is read, log records of all libraries are
redacted.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import traceback
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "…"

_SHORTEST = 4  # characters; shorter values protect nothing and occur in ordinary words
_USER_IN_URL = re.compile(r"(?<=//)[^/?#\s]*@")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{10,}")

_remembered: tuple[str, ...] = ()  # every encoding in which a secret may appear, the longest first


class SecretError(ValueError):
    """Raised for a secret that cannot be used. The message names the variable, never the value."""


def read_secret(variable: str) -> str | None:
    """Return an environment variable without surrounding whitespace; None if it is unset or empty.

    Raises SecretError for a value that cannot stand in an HTTP header.
    """
    value = os.environ.get(variable)
    return clean(value, variable) if value else None


def clean(value: str, name: str) -> str:
    """Return a secret without surrounding whitespace, and remember it for redaction.

    Raises SecretError if the secret cannot stand in an HTTP header. `name` tells in its message where the
    secret comes from.
    """
    remember(value)
    stripped = value.strip().removeprefix("\ufeff").strip()
    remember(stripped)
    if not stripped:
        raise SecretError(f"{name} is set, but holds nothing but blanks: set it to the key, or unset it.")
    if "\n" in stripped or "\r" in stripped:
        raise SecretError(f"{name} has a line break in it: set it to one line, the key alone.")
    if not (stripped.isascii() and stripped.isprintable()):
        raise SecretError(
            f"{name} has a character in it that no key has (only printable ASCII): copy the key again."
        )
    return stripped


def remember(secret: str, user: str = "") -> None:
    """Redact this secret from now on, if it has at least 4 characters.

    `user`: the user name that is sent with the secret; "" without one.
    """
    global _remembered
    if len(secret.strip()) < _SHORTEST:
        return
    raw = secret.encode("utf-8", "replace")
    pair = f"{user}:{secret}".encode("utf-8", "replace")
    forms = {
        secret,
        secret.strip(),
        " ".join(secret.split()),
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        json.dumps(secret)[1:-1],
        json.dumps(secret.strip())[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(raw)[2:-1],
        ascii(secret)[1:-1],
        base64.b64encode(raw).decode("ascii"),
        base64.b64encode(pair).decode("ascii"),
    }
    _watch_log_records()
    known = {*_remembered, *(form for form in forms if len(form) >= _SHORTEST)}
    _remembered = tuple(sorted(known, key=len, reverse=True))  # a longer form may hold a shorter one


def redact(text: str) -> str:
    """Return the text without remembered secrets, hub tokens, and names and passwords in URLs."""
    for secret in _remembered:
        text = text.replace(secret, REDACTED)
    return _HUB_TOKEN.sub(f"hf_{REDACTED}", _USER_IN_URL.sub(f"{REDACTED}@", text))


def describe(error: BaseException) -> str:
    """Return the redacted traceback of an error."""
    return redact("".join(traceback.format_exception(type(error), error, error.__traceback__)))


def _watch_log_records() -> None:
    """Redact all log records of this process, by wrapping the factory that creates them."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        try:
            message = record.getMessage()
        except Exception:  # wrong arguments: logging reports them itself
            return record
        if (said := redact(message)) != message:
            record.msg, record.args = said, ()
        if record.exc_info and record.exc_info[1] is not None:
            told = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if (cut := redact(told)) != told:
                record.exc_info, record.exc_text = None, cut
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)
