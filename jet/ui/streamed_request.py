"""Follow a request on the event loop: its chunks, a heartbeat between them, and a way to stop.

A thread of the request waits for the engine and hands everything to the event loop. So a stop, a canceled job
or a closed tab takes effect at once, even during a long prefill, while the model is loading, or in the queue.
A generator that waited for the engine itself could only be stopped between two chunks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial

from jet.api import Engine, EngineInfo, Request, RequestError, RequestStats, Stream, TokenChunk
from jet.engine.holder import EngineHandle
from jet.engine.stream import merge
from jet.story.line_breaks import StreamLineBreaks
from jet.timeouts import within
from jet.ui.stop_strings import StopStringFilter

UPDATE_INTERVAL_S = 0.05  # twenty updates a second: smooth to read, light for the browser
HEARTBEAT_S = 0.25  # Gradio notices a closed tab when the generator yields, so it yields at least this often
COALESCE_S = 0.02  # a request says quickly one after the other that it waits, is read, …: that is one update
STOP_GRACE_S = 0.1  # how long a stopped request may take to report its last numbers itself

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _EndOfRequest:
    """The end of a request by a stop, a deadline or an error, not by the engine."""

    reason: str
    error: str | None = None


PrepareRequest = Callable[[Engine, Request], Request]


class StreamedRequest:
    """A request under way. Created and used on the server's event loop.

    Attributes:
        info: the engine's info; None until the model is loaded.
        stats: the latest stats. After a failure, the finish reason is "error", and `error` has the message.
    """

    def __init__(
        self,
        source: EngineHandle,
        request: Request,
        prepare: PrepareRequest | None = None,
        stops: Sequence[str] = (),
        deadline_s: float | None = None,
        on_end: Callable[[RequestStats], object] = lambda stats: None,
        min_interval: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Create the request; `chunks` starts it.

        Args:
            source: gives the engine; the request's thread waits for it.
            request: the request, which `prepare` may change.
            prepare: completes the request once the engine is loaded, in the request's thread. An error ends
                the request.
            stops: stop strings.
            deadline_s: seconds after the start at which the request is ended; None for no deadline.
            on_end: called with the final stats at the request's end.
            min_interval: returns the least seconds between two chunks at present.
        """
        self.info: EngineInfo | None = None
        self.stats = RequestStats(seed=request.sampling.seed)
        self._source = source
        self._request = request
        self._prepare = prepare
        self._breaks, self._stop_filter = StreamLineBreaks(), StopStringFilter(stops)
        self._deadline_s = deadline_s
        self._on_end = on_end
        self._min_interval = min_interval
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[TokenChunk | _EndOfRequest] = asyncio.Queue()
        self._aborted = threading.Event()
        self._lock = threading.Lock()  # over the stream, which the thread and the event loop share
        self._stream: Stream | None = None

    async def chunks(self) -> AsyncGenerator[TokenChunk, None]:
        """Yield chunks until one has a finish reason.

        Yields an empty chunk after `HEARTBEAT_S` seconds without any. Raises no error if the request fails.
        However the generator ends, the request is freed.
        """
        # In this context: on ZeroGPU it identifies the user.
        run = partial(contextvars.copy_context().run, self._run)
        threading.Thread(target=run, name="jet-request", daemon=True).start()
        deadline = (
            None if self._deadline_s is None else self._loop.call_later(self._deadline_s, self._on_deadline)
        )
        try:
            while self.stats.finish_reason is None:
                chunk = self._filter(await self._next())
                self.stats = chunk.stats
                yield chunk
        finally:
            self._abort()
            if deadline is not None:
                deadline.cancel()
            self._on_end(self.stats)

    async def _next(self) -> TokenChunk:
        """Wait for chunks, at most until the heartbeat; return them as one, empty if there are none."""
        min_interval = self._min_interval()
        if (
            min_interval > UPDATE_INTERVAL_S
        ):  # until then, chunks come no faster than they are to be passed on
            with suppress(asyncio.TimeoutError):
                await within(min_interval, self._wake.wait())
        chunks_found = [TokenChunk("", (), self.stats)]
        with suppress(asyncio.TimeoutError):
            chunks_found.append(
                self._to_chunk(
                    await within(max(HEARTBEAT_S, min_interval), self._inbox.get()),
                    chunks_found[-1],
                )
            )
        if (
            len(chunks_found) > 1
            and not chunks_found[-1].text
            and chunks_found[-1].stats.finish_reason is None
        ):
            await asyncio.sleep(COALESCE_S)
        while chunks_found[-1].stats.finish_reason is None and not self._inbox.empty():
            chunks_found.append(self._to_chunk(self._inbox.get_nowait(), chunks_found[-1]))
        return merge(chunks_found)

    def _to_chunk(self, item: TokenChunk | _EndOfRequest, before: TokenChunk) -> TokenChunk:
        if isinstance(item, TokenChunk):
            return item
        stats = replace(before.stats, phase="done", finish_reason=item.reason, error=item.error)
        return TokenChunk("", (), stats)

    def _on_deadline(self) -> None:
        self._abort()
        self._end("deadline")

    def stop(self) -> None:
        """End the request. Its text stays; the last chunk comes within `STOP_GRACE_S` seconds."""
        self._abort()
        self._loop.call_later(STOP_GRACE_S, self._end, "aborted")

    def _end(self, reason: str, error: str | None = None) -> None:
        self._inbox.put_nowait(_EndOfRequest(reason, error))
        self._wake.set()

    def _filter(self, chunk: TokenChunk) -> TokenChunk:
        chunk = self._stop_filter.filter(self._breaks.chunk(chunk))
        if not self._stop_filter.matched:
            return chunk
        stats = replace(chunk.stats, phase="done", finish_reason="stop_string", unfinished="")
        return replace(chunk, stats=stats)

    def _abort(self) -> None:
        self._aborted.set()
        with self._lock:
            if self._stream is not None:
                self._stream.abort()

    def _run(self) -> None:
        """Submit the request and pass its chunks on, in the thread. An error becomes the last chunk."""
        try:
            stream = self._submit()
            if stream is None:
                return
            for chunk in stream.chunks(max(UPDATE_INTERVAL_S, self._min_interval())):
                self._call_on_loop(self._inbox.put_nowait, chunk)
            # Read only if no chunk before it had a finish reason.
            self._call_on_loop(self._end, "error", "The engine ended the story without saying why.")
        except RequestError as error:
            self._call_on_loop(self._end, "error", str(error))
        except Exception as error:
            log.exception("A request failed.")
            self._call_on_loop(self._end, "error", f"Writing failed: {str(error) or type(error).__name__}")

    def _submit(self) -> Stream | None:
        engine = self._source.engine()
        try:
            return self._submit_to(engine)
        except RequestError:
            if engine.alive:
                raise
            return self._submit_to(self._source.engine())  # another model has taken its place just now

    def _submit_to(self, engine: Engine) -> Stream | None:
        self.info = engine.info()
        if self._aborted.is_set():  # stopped while the model was being loaded
            return None
        request = self._request if self._prepare is None else self._prepare(engine, self._request)
        stream = engine.submit(request)
        with self._lock:
            self._stream = stream
            if self._aborted.is_set():
                stream.abort()
        return stream

    def _call_on_loop(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function on the event loop. If the loop is closed, abort the request instead."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            self._abort()


async def merge_streams(
    requests: Sequence[StreamedRequest],
) -> AsyncGenerator[list[tuple[int, TokenChunk]], None]:
    """Yield the chunks of several requests as they come, until all have ended.

    Yields lists of pairs: the index of the request, and the chunk. They come no more often than those of one
    request. However the generator ends, all requests are freed.
    """
    inbox: asyncio.Queue[tuple[int, TokenChunk]] = asyncio.Queue()

    async def forward(number: int) -> None:
        async with aclosing(requests[number].chunks()) as chunks:
            async for chunk in chunks:
                inbox.put_nowait((number, chunk))

    tasks = [asyncio.create_task(forward(number)) for number in range(len(requests))]
    try:
        running = len(requests)
        while running:
            batch = [await inbox.get()]
            if len(requests) > 1:
                await asyncio.sleep(UPDATE_INTERVAL_S)
            while not inbox.empty():
                batch.append(inbox.get_nowait())
            running -= sum(chunk.stats.finish_reason is not None for _, chunk in batch)
            yield batch
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
