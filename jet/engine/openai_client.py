"""RemoteEngine: any OpenAI-compatible server behind the protocol of the page's engines.

    writer's thread   submit ── Channel ── chunks
    "jet-remote"      one event loop: a task a request, which is cancelled where the writer stops

Cancelling a task closes its connection, which is how such servers are told to stop. A request is tried again
only as long as none of its text has come.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import anyio
import httpx

from jet.engine.openai_answers import KEPT, KEY_VARIABLE, Passing, RemoteError, check, pieces_of, refusal
from jet.engine.openai_wire import (
    UNKNOWN_CONTEXT,
    Piece,
    ServedModel,
    ServerError,
    WireError,
    completion,
    read_models,
)
from jet.engine.sse import StreamError
from jet.engine.stream import Channel, LocalStream
from jet.engine.types import EngineInfo, Request, RequestError, RequestStats, SamplingParams, TokenChunk
from jet.hardware import MemoryReading, read_process_memory
from jet.telemetry import DecodeMeter, Throttle

LICENCE = "see the engine’s operator"

_BYTES_PER_TOKEN = 3  # of an estimate that is rather too high: English has more, other scripts about as many
_MEMORY_INTERVAL_S = 0.5
_LAST_COUNT_S = 1.0
_CLOSED = "The engine has been closed."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteOptions:
    """How patient to be with a server. The one place where the defaults stand.

    Attributes:
        connect_s: until a connection stands.
        first_token_s: from a request to its first text: the server may have a line of its own.
        silence_s: between two pieces of text.
        attempts: how often a request is sent at most, before its first text.
        pause_s: before the second attempt; doubled before each further one.
        most_pause_s: a server that asks for a longer one is reported as busy instead.
    """

    connect_s: float = 5.0
    first_token_s: float = 120.0
    silence_s: float = 30.0
    attempts: int = 3
    pause_s: float = 0.25
    most_pause_s: float = 5.0


@dataclass(frozen=True)
class RemoteChoice:
    """A server to write with. The one place where the defaults stand.

    Attributes:
        url: where its interface begins: "http://host:port/v1".
        model: what it calls the model; None takes the first that it offers.
        context: most tokens of one story; None, or more than that, is what the server says.
    """

    url: str
    model: str | None = None
    context: int | None = None

    def build(self) -> RemoteEngine:
        """Ask the server what it offers. Raises RemoteError."""
        return RemoteEngine(self)


class _Job:
    """One request, written to on the event loop only."""

    def __init__(self, request: Request) -> None:
        self.sampling: SamplingParams = request.sampling.with_seed()
        self.request = replace(request, sampling=self.sampling)
        self.meter = DecodeMeter(time.monotonic())
        self.phase = "queued"
        self.prompt_tokens = 0
        self.counted = False  # whether the server says how many tokens there are
        self.stopped = False
        self.reason: str | None = None  # why it has ended, as the server says
        self.details_due = request.alternatives > 0
        self.channel: Channel
        self.task: asyncio.Task[str] | None = None

    @property
    def begun(self) -> bool:
        """Whether text has come, so that another attempt would write it twice."""
        return self.meter.tokens > 0


class RemoteEngine:
    """The engine of another process. `jet.engine.types.Engine` says what its methods promise.

    What a server does not tell stays None in the numbers, and the page says so. Tokens are counted by the
    server where it does; otherwise the pieces are counted that they come in.
    """

    def __init__(self, choice: RemoteChoice, options: RemoteOptions | None = None) -> None:
        self._options = options or RemoteOptions()
        self._jobs: set[_Job] = set()
        self._closed = False
        self._throttle = Throttle(_MEMORY_INTERVAL_S)
        self._reading = MemoryReading()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="jet-remote", daemon=True)
        self._thread.start()
        try:
            self._client = self._call(self._open(choice.url))
            started = time.monotonic()
            self._model = self._call(self._ask_models(choice.model))
        except BaseException:
            self.close()
            raise
        self._info = _describe(self._model, choice, time.monotonic() - started)

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Send a request. Raises RequestError at once if it can never be served."""
        if request.asked:
            raise RequestError("Stories can be asked for only where the model runs on this page's machine.")
        job = _Job(request)
        body = completion(job.request, self._model)
        if not self.alive:
            raise RequestError(_CLOSED)
        abort = partial(self._soon, self._cancel, job)
        job.channel = Channel(TokenChunk("", (), self._stats(job)), self._thread.is_alive, abort)
        self._soon(self._begin, job, body)
        return LocalStream(job.channel)

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return not self._closed and self._thread.is_alive()

    def info(self) -> EngineInfo:
        """What is known of the server."""
        return replace(self._info, active_requests=len(self._jobs), **asdict(read_process_memory()))

    def count_tokens(self, text: str) -> int:
        """An estimate: asking the server for every paragraph of a story would take longer than writing."""
        return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)

    def close(self) -> None:
        """End every live stream visibly and close all connections."""
        self._closed = True
        self._soon(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # The thread of the event loop.

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())  # looks up names
            if hasattr(self, "_client"):
                self._loop.run_until_complete(self._client.aclose())
            self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _soon(self, act: Callable[..., object], *arguments: object) -> None:
        """Do something on the event loop, if there still is one. Takes no lock: a reader's abort comes this
        way, and the garbage collector may be the one that aborts."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act, *arguments)

    def _begin(self, job: _Job, body: dict[str, object]) -> None:
        self._jobs.add(job)
        job.task = self._loop.create_task(self._write(job, body))
        job.task.add_done_callback(partial(self._ended, job))

    def _cancel(self, job: _Job) -> None:
        if job.task is not None and not job.stopped:
            job.stopped = True  # a second time would end the closing of the connection, too
            job.task.cancel()

    def _ended(self, job: _Job, task: asyncio.Task[str]) -> None:
        """The last chunk of a request, whatever has happened to it."""
        self._jobs.discard(job)
        if task.cancelled():
            closed = self._closed
            self._finish(job, "error" if closed else "aborted", _CLOSED if closed else None)
        elif (error := task.exception()) is None:
            self._finish(job, task.result())
        elif isinstance(error, RequestError):
            self._finish(job, "error", str(error))
        else:
            log.error("A request failed.", exc_info=error)
            self._finish(job, "error", f"The engine cannot be used: {str(error) or type(error).__name__}")

    async def _open(self, url: str) -> httpx.AsyncClient:
        try:
            address = httpx.URL(url.rstrip("/") + "/")
        except (httpx.InvalidURL, ValueError) as error:
            raise RemoteError(f"The engine’s address is none: {error}.") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise RemoteError("The engine’s address must be like http://host:port/v1.")
        key = os.environ.get(KEY_VARIABLE)
        return httpx.AsyncClient(
            base_url=address,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=self._options.connect_s),  # the rest is timed here
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    async def _ask_models(self, wanted: str | None) -> ServedModel:
        try:
            with anyio.fail_after(2 * self._options.connect_s):
                answer = await self._client.get("models")
        except (httpx.HTTPError, TimeoutError) as error:
            raise RemoteError(
                f"The engine’s server cannot be reached: {str(error) or 'it does not answer'}. "
                "Is it running, and is this its address?"
            ) from None
        if answer.status_code != 200:
            raise refusal(answer.status_code, answer.text)
        try:
            return read_models(answer.text, wanted)
        except WireError as error:
            raise RemoteError(f"The engine’s server cannot be used: {error}.") from None

    async def _write(self, job: _Job, body: dict[str, object]) -> str:
        """Send the request until it begins to be answered; the finish reason."""
        pause = self._options.pause_s
        for left in reversed(range(self._options.attempts)):
            try:
                return await self._attempt(job, body)
            except Passing as error:  # noqa: PERF203 - a request costs more than a try
                wanted = pause if error.pause_s is None else error.pause_s
                if job.begun or not left or wanted > self._options.most_pause_s:
                    raise
                await asyncio.sleep(wanted)
                pause *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, job: _Job, body: dict[str, object]) -> str:
        try:
            with anyio.move_on_after(self._options.first_token_s) as patience:
                async with self._client.stream("POST", "completions", json=body) as answer:
                    job.phase = "prefill"
                    self._send(job, Piece())
                    await check(answer)
                    await self._follow(job, answer, patience)
        except httpx.ConnectError as error:
            raise Passing("The engine’s server cannot be reached.") from error
        except httpx.TransportError as error:
            if job.reason is None:
                raise _broken(job) from error
        except ServerError as error:
            raise RemoteError(f"The engine’s server says: {error}. {KEPT if job.begun else ''}") from None
        except (WireError, StreamError) as error:
            raise RemoteError(f"The engine’s server answers in a way that cannot be read: {error}.") from None
        if job.reason is None:
            raise _silent(job) if patience.cancelled_caught else _broken(job)
        return _meaning(job, job.reason)

    async def _follow(self, job: _Job, answer: httpx.Response, patience: anyio.CancelScope) -> None:
        """Pass on what comes. After the finish reason, only the server's last count is waited for."""
        async with aclosing(pieces_of(answer)) as pieces:
            async for piece in pieces:
                job.reason = piece.finish_reason or job.reason
                self._send(job, piece)
                if job.begun:
                    wait = _LAST_COUNT_S if job.reason else self._options.silence_s
                    patience.deadline = anyio.current_time() + wait

    def _send(self, job: _Job, piece: Piece) -> None:
        now = time.monotonic()
        new = self._count(job, piece)
        for _ in range(new):
            job.meter.tick(now)
        if new:
            job.phase = "decode"
        ids = tuple(detail.drawn.token_id for detail in piece.details) or (0,) * new
        details = piece.details if job.details_due else ()
        job.channel.put(TokenChunk(piece.text, ids, self._stats(job), details))

    def _count(self, job: _Job, piece: Piece) -> int:
        """How many tokens are new."""
        job.prompt_tokens = piece.prompt_tokens or job.prompt_tokens
        if piece.tokens_so_far is not None:
            job.counted = True
            return max(0, piece.tokens_so_far - job.meter.tokens)
        if piece.tokens is not None:
            job.counted = True
            return piece.tokens
        return 1 if piece.text else 0

    def _finish(self, job: _Job, reason: str, error: str | None = None) -> None:
        job.phase = "done"
        job.channel.put(TokenChunk("", (), self._stats(job, reason, error)))

    def _stats(self, job: _Job, finish_reason: str | None = None, error: str | None = None) -> RequestStats:
        if self._throttle.ready(time.monotonic()):
            self._reading = read_process_memory()
        return RequestStats(
            phase=job.phase,
            tokens=job.meter.tokens,
            tokens_estimated=not job.counted,
            prompt_tokens=job.prompt_tokens,
            tokens_per_second=job.meter.tokens_per_second,
            mean_tokens_per_second=job.meter.mean_tokens_per_second,
            time_to_first_token_s=job.meter.time_to_first_token_s,
            process_memory_bytes=self._reading.process_memory_bytes,
            finish_reason=finish_reason,
            error=error,
            seed=job.sampling.seed,
        )


def _broken(job: _Job) -> RemoteError:
    if job.begun:
        return RemoteError(f"The engine’s server broke off in the middle of the story. {KEPT}")
    return Passing("The engine’s server broke off before it wrote anything.")


def _silent(job: _Job) -> RemoteError:
    if job.begun:
        return RemoteError(f"The engine’s server has fallen silent. {KEPT}")
    return RemoteError("The engine’s server does not answer. Please try again later.")


def _meaning(job: _Job, reason: str) -> str:
    """The finish reason in the engine's words. Servers call it a length, too, when their context is full."""
    if reason == "length" and job.counted and job.meter.tokens < job.sampling.max_new_tokens:
        return "context"
    if reason not in ("stop", "length"):
        raise RemoteError(f"The engine’s server ended the story: {reason[:40]}. {KEPT}")
    return reason


def _describe(model: ServedModel, choice: RemoteChoice, took_s: float) -> EngineInfo:
    said = model.context or UNKNOWN_CONTEXT
    return EngineInfo(
        model=model.name,
        parameters=model.parameters,
        device="remote",
        device_name=f"another server ({model.server})" if model.server else "another server",
        dtype=None,
        attention=None,
        kernels={},
        context=min(choice.context or said, said) if model.context else choice.context or said,
        licence=LICENCE,
        load_s=None,
        warmup_s=None,
        residence="remote",
    )
