"""Streams: chunks from the engine's thread to the consumer's."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from jet.api import TokenChunk

# How often a waiting consumer checks that the engine is alive.
_POLL_S = 1.0


class Channel:
    """A queue of chunks from the engine to one consumer.

    The engine references the channel and not the stream. So an abandoned stream is garbage collected, which
    aborts its request.

    Attributes:
        aborted: set by the consumer, checked by the engine before each step.
    """

    def __init__(
        self,
        first: TokenChunk,
        alive: Callable[[], bool],
        on_abort: Callable[[], object] | None = None,
    ) -> None:
        """Create a queue that contains the chunk `first`.

        `alive` returns whether the engine still runs. `on_abort` is called by `abort`, for engines that do
        not check `aborted` before each step; it must take no lock.
        """
        self._condition = threading.Condition()
        self._chunks = [first]
        self._last = first
        self._alive = alive
        self._on_abort = on_abort
        self._wants_any_chunk = False
        self._listener: Callable[[bool], object] | None = None
        self.aborted = False

    @property
    def ended(self) -> bool:
        """Return whether the last chunk has been sent."""
        return self._last.stats.finish_reason is not None

    def put(self, chunk: TokenChunk) -> None:
        """Send a chunk; does nothing after a chunk with a finish reason."""
        with self._condition:
            if self.ended:
                return
            self._chunks.append(chunk)
            self._last = chunk
            listener, ended = self._listener, self.ended
            if self._wants_any_chunk or ended:
                self._condition.notify_all()
        if listener is not None:  # without the lock, which the woken reader takes at once
            listener(ended)

    def fail(self, error: str, reason: str = "error") -> None:
        """End the stream with the error message `error` and the finish reason `reason`."""
        with self._condition:
            stats = replace(self._last.stats, phase="done", finish_reason=reason, error=error)
            self.put(TokenChunk("", (), replace(stats, queue_position=0)))

    def take(self, not_before: float = -math.inf) -> list[TokenChunk]:
        """Wait for at least one chunk and return all that have come; an empty list after the stream's end.

        `not_before`: the monotonic time in seconds until which to wait in any case, unless the stream ends.
        """
        with self._condition:
            while not self.ended:
                delay = not_before - time.monotonic()
                if delay <= 0 and self._chunks:
                    break
                self._wants_any_chunk = delay <= 0
                self._condition.wait(_POLL_S if delay <= 0 else min(delay, _POLL_S))
                if not self._alive():
                    self.fail("The engine has died.")
            chunks, self._chunks = self._chunks, []
            return chunks

    def listen(self, listener: Callable[[bool], object]) -> None:
        """Call `listener` now and for every further chunk. Its argument says whether the stream has ended.

        Calls for further chunks are made on the engine's thread, which waits for the listener.
        """
        with self._condition:
            self._listener = listener
            ended = self.ended
        listener(ended)

    def take_now(self) -> list[TokenChunk]:
        """Return all chunks there are, perhaps none, without waiting."""
        with self._condition:
            if not (self._chunks or self.ended or self._alive()):
                self.fail("The engine has died.")
            chunks, self._chunks = self._chunks, []
            return chunks

    def abort(self) -> None:
        """Abort the request. Takes no lock, since the garbage collector may call it at any moment."""
        self.aborted = True
        if self._on_abort is not None:
            self._on_abort()


class LocalStream:
    """The chunks of one request; implements `jet.api.Stream`.

    A stream that is garbage collected aborts its request: dropping the last reference is enough.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        weakref.finalize(self, channel.abort).atexit = False

    def __iter__(self) -> Iterator[TokenChunk]:
        """Yield each chunk as the engine sent it."""
        while chunks := self._channel.take():
            yield from chunks

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        """Yield merged chunks, at most one every `interval_s` seconds; the first and last come at once."""
        due = -math.inf
        while chunks := self._channel.take(due):
            due = time.monotonic() + interval_s
            yield merge(chunks)

    def listen(self, listener: Callable[[bool], object]) -> None:
        """Call `listener` for every chunk, as an alternative to iterating; see `Channel.listen`."""
        self._channel.listen(listener)

    def take_now(self) -> list[TokenChunk]:
        """Return the chunks that have come since the last time, perhaps none, without waiting."""
        return self._channel.take_now()

    def abort(self) -> None:
        """Abort the request; takes effect within one step. Safe to call twice."""
        self._channel.abort()


def merge(chunks: Sequence[TokenChunk]) -> TokenChunk:
    """Merge chunks to one, with their texts, tokens and log-probabilities and the latest stats."""
    if len(chunks) == 1:
        return chunks[0]
    tokens = tuple(token for chunk in chunks for token in chunk.token_ids)
    logprobs = tuple(one for chunk in chunks for one in chunk.logprobs)
    of_prompt = tuple(one for chunk in chunks for one in chunk.prompt_logprobs)
    text = "".join(chunk.text for chunk in chunks)
    return TokenChunk(text, tokens, chunks[-1].stats, logprobs, of_prompt)
