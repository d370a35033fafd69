"""What the answer of an OpenAI-compatible server is: pieces of a story, or what has gone wrong, in words."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import anyio
import httpx

from jet.engine.openai_wire import Piece, WireError, error_message, read_piece
from jet.engine.sse import read_events
from jet.engine.types import RequestError

KEY_VARIABLE = "JET_ENGINE_KEY"  # a key belongs neither on a command line nor into a message
KEPT = "What it has written is kept."

_PASSING = {429, 500, 502, 503, 504}
_END = "[DONE]"


class RemoteError(RequestError):
    """What a server did that ends a request, or cannot be reached at all. The message is for people."""


class Passing(RemoteError):
    """The same, where another attempt may do better."""

    def __init__(self, message: str, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.pause_s = pause_s  # what the server asks for


async def pieces_of(answer: httpx.Response) -> AsyncGenerator[Piece, None]:
    """The pieces of a completion, up to the word that ends it or the end of the connection."""
    async with aclosing(read_events(answer.aiter_bytes())) as events:
        async for data in events:
            if data.strip() == _END:
                return
            yield read_piece(data)


async def check(answer: httpx.Response) -> None:
    """Raise what an answer is that is no stream of events."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status_code == 200 and kind == "text/event-stream":
        return
    text = await _beginning(answer)
    if answer.status_code != 200:
        raise refusal(answer.status_code, text, answer.headers.get("retry-after"))
    raise WireError(f"it sends {kind or 'something without a type'} instead of a stream")


async def _beginning(answer: httpx.Response, most: int = 65_536) -> str:
    """Enough of an answer to say what it is, and no more than that; also of one that never ends."""
    found = bytearray()
    with anyio.move_on_after(2.0), suppress(httpx.HTTPError):
        async for piece in answer.aiter_bytes():
            found += piece
            if len(found) >= most:
                break
    return found[:most].decode("utf-8", "replace")


def refusal(status: int, text: str, retry_after: str | None = None) -> RemoteError:
    """What a status other than 200 means, and what to do about it."""
    said = error_message(text) if text.lstrip().startswith("{") else ""
    if status in _PASSING:
        pause = float(retry_after) if retry_after is not None and retry_after.strip().isdecimal() else None
        wait = f" It asks to try again in {pause:.0f} s." if pause else " Please try again later."
        busy = "is busy" if status in (429, 503) else f"has failed ({status})"
        return Passing(f"The engine’s server {busy}{': ' + said if said else ''}.{wait}", pause)
    if status in (401, 403):
        return RemoteError(f"The engine’s server wants a key: set {KEY_VARIABLE} where this page is started.")
    if status == 404:
        return RemoteError(
            "The engine’s server has nothing at this address; it should end in /v1." + f" {said}".rstrip()
        )
    return RemoteError(f"The engine’s server refuses this ({status}){': ' + said if said else ''}.")
