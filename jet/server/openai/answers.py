"""Answer: an HTTP response with generated text, whole or as server-sent events.

Its engine requests are freed in any case: after the last token, an error or a closed connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from starlette.responses import Response

from jet.server.middleware import Receive, Scope, Send
from jet.server.openai.batch import Batch
from jet.server.openai.errors import ApiError, error_body
from jet.server.openai.generation import Delta

WHOLE_GAP_S = 0.1  # between two looks at an answer that is sent whole
DONE = b"data: [DONE]\n\n"
BEAT = b": still there\n\n"

log = logging.getLogger(__name__)


class Form(Protocol):
    """Formats answers for one API. A frame is the bytes of one server-sent event."""

    def opening(self) -> list[bytes]:
        """Return the frames before the first text."""
        ...

    def frames(self, number: int, delta: Delta) -> list[bytes]:
        """Return the frames for a part of answer `number`."""
        ...

    def closing(self) -> list[bytes]:
        """Return the frames after the last text."""
        ...

    def error(self, plain: dict[str, Any]) -> list[bytes]:
        """Return the frames for a failure; `plain` is OpenAI's error object."""
        ...

    def add(self, number: int, delta: Delta) -> None:
        """Add a part to answer `number`, if the answers are to be sent whole."""
        ...

    def whole(self) -> dict[str, Any]:
        """Return all answers as one JSON object, for requests without streaming."""
        ...


class Answer(Response):
    """Sends the answers of a batch in the format of one API."""

    def __init__(self, batch: Batch, form: Form, stream: bool, headers: Mapping[str, str]) -> None:
        super().__init__(headers=dict(headers))
        self._batch, self._form, self._stream = batch, form, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer until it ends or the client disconnects."""
        writing, has_left = asyncio.current_task(), False
        assert writing is not None

        def leave(task: asyncio.Task[None]) -> None:
            nonlocal has_left
            has_left = True
            self._batch.close()
            writing.cancel()

        gone = asyncio.create_task(_gone(receive))
        gone.add_done_callback(leave)
        try:
            await (self._write_stream(send) if self._stream else self._write_whole(send))
        except asyncio.CancelledError:
            if not has_left:  # it is the server that ends
                raise
        finally:
            gone.remove_done_callback(leave)
            gone.cancel()
            self._batch.close()

    async def _write_stream(self, send: Send) -> None:
        await self._start(send, 200, b"text/event-stream; charset=utf-8")
        form = self._form
        try:
            for frame in form.opening():
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            last: Callable[[], list[bytes]] = form.closing
            while (part := await self._batch.next()) is not None:
                number, delta = part
                if delta.stats.error is not None:
                    last = partial(form.error, _failure(delta.stats.error))
                    break
                frame = b"".join(form.frames(number, delta))
                if frame or not (delta.tokens or delta.prompt_details):
                    await send({"type": "http.response.body", "body": frame or BEAT, "more_body": True})
        except ApiError as error:
            last = partial(form.error, error.body)
        except Exception:
            log.exception("An answer failed.")
            last = partial(form.error, _failure("The answer could not be written."))
        await send({"type": "http.response.body", "body": b"".join(last()), "more_body": False})

    async def _write_whole(self, send: Send) -> None:
        status = 200
        try:
            while (part := await self._batch.next(WHOLE_GAP_S)) is not None:
                number, delta = part
                if delta.stats.error is not None:
                    raise ApiError(500, delta.stats.error, "server_error")
                self._form.add(number, delta)
            plain = self._form.whole()
        except ApiError as error:
            status, plain = error.status, error.body
        body = encode_json(plain)
        self.raw_headers.append((b"content-length", str(len(body)).encode()))
        await self._start(send, status, b"application/json")
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send, status: int, kind: bytes) -> None:
        headers = [pair for pair in self.raw_headers if pair[0] != b"content-length" or not self._stream]
        headers = [pair for pair in headers if pair != (b"content-length", b"0")]
        headers += [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": status, "headers": headers})


# Allowed in a JSON string, but line ends for clients that split a stream by `str.splitlines`.
_LINE_ENDS = {"\x85": "\\u0085", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def encode_json(plain: object) -> bytes:
    """Encode JSON in UTF-8. Escape every character that some clients take for a line break."""
    text = _ENCODER.encode(plain)
    if not text.isascii():
        for character, escape in _LINE_ENDS.items():
            text = text.replace(character, escape)
    return text.encode("utf-8", "replace")


def event(plain: dict[str, Any]) -> bytes:
    """Return a server-sent event with JSON data."""
    return b"data: " + encode_json(plain) + b"\n\n"


def _failure(message: str) -> dict[str, Any]:
    return error_body(message, "server_error", code="engine_error")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
