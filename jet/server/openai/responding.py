"""Headers of responses: the request id, and the names of ignored fields."""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.requests import Request

from jet.server.openai.ids import random_id
from jet.server.openai.spellings import as_header

REQUEST_ID = "x-request-id"
IGNORED = "x-ignored-fields"
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(request: Request) -> str:
    """Return the id that the client gave its request if it is valid, otherwise a new one."""
    if "jet_request_id" not in request.scope:
        given = request.headers.get(REQUEST_ID, "")
        request.scope["jet_request_id"] = given if _ID.fullmatch(given) else random_id()
    return str(request.scope["jet_request_id"])


def headers_of(request: Request, ignored: Collection[str] = ()) -> dict[str, str]:
    """Return the headers of an answer.

    `ignored`: the names of fields that had no effect.
    """
    headers = {REQUEST_ID: request_id(request)}
    if ignored:
        headers[IGNORED] = as_header(ignored)
    return headers
