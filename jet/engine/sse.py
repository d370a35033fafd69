"""Server-sent events from a stream of bytes: the data of each event, and nothing else of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

MAX_LINE = 2**20  # bytes; no completion has a piece as long as that


class StreamError(ValueError):
    """Bytes that are no server-sent events."""


async def read_events(stream: AsyncIterable[bytes]) -> AsyncGenerator[str, None]:
    """The data of each event as it is complete. Comments, by which servers keep a connection open, are none.

    Lines are told apart as bytes: text may come in pieces that end inside a character, and may have line
    separators of Unicode in it, which end no line here. An event that breaks off is not given out.
    """
    data: list[str] = []
    async for line in _lines(stream):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(_text(line[5:].removeprefix(b" ")))


async def _lines(stream: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for piece in stream:
        rest += piece
        *lines, last = rest.split(b"\n")
        rest = last
        for line in lines:
            yield bytes(line).removesuffix(b"\r")
        if len(rest) > MAX_LINE:
            raise StreamError("a line has no end")


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StreamError("it is not UTF-8") from error
