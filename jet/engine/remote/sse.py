"""Server-sent events from a stream of bytes, as the HTML standard frames them; httpx-sse reads fields."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import httpx
from httpx_sse import EventSource

MAX_EVENT = 2**20  # characters of one event; no completion has a piece as long as that


class StreamError(ValueError):
    """Bytes that are no server-sent events."""


@dataclass(frozen=True)
class Event:
    """One event.

    Attributes:
        data: its data; "" where it has none, as in an event that only keeps the connection open.
        name: of its kind; "message" where it does not say.
        whole: whether the empty line came that ends an event, and not only the end of the stream.
    """

    data: str
    name: str = "message"
    whole: bool = True


async def read_events(stream: AsyncIterable[bytes]) -> AsyncGenerator[Event, None]:
    """Yield each event as soon as it is complete; comments are none.

    Lines end in LF, CR or CR LF, a byte order mark may come first, and bytes may be split anywhere. The
    standard drops what has no empty line after it; here that comes as not `whole`, also when the connection
    breaks off, whose error is raised afterwards. Raises StreamError.
    """
    text = _Text(stream)
    async with aclosing(EventSource(cast(httpx.Response, text)).aiter_sse()) as events:
        async for event in events:
            yield Event(_whole(event.data), event.event, not text.ended)
    if text.broken is not None:
        raise text.broken


class _Text:
    """A stream as text for the library, which takes what has headers and text to be a response."""

    headers = httpx.Headers({"content-type": "text/event-stream"})

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream
        self.ended = False
        self.broken: httpx.TransportError | None = None

    async def aiter_text(self) -> AsyncGenerator[str, None]:
        """The text with LF for every line end, and an empty line behind it."""
        # What is no UTF-8 is an error in data only: comments and other fields may hold anything.
        decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        after_cr, last, size = False, "", 0
        try:
            async for piece in self._stream:
                text = decoder.decode(piece)
                if not text:
                    continue
                if after_cr:
                    text = text.removeprefix("\n")
                # The library would wait for what follows a CR, and with it the writer for this event.
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
    """Data as text. Halves of characters stay, which some servers send as bytes instead of spelling them."""
    if data.isascii():
        return data
    try:
        return data.encode("utf-8", "surrogateescape").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise StreamError("it is not UTF-8") from error
