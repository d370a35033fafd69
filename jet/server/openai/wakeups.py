"""Wakeups: wakes the event loop from the engine's thread, once per engine step for all streams together.

    engine's thread   Channel.put ─ listener ─ ready += stream ─ (first of a step) call_soon_threadsafe
    event loop                                  deliver: wake the reader of every ready stream

A thread for each request, or a call to the loop for each token, would cost the engine's thread more time than
the tokens do. A reader that sleeps between two frames is woken only when its stream ends.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, cast

from jet.api import RequestStats, Stream, TokenChunk

BUSY_TOKENS_PER_S = 2_000  # of all streams: from here on frames are coalesced
COALESCE_S = 0.02
_WINDOW_S = 0.25  # over which tokens are counted


class ListenableStream(Protocol):
    """A stream that notifies a listener of new chunks."""

    def listen(self, listener: Callable[[bool], object]) -> None:
        """Call `listener` for every chunk, with whether the stream has ended."""
        ...

    def take_now(self) -> list[TokenChunk]:
        """Return the chunks that have come, perhaps none, without waiting."""
        ...

    def abort(self) -> None:
        """Abort the request."""
        ...


class Wakeups:
    """Wakeups of one event loop. Create and use it there; only `ready` may be called from other threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: deque[Reader] = deque()
        self._scheduled = False
        self._clock = clock
        self._since, self._tokens, self._rate = clock(), 0, 0.0

    def ready(self, reader: Reader) -> None:
        """Wake a reader soon; may be called from any thread."""
        self._ready.append(reader)
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: no reader is left
                reader.abort()

    def _deliver(self) -> None:
        self._scheduled = False  # before the line is looked at: who comes later schedules again
        while self._ready:
            self._ready.popleft().wake()

    def count(self, tokens: int) -> None:
        """Count tokens that have been sent to clients, for `gap_s`."""
        self._tokens += tokens
        took = self._clock() - self._since
        if took >= _WINDOW_S:
            self._rate = self._tokens / took
            self._since, self._tokens = self._since + took, 0

    @property
    def gap_s(self) -> float:
        """Return the least seconds between two frames of a stream at the present load."""
        return COALESCE_S if self._rate > BUSY_TOKENS_PER_S else 0.0


class Reader:
    """Reads one stream on the event loop."""

    def __init__(self, stream: Stream, wakeups: Wakeups) -> None:
        self._stream = listenable(stream)
        self._wakeups = wakeups
        self._loop = asyncio.get_running_loop()
        # Written by both threads; each is one bytecode. `_fresh`: chunks have come since the last look.
        self._armed = self._ended = self._fresh = False
        self._waiting: asyncio.Future[None] | None = None
        self._due = 0.0
        self._patience_end = math.inf
        self._beat: asyncio.TimerHandle | None = None  # one for all waits: a timer a token costs too much
        self._stream.listen(self._listen)

    def _listen(self, ended: bool) -> None:
        """Mark the reader as ready, if it waits; called on the engine's thread."""
        if ended:
            self._ended = True
        self._fresh = True  # before `_armed` is read: `next` sets and reads them in the other order
        if self._armed or ended:
            self._armed = False
            self._wakeups.ready(self)

    def wake(self) -> None:
        """Let `next` check for chunks."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self, gap_s: float = 0.0, patience_s: float | None = None) -> list[TokenChunk]:
        """Return the chunks that have come since the last call; wait if there are none.

        Args:
            gap_s: least seconds after the last chunks were returned; the end of the stream is returned at
                once.
            patience_s: seconds without a chunk after which an empty list is returned; None waits without
                limit.
        """
        if gap_s and not self._ended and (delay := self._due + gap_s - self._loop.time()) > 0:
            await self._wait(delay)
        while True:
            self._armed = True  # before looking: what is put after this look wakes
            if self._fresh:
                if chunks := self._take():
                    self._due = self._loop.time()
                    return chunks
                continue
            if patience_s is not None:
                self._patience_end = self._loop.time() + patience_s
                if self._beat is None:
                    self._beat = self._loop.call_at(self._patience_end, self._on_beat)
            await self._wait()
            if self._loop.time() >= self._patience_end:
                return self._take()  # mostly none; the failure if the engine has died

    def _take(self) -> list[TokenChunk]:
        self._armed = self._fresh = False
        chunks = self._stream.take_now()
        tokens = 0
        for chunk in chunks:
            tokens += len(chunk.token_ids)
        self._wakeups.count(tokens)
        return chunks

    async def _wait(self, seconds: float | None = None) -> None:
        """Wait to be woken, at most `seconds`."""
        self._waiting = self._loop.create_future()
        timer = None if seconds is None else self._loop.call_later(seconds, self.wake)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _on_beat(self) -> None:
        """Wake the reader if its patience has ended; otherwise schedule the next check."""
        self._beat = None
        if self._loop.time() >= self._patience_end:
            self.wake()
        else:
            self._beat = self._loop.call_at(self._patience_end, self._on_beat)

    def abort(self) -> None:
        """Ask the engine to drop the request; the engine does so within one step."""
        self._patience_end = math.inf
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        self._stream.abort()


def listenable(stream: Stream) -> ListenableStream:
    """Return a stream if it is listenable, otherwise wrap it with a thread that reads it."""
    if hasattr(stream, "listen") and hasattr(stream, "take_now"):
        return cast(ListenableStream, stream)
    return _ThreadedStream(stream)


class _ThreadedStream:
    """Makes a stream that can only be iterated, such as ZeroGpuStream, listenable by a reading thread."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._chunks: list[TokenChunk] = []
        self._listener: Callable[[bool], object] = lambda ended: None

    def listen(self, listener: Callable[[bool], object]) -> None:
        self._listener = listener
        threading.Thread(target=self._follow, name="jet-api-stream", daemon=True).start()

    def take_now(self) -> list[TokenChunk]:
        with self._lock:
            chunks, self._chunks = self._chunks, []
            return chunks

    def abort(self) -> None:
        self._stream.abort()

    def _follow(self) -> None:
        for chunk in _to_the_end(self._stream):
            with self._lock:
                self._chunks.append(chunk)
            self._listener(chunk.stats.finish_reason is not None)


def _to_the_end(stream: Stream) -> Iterator[TokenChunk]:
    """Yield a stream's chunks. An exception of the stream becomes a last chunk with `error` set."""
    stats = RequestStats()
    try:
        for chunk in stream.chunks(COALESCE_S):
            stats = chunk.stats
            yield chunk
        reason = "The engine ended the text without saying why."
    except Exception as error:
        reason = str(error) or type(error).__name__
    if stats.finish_reason is None:
        yield TokenChunk("", (), replace(stats, phase="done", finish_reason="error", error=reason))
