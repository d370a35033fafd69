"""ApiError: the answer, in OpenAI's format, to a request that cannot be served.

Functions create the usual errors: `invalid` (400), `invalid_key` (401), `too_much` (429), `unavailable`
(503).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jet.api import BusyError, RequestError
from jet.credentials import redact

CONTEXT_LENGTH = "context_length_exceeded"
_SHOWN = 100  # characters of a value that is quoted back


class ApiError(Exception):
    """A rejected or failed request: the HTTP status, the four fields of OpenAI's error object, headers."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind, self.param, self.code = kind, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """Return the JSON object to send; secrets are removed from the message."""
        return error_body(str(self), self.kind, self.param, self.code)


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object as plain JSON."""
    return {"error": {"message": redact(message), "type": kind, "param": param, "code": code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error for an invalid request."""
    return ApiError(400, message, param=param, code=code)


def invalid_key(message: str) -> ApiError:
    """Return the error for a key that is missing or unknown."""
    return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def too_much(message: str, retry_after_s: int = 1) -> ApiError:
    """Return the error for a request that a limit rejects at present."""
    headers = {"retry-after": str(retry_after_s)}
    return ApiError(429, message, "rate_limit_error", code="rate_limit_exceeded", headers=headers)


def unavailable(message: str, code: str, retry_after_s: int = 2) -> ApiError:
    """Return the error for a server that loads its model or shuts down."""
    headers = {"retry-after": str(retry_after_s)}
    return ApiError(503, message, "service_unavailable", code=code, headers=headers)


def from_request_error(error: RequestError) -> ApiError:
    """Convert the error of an engine or a limit: status 429 if the engine is busy, otherwise 400."""
    message = str(error)
    if isinstance(error, BusyError):
        return too_much(message)
    return invalid(message, code=CONTEXT_LENGTH if "too long" in message else None)


def shown(value: object) -> str:
    """Return a value in quotes for a message, shortened if necessary."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
