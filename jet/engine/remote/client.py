"""RemoteEngine: any OpenAI-compatible server behind the protocol of the page's engines.

    writer's thread   submit ── Channel ── chunks
    "jet-remote"      one event loop: a task a request, which is cancelled where the writer stops

Cancelling a task closes its connection, which is how such servers are told to stop. A request is tried again
only as long as none of its text has come.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import anyio
import httpx

from jet.api import EngineInfo, Request, RequestError, RequestStats, SamplingParams, TokenChunk
from jet.credentials import SecretError, describe, read_secret, redact
from jet.engine.remote.boundary import WhitespaceBoundary
from jet.engine.remote.models import CIRCLES, MOST_REDIRECTS, ask_models
from jet.engine.remote.protocol import (
    UNKNOWN_CONTEXT,
    CompletionChunk,
    ProtocolError,
    ServedModel,
    ServerError,
    completion,
)
from jet.engine.remote.responses import (
    KEPT,
    KEY_VARIABLE,
    NOWHERE,
    ContextLengthError,
    RemoteError,
    RetryableError,
    check,
    iter_chunks,
    next_address,
)
from jet.engine.remote.sse import StreamError
from jet.engine.remote.token_limits import TokenBudget, estimate_tokens, read_refusal
from jet.engine.remote.transport import Server, unreachable
from jet.engine.stream import Channel, LocalStream
from jet.engine.text.whitespace import strip_trailing
from jet.hardware import MemoryReading, read_process_memory
from jet.telemetry import DecodeMeter, Throttle

LICENSE = "see the engine’s operator"

_FAILED = {"abort", "aborted", "cancelled", "canceled", "content_filter", "error", "safety", "timeout"}
_MEMORY_INTERVAL_S = 0.5
_LAST_COUNT_S = 1.0
_CANNOT_READ = "The engine’s server answers in a way that cannot be read: "
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
class RemoteConfig:
    """A server to write with. The one place where the defaults stand.

    Attributes:
        url: where its interface begins: "http://host:port/v1".
        model: what it calls the model; None takes the first that it offers.
        context: most tokens of one story; None, or more than that, is what the server says.
    """

    url: str = field(repr=False)  # may have a password in it
    model: str | None = None
    context: int | None = None

    def create(self) -> RemoteEngine:
        """Ask the server what it offers. Raises RemoteError."""
        return RemoteEngine(self)


class _RemoteRequest:
    """One request, written to on the event loop only."""

    def __init__(self, request: Request, prompt: str) -> None:
        """`prompt`: as it is sent; blanks that are missing at its end have been typed already."""
        self.sampling: SamplingParams = request.sampling.with_seed()
        self.request = replace(request, sampling=self.sampling, prompt=prompt)
        self.boundary = WhitespaceBoundary(request.prompt, prompt)
        self.meter = DecodeMeter(time.monotonic())
        self.phase = "queued"
        self.prompt_tokens = 0
        self.is_counted = False  # whether the server says how many tokens there are
        self.stopped = False
        self.reason: str | None = None  # why it has ended, as the server says
        self.most = self.sampling.max_new_tokens  # new tokens that the server was asked for
        self.wrote = False
        self.oddity = ""  # what was wrong with an event that had nothing in it
        self.logprobs_due = request.top_logprobs > 0
        self.channel: Channel
        self.task: asyncio.Task[str] | None = None

    @property
    def has_text(self) -> bool:
        """Whether text has come, so that another attempt would write it twice."""
        return self.wrote or self.meter.tokens > 0


class RemoteEngine:
    """The engine of another process. `jet.api.Engine` says what its methods promise.

    What a server does not tell stays None in the numbers, and the page says so. Tokens are counted by the
    server where it does; otherwise the pieces are counted that they come in.
    """

    def __init__(self, config: RemoteConfig, options: RemoteOptions | None = None) -> None:
        self._options = options or RemoteOptions()
        self._requests: set[_RemoteRequest] = set()
        self._closed = False
        self._throttle = Throttle(_MEMORY_INTERVAL_S)
        self._memory_reading = MemoryReading()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="jet-remote", daemon=True)
        self._thread.start()
        try:
            self._server = Server.read(config.url, _read_key())
            self._client = self._call(self._open())
            started = time.monotonic()
            asked = ask_models(self._server, self._client, config.model, self._options.connect_s)
            self._model = self._call(asked)
        except BaseException:
            self.close()
            raise
        self._info = _describe(self._model, config, time.monotonic() - started)
        self._budget = TokenBudget(self._info.context if self._model.context or config.context else None)

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Send a request. Raises RequestError at once if it can never be served."""
        if request.instruction:
            raise RequestError("Stories can be asked for only where the model runs on this page's machine.")
        job = _RemoteRequest(
            request, self.normalize_prompt(request.prompt) if request.healing else request.prompt
        )
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
        context = self._budget.context or self._info.context  # a refusal may have told it only now
        return replace(
            self._info, context=context, active_requests=len(self._requests), **asdict(read_process_memory())
        )

    def count_tokens(self, text: str) -> int:
        """An estimate: asking the server for every paragraph of a story would take longer than writing."""
        return estimate_tokens(text)

    def count_prompt(self, request: Request) -> int:
        """An estimate for the prompt of a request."""
        return self.count_tokens(request.prompt)

    def normalize_prompt(self, prompt: str) -> str:
        """A prompt as it is sent with `Request.healing`: without blanks at its end."""
        return strip_trailing(prompt)

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

    def _begin(self, job: _RemoteRequest, body: dict[str, object]) -> None:
        self._requests.add(job)
        job.task = self._loop.create_task(self._complete(job, body))
        job.task.add_done_callback(partial(self._ended, job))

    def _cancel(self, job: _RemoteRequest) -> None:
        if job.task is not None and not job.stopped:
            job.stopped = True  # a second time would end the closing of the connection, too
            job.task.cancel()

    def _ended(self, job: _RemoteRequest, task: asyncio.Task[str]) -> None:
        """The last chunk of a request, whatever has happened to it."""
        self._requests.discard(job)
        if task.cancelled():
            closed = self._closed
            self._finish(job, "error" if closed else "aborted", _CLOSED if closed else None)
        elif (error := task.exception()) is None:
            self._finish(job, task.result())
        elif isinstance(error, RequestError):
            self._finish(job, "error", str(error))
        else:
            log.error("A request failed.\n%s", describe(error))
            said = redact(str(error)) or type(error).__name__
            self._finish(job, "error", f"The engine cannot be used: {said}")

    async def _open(self) -> httpx.AsyncClient:
        return self._server.client(self._options.connect_s)

    async def _complete(self, job: _RemoteRequest, body: dict[str, object]) -> str:
        """Send the request until it begins to be answered; the finish reason."""
        pause, shortened = self._options.pause_s, False
        job.most = self._budget.afford(job.request.prompt, job.sampling.max_new_tokens)
        left = self._options.attempts
        while True:
            try:
                return await self._attempt(job, {**body, "max_tokens": job.most})
            except RetryableError as error:  # noqa: PERF203 - a request costs more than a try
                left -= 1
                wanted = pause if error.pause_s is None else error.pause_s
                if job.has_text or not left or wanted > self._options.most_pause_s:
                    raise
                await asyncio.sleep(wanted)
                pause *= 2
            except ContextLengthError as error:
                fewer = self._budget.after(error.said, job.request.prompt, job.most)
                if fewer is None or shortened or job.has_text:
                    raise _too_long(error, self._budget) from None
                job.most, shortened = fewer, True

    async def _attempt(self, job: _RemoteRequest, body: dict[str, object]) -> str:
        try:
            with anyio.move_on_after(self._options.first_token_s) as patience:
                await self._ask(job, body, patience)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise RetryableError(_unreached(self._server, error)) from None
        except httpx.ProxyError as error:
            raise RetryableError(unreachable(self._server, error)) from None
        except httpx.TransportError as error:
            if "location header" in str(error):  # which the library reads although it is not to follow it
                raise RemoteError(NOWHERE) from None
            if job.reason is None:
                raise _broken(job) from error
        except ServerError as error:
            said = f"The engine’s server says: {error}. {KEPT if job.has_text else ''}"
            if read_refusal(str(error), job.most).anything:
                raise ContextLengthError(said, str(error)) from None
            raise RemoteError(said) from None
        except (ProtocolError, StreamError) as error:
            raise RemoteError(f"{_CANNOT_READ}{error}.") from None
        if job.reason is None:
            if job.oddity and not job.has_text:
                raise RemoteError(f"{_CANNOT_READ}{job.oddity}.")
            raise _silent(job) if patience.cancelled_caught else _broken(job)
        return _meaning(job, job.reason, self._budget.most_new)

    async def _ask(self, job: _RemoteRequest, body: dict[str, object], patience: anyio.CancelScope) -> None:
        """Send the request to where the server is, and pass on its answer."""
        there: httpx.URL | str = "completions"
        for _ in range(MOST_REDIRECTS):
            async with self._client.stream("POST", there, json=body) as answer:
                moved = next_address(answer)
                if moved is None:
                    job.phase = "prefill"
                    self._send(job, CompletionChunk())
                    await check(answer, self._server.through)
                    await self._follow(job, answer, patience)
                    return
                there = moved
        raise RemoteError(CIRCLES)

    async def _follow(self, job: _RemoteRequest, answer: httpx.Response, patience: anyio.CancelScope) -> None:
        """Pass on what comes. After the finish reason, only the server's last count is waited for."""
        async with aclosing(iter_chunks(answer, job.logprobs_due)) as pieces:
            async for piece in pieces:
                job.reason = piece.finish_reason or job.reason
                job.oddity = piece.oddity or job.oddity
                if self._send(job, piece) and job.has_text:
                    wait = _LAST_COUNT_S if job.reason else self._options.silence_s
                    patience.deadline = anyio.current_time() + wait

    def _send(self, job: _RemoteRequest, piece: CompletionChunk) -> bool:
        """Pass on a piece; whether there is anything in it."""
        now = time.monotonic()
        new = min(self._count(job, piece), job.most)
        job.wrote = job.wrote or bool(piece.text)
        for _ in range(new):
            job.meter.tick(now)
        if job.has_text:
            job.phase = "decode"
        ids = tuple(detail.sampled.token_id for detail in piece.logprobs) or (0,) * new
        details = piece.logprobs if job.logprobs_due else ()
        text, details = job.boundary.cut(piece.text, details)
        job.channel.put(TokenChunk(text, ids, self._stats(job), details))
        return bool(new or piece.text or piece.finish_reason)

    def _count(self, job: _RemoteRequest, piece: CompletionChunk) -> int:
        """How many tokens are new."""
        if piece.prompt_tokens and piece.prompt_tokens != job.prompt_tokens:
            job.prompt_tokens = piece.prompt_tokens
            self._budget.count(job.request.prompt, piece.prompt_tokens)
        if piece.tokens_so_far or (piece.tokens_so_far is not None and not piece.text):
            job.is_counted = True
            return max(0, piece.tokens_so_far - job.meter.tokens)
        if piece.tokens is not None:
            job.is_counted = True
            return piece.tokens
        return 1 if piece.text else 0

    def _finish(self, job: _RemoteRequest, reason: str, error: str | None = None) -> None:
        job.phase = "done"
        job.channel.put(TokenChunk("", (), self._stats(job, reason, error)))

    def _stats(
        self, job: _RemoteRequest, finish_reason: str | None = None, error: str | None = None
    ) -> RequestStats:
        if self._throttle.ready(time.monotonic()):
            self._memory_reading = read_process_memory()
        return RequestStats(
            phase=job.phase,
            tokens=job.meter.tokens,
            tokens_estimated=not job.is_counted,
            prompt_tokens=job.prompt_tokens,
            tokens_per_second=job.meter.tokens_per_second,
            mean_tokens_per_second=job.meter.mean_tokens_per_second,
            time_to_first_token_s=job.meter.time_to_first_token_s,
            process_memory_bytes=self._memory_reading.process_memory_bytes,
            finish_reason=finish_reason,
            error=error,
            seed=job.sampling.seed,
        )


def _broken(job: _RemoteRequest) -> RemoteError:
    if job.has_text:
        return RemoteError(f"The engine’s server broke off in the middle of the story. {KEPT}")
    return RetryableError("The engine’s server broke off before it wrote anything.")


def _silent(job: _RemoteRequest) -> RemoteError:
    if job.has_text:
        return RemoteError(f"The engine’s server has fallen silent. {KEPT}")
    return RemoteError("The engine’s server does not answer. Please try again later.")


def _unreached(server: Server, error: Exception) -> str:
    return unreachable(server, error) if server.proxy else "The engine’s server cannot be reached."


def _too_long(error: ContextLengthError, budget: TokenBudget) -> RemoteError:
    """A refusal that fewer new tokens do not help.

    What it says about the context holds from now on.
    """
    if budget.context is None or not read_refusal(error.said, 0).anything:
        return RemoteError(str(error))
    return RemoteError(
        f"{str(error).rstrip()} The story is longer than the {budget.context:,} tokens that the server "
        "reads: please try again, and less of its beginning is sent."
    )


def _meaning(job: _RemoteRequest, reason: str, most_new: int | None) -> str:
    """The finish reason in the engine's words. Servers call it a length, too, when their context is full."""
    word = reason.lower()
    if word in _FAILED:
        raise RemoteError(f"The engine’s server ended the story: {redact(reason)[:40]}. {KEPT}")
    if word != "length":
        return "stop"  # by a name of the server's own
    if job.is_counted and job.meter.tokens < job.most:
        return "context"
    return "length" if job.most in (job.sampling.max_new_tokens, most_new) else "context"


def _read_key() -> str | None:
    try:
        return read_secret(KEY_VARIABLE)
    except SecretError as error:
        raise RemoteError(str(error)) from None


def _describe(model: ServedModel, choice: RemoteConfig, took_s: float) -> EngineInfo:
    said = model.context or UNKNOWN_CONTEXT
    return EngineInfo(
        model=redact(model.name),
        parameters=model.parameters,
        device="remote",
        device_name=f"another server ({redact(model.server)})" if model.server else "another server",
        dtype=None,
        attention=None,
        kernels={},
        context=min(choice.context or said, said) if model.context else choice.context or said,
        license=LICENSE,
        load_s=None,
        warmup_s=None,
        placement="remote",
    )
