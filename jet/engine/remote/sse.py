"""Server-sent events from a byte stream: framing by the HTML standard here, fields by httpx-sse."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import httpx
from httpx_sse import EventSource

MAX_EVENT = 2**20  # characters; far longer than any event of a completion


class StreamError(ValueError):
    """The bytes cannot be read as server-sent events."""


@dataclass(frozen=True)
class Event:
    """One server-sent event.

    Attributes:
        data: its data; "" if it has none, as in keep-alive events.
        name: its type; "message" if it has none.
        whole: whether an empty line ended it, rather than the end of the stream.
    """

    data: str
    name: str = "message"
    whole: bool = True


async def read_events(stream: AsyncIterable[bytes]) -> AsyncGenerator[Event, None]:
    """Yield each event as soon as it is complete; skip comments.

    Lines end in LF, CR or CR LF, a byte order mark may come first, and bytes may be split anywhere. The
    standard drops an event without an empty line after it; here such an event is yielded with `whole` False.
    If the connection breaks, this event is yielded before the httpx.TransportError is raised. Raises
    StreamError if the bytes cannot be read as events.
    """
    text = _Text(stream)
    async with aclosing(EventSource(cast(httpx.Response, text)).aiter_sse()) as events:
        async for event in events:
            yield Event(_whole(event.data), event.event, not text.ended)
    if text.broken is not None:
        raise text.broken


class _Text:
    """Presents a byte stream as a response to httpx-sse, which uses only `headers` and `aiter_text`."""

    headers = httpx.Headers({"content-type": "text/event-stream"})

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream
        self.ended = False
        self.broken: httpx.TransportError | None = None

    async def aiter_text(self) -> AsyncGenerator[str, None]:
        """Yield the text with LF for every line end, and an empty line at the end."""
        # Invalid UTF-8 is an error in data only; comments and other fields may hold any bytes.
        decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        after_cr, last, size = False, "", 0
        try:
            async for data in self._stream:
                text = decoder.decode(data)
                if not text:
                    continue
                if after_cr:
                    text = text.removeprefix("\n")
                # The library would hold back the event until it sees what follows a CR.
                after_cr = text.endswith("\r")
                text = text.replace("\r\n", "\n").replace("\r", "\n")
                _, blank, rest = (last + text).rpartition("\n\n")
                size = len(rest) + (0 if blank else size)
                if size > MAX_EVENT:
                    raise StreamError("a line has no end")
                if text:
                    last = text[-1]
                    yield text
        except httpx.TransportError as error:
            self.broken = error
        self.ended = True
        yield decoder.decode(b"", final=True) + "\n\n"


def _whole(data: str) -> str:
    """Decode surrogates that some servers send as UTF-8 bytes. Raises StreamError if `data` is not UTF-8."""
    if data.isascii():
        return data
    try:
        return data.encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise StreamError("it is not UTF-8") from error
