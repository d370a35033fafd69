"""Responses of OpenAI-compatible servers: completion chunks, or errors with messages for the user."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace

import anyio
import httpx

from jet.api import RequestError
from jet.credentials import redact
from jet.engine.remote.protocol import (
    CompletionChunk,
    ProtocolError,
    ServerError,
    error_message,
    error_sizes,
    read_chunk,
    whole,
)
from jet.engine.remote.sse import read_events
from jet.engine.remote.token_limits import read_refusal

KEY_VARIABLE = "JET_ENGINE_KEY"  # keys never appear on command lines or in messages
KEPT = "What it has written is kept."
NOWHERE = "The engine’s server is elsewhere, but does not say where: give its new address."
REDIRECTS = (301, 302, 303, 307, 308)

_STREAMS = ("text/event-stream", "text/plain", "application/octet-stream")  # the last two from proxies
_WHOLE = "application/json"  # from servers that do not stream
_MOST_WHOLE = 2**20  # most bytes of an answer that is not streamed

_RETRYABLE = {429, 500, 502, 503, 504}
_END = "[DONE]"


class RemoteError(RequestError):
    """An error of a server or of the connection to it. The message is for the user.

    Secrets are redacted: servers repeat request headers, and libraries put them into their errors.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(whole(message)))


class RetryableError(RemoteError):
    """A RemoteError after which another attempt may succeed."""

    def __init__(self, message: str, pause_s: float | None = None) -> None:
        super().__init__(message)
        self.pause_s = pause_s  # the wait that the server asks for


class ContextLengthError(RemoteError):
    """The server rejected a request, probably for its number of tokens.

    Attributes:
        said: the server's own message.
    """

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


async def iter_chunks(
    answer: httpx.Response, logprobs_due: bool = True
) -> AsyncGenerator[CompletionChunk, None]:
    """Yield the chunks of a completion until `[DONE]` or the end of the connection.

    Half a character at the end of an event is joined with the text of the next event. `[DONE]` without a
    finish reason counts as "stop". Raises ServerError if the server reports an error, ProtocolError and
    StreamError if the answer cannot be read.
    """
    if _kind(answer) == _WHOLE:
        chunk = read_chunk(await _beginning(answer, _MOST_WHOLE, None), logprobs_due)
        yield replace(chunk, text=whole(chunk.text), finish_reason=chunk.finish_reason or "stop")
        return
    half, began, ended = "", False, False
    async with aclosing(read_events(answer.aiter_bytes())) as events:
        async for event in events:
            if event.data.strip().strip('"') == _END:
                if began and not ended:
                    yield CompletionChunk(whole(half), finish_reason="stop")
                return
            if event.name == "error":
                raise ServerError(error_message(event.data))
            try:
                chunk = read_chunk(event.data, logprobs_due)
            except ServerError:
                raise
            except ProtocolError:
                if event.whole:
                    raise
                break  # the connection broke inside of an event
            began = began or bool(chunk.text)
            ended = ended or chunk.finish_reason is not None
            text = half + chunk.text
            half = "" if ended or not _is_high_half(text[-1:]) else text[-1]
            yield replace(chunk, text=whole(text.removesuffix(half)))
    if half:
        yield CompletionChunk(whole(half))


def _is_high_half(character: str) -> bool:
    return "\ud800" <= character <= "\udbff"


async def check(answer: httpx.Response, through: str = "") -> None:
    """Check that an answer is a completion.

    Raises RemoteError for a status other than 200, ProtocolError for another type of content. `through`: a
    sentence for the message that names a proxy in between; "" without one.
    """
    kind = _kind(answer)
    if answer.status_code == 200 and kind in (*_STREAMS, _WHOLE):
        return
    text = await _beginning(answer)
    if answer.status_code != 200:
        raise error_from_status(answer.status_code, text, answer.headers.get("retry-after"), through)
    raise ProtocolError(f"it sends {kind or 'something without a type'} instead of a stream")


def _kind(answer: httpx.Response) -> str:
    said: str = answer.headers.get("content-type", "")
    return said.partition(";")[0].strip().lower()


async def _beginning(answer: httpx.Response, most: int = 65_536, wait_s: float | None = 2.0) -> str:
    """Return the text of an answer's first `most` bytes, or of those that come within `wait_s` seconds.

    Some answers never end. `wait_s`: None for no time limit.
    """
    found = bytearray()
    with anyio.move_on_after(wait_s), suppress(httpx.HTTPError):
        async for data in answer.aiter_bytes():
            found += data
            if len(found) >= most:
                break
    return found[:most].decode("utf-8", "replace")


def next_address(answer: httpx.Response) -> httpx.URL | None:
    """Return the target of a redirect, if text and key may be sent there; None if it is no redirect.

    The same host and port is allowed, and so is a change from http to https on the same host. Raises
    RemoteError for any other redirect; the message has the target.
    """
    if answer.status_code not in REDIRECTS:
        return None
    said = answer.headers.get("location", "")
    here = answer.request.url
    try:
        there = here.join(said).copy_with(userinfo=b"", fragment=None)
        if not said or there.scheme not in ("http", "https") or not there.host:
            raise ValueError
    except (httpx.InvalidURL, ValueError, TypeError):
        raise RemoteError(NOWHERE) from None
    same = (there.scheme, there.host, _port(there)) == (here.scheme, here.host, _port(here))
    upgraded = there.host == here.host and (here.scheme, there.scheme) == ("http", "https")
    if (same or upgraded) and answer.status_code != 303:
        return there
    shown = f"{there.scheme}://{there.netloc.decode('ascii', 'replace')}{there.path}"
    raise RemoteError(
        f"The engine’s server is elsewhere ({answer.status_code}): it sends this page to "
        f"{redact(shown)[:200]}. A story and a key are not sent on to another server: "
        "if that one is meant, give its address."
    )


def _port(url: httpx.URL) -> int:
    return url.port or {"http": 80, "https": 443}[url.scheme]


def error_from_status(
    status: int, text: str, retry_after: str | None = None, through: str = ""
) -> RemoteError:
    """Return the error for an answer with an HTTP status other than 200.

    Args:
        status: the HTTP status.
        text: the body of the answer.
        retry_after: the answer's header of this name, seconds as text; None if it has none.
        through: a sentence for the message that names a proxy in between; "" without one.
    """
    said = error_message(text) if text.lstrip().startswith("{") else ""
    words = f"{said}{error_sizes(text)}" if said else whole(text)
    message = f"The engine’s server refuses this ({status}){': ' + said if said else ''}."
    if status == 500 and read_refusal(words, 0).anything:  # some servers answer 500 to a long prompt
        return ContextLengthError(message, words)
    if status in _RETRYABLE:
        pause = float(retry_after) if retry_after is not None and retry_after.strip().isdecimal() else None
        wait = f" It asks to try again in {pause:.0f} s." if pause else " Please try again later."
        busy = "is busy" if status in (429, 503) else f"has failed ({status})"
        return RetryableError(
            f"The engine’s server {busy}{': ' + said if said else ''}.{wait}{through}", pause
        )
    if status == 407:
        return RemoteError(f"The proxy wants a name and a password (407).{through}")
    if status in (401, 403):
        return RemoteError(f"The engine’s server wants a key: set {KEY_VARIABLE} where this page is started.")
    if status == 404:
        return RemoteError(
            "The engine’s server has nothing at this address; it should end in /v1." + f" {said}".rstrip()
        )
    return ContextLengthError(message, words) if status in (400, 413, 422) else RemoteError(message)
