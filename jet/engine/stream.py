"""The way of chunks from the device thread to whoever reads the story."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jet.api import TokenChunk

# How often a waiting reader makes sure that there still is an engine to wait for.
_PATIENCE_S = 1.0


class Channel:
    """What the engine and one reader share. The engine holds this and not the stream, so that a stream
    nobody reads any more can be collected, which aborts the request.

    Attributes:
        aborted: set by the reader, looked at by the engine at every step.
    """

    def __init__(
        self,
        first: TokenChunk,
        alive: Callable[[], bool],
        on_abort: Callable[[], object] | None = None,
    ) -> None:
        """`alive` says whether somebody will still put chunks. `on_abort` is called by an abort, for engines
        that have no steps at which they would look; it must take no lock."""
        self._condition = threading.Condition()
        self._chunks = [first]
        self._last = first
        self._alive = alive
        self._on_abort = on_abort
        self._reader_waits_for_any = False
        self.aborted = False

    @property
    def ended(self) -> bool:
        """Whether the last chunk has been put."""
        return self._last.stats.finish_reason is not None

    def put(self, chunk: TokenChunk) -> None:
        """Send a chunk. After one with a finish reason, nothing more is taken."""
        with self._condition:
            if not self.ended:
                self._chunks.append(chunk)
                self._last = chunk
                if self._reader_waits_for_any or self.ended:
                    self._condition.notify_all()

    def fail(self, error: str) -> None:
        """End the stream for a reason that is not the request's own."""
        with self._condition:
            stats = replace(self._last.stats, phase="done", finish_reason="error", error=error)
            self.put(TokenChunk("", (), replace(stats, queue_position=0)))

    def take(self, not_before: float = -math.inf) -> list[TokenChunk]:
        """All chunks there are: at least one, and not before that time (monotonic) unless the stream ends.

        Empty if the stream has ended and everything has been taken.
        """
        with self._condition:
            while not self.ended:
                delay = not_before - time.monotonic()
                if delay <= 0 and self._chunks:
                    break
                self._reader_waits_for_any = delay <= 0
                self._condition.wait(_PATIENCE_S if delay <= 0 else min(delay, _PATIENCE_S))
                if not self._alive():
                    self.fail("The engine has died.")
            chunks, self._chunks = self._chunks, []
            return chunks

    def abort(self) -> None:
        """Ask for the end. Takes no lock: the garbage collector may call this at any moment."""
        self.aborted = True
        if self._on_abort is not None:
            self._on_abort()


class LocalStream:
    """The chunks of one request; see `jet.api.Stream`.

    A stream that is garbage collected aborts its request: it is enough to stop reading and let go.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        weakref.finalize(self, channel.abort).atexit = False

    def __iter__(self) -> Iterator[TokenChunk]:
        """One chunk after the other, as the engine made them."""
        while chunks := self._channel.take():
            yield from chunks

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        """Chunks merged so that at most one comes per `interval_s`; the first and the last come at once."""
        due = -math.inf
        while chunks := self._channel.take(due):
            due = time.monotonic() + interval_s
            yield merge(chunks)

    def abort(self) -> None:
        """Ask the engine to drop the request; takes effect within one step. Safe to call twice."""
        self._channel.abort()


def merge(chunks: Sequence[TokenChunk]) -> TokenChunk:
    """One chunk that says what all of these say: their text and tokens, and the latest stats."""
    if len(chunks) == 1:
        return chunks[0]
    tokens = tuple(token for chunk in chunks for token in chunk.token_ids)
    details = tuple(detail for chunk in chunks for detail in chunk.logprobs)
    return TokenChunk("".join(chunk.text for chunk in chunks), tokens, chunks[-1].stats, details)
