"""RemoteEngine: an engine on any OpenAI-compatible server.

    caller's thread   submit ── Channel ── chunks
    "jet-remote"      one event loop with a task for each request, canceled by an abort

Canceling a task closes its connection, which tells the server to stop. A request is retried only until its
first text has come.
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
from jet.engine.text.ending import make_ending, overrun_tokens
from jet.engine.text.whitespace import strip_trailing
from jet.hardware import MemoryReading, read_process_memory
from jet.telemetry import DecodeMeter, Throttle

OPERATOR_LICENSE = "see the engine’s operator"

_FAILED = {"abort", "aborted", "cancelled", "canceled", "content_filter", "error", "safety", "timeout"}
_MEMORY_INTERVAL_S = 0.5
_LAST_COUNT_S = 1.0
_CANNOT_READ = "The engine’s server answers in a way that cannot be read: "
_CLOSED = "The engine has been closed."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteOptions:
    """Timeouts and retries, in seconds, with the defaults.

    Attributes:
        connect_s: timeout for opening a connection.
        first_token_s: timeout from a request to its first text; the server may have a queue of its own.
        silence_s: timeout between two chunks of text.
        attempts: most attempts (a number) before the first text.
        pause_s: wait before the second attempt; doubled before each further one.
        most_pause_s: longest wait before another attempt. If a server asks for more, the request fails.
    """

    connect_s: float = 5.0
    first_token_s: float = 120.0
    silence_s: float = 30.0
    attempts: int = 3
    pause_s: float = 0.25
    most_pause_s: float = 5.0


@dataclass(frozen=True)
class RemoteConfig:
    """An OpenAI-compatible server to use as the engine.

    Attributes:
        url: its base address, "http://host:port/v1".
        model: the server's name of the model; None for the first model that the server offers.
        context: most tokens of a request, prompt included; None for the server's limit.
    """

    url: str = field(repr=False)  # may contain a password
    model: str | None = None
    context: int | None = None

    def create(self) -> RemoteEngine:
        """Connect to the server and ask for its models. Raises RemoteError if it cannot be used."""
        return RemoteEngine(self)


class _RemoteRequest:
    """One request; modified on the event loop only."""

    def __init__(self, request: Request, prompt: str) -> None:
        """`prompt`: the prompt as it is sent, possibly without the trailing blanks of `request.prompt`."""
        self.sampling: SamplingParams = request.sampling.with_seed()
        self.request = replace(request, sampling=self.sampling, prompt=prompt)
        self.boundary = WhitespaceBoundary(request.prompt, prompt)
        self.meter = DecodeMeter(time.monotonic())
        self.phase = "queued"
        self.prompt_tokens = self.cached_tokens = 0
        self.is_counted = False  # whether the server counts tokens
        self.stopped = False
        self.reason: str | None = None  # the server's finish reason
        self.ending = make_ending(request)
        self.wanted = self.sampling.max_new_tokens + overrun_tokens(self.sampling)
        self.most = self.wanted  # the `max_tokens` that was sent
        self.wrote = False
        self.oddity = ""  # of the last event without content
        self.logprobs_due = request.top_logprobs > 0
        self.channel: Channel
        self.task: asyncio.Task[str] | None = None

    @property
    def has_text(self) -> bool:
        """Return whether any text has come; a retry would then repeat it."""
        return self.wrote or self.meter.tokens > 0


class RemoteEngine:
    """An engine on another server; implements `jet.api.Engine`.

    Properties that the server does not report are None. Token counts are the server's; if it sends none,
    chunks of text are counted.
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
            asked = ask_models(self._server, self._client, config.model, self._options.connect_s)
            self._model = self._call(asked)
        except BaseException:
            self.close()
            raise
        self._info = _engine_info(self._model, config)
        self._budget = TokenBudget(self._info.context if self._model.context or config.context else None)

    # Called from any thread.

    def submit(self, request: Request) -> LocalStream:
        """Send a request and return its stream. Raises RequestError if it can never be served."""
        if request.instruction:
            raise RequestError("Stories can be asked for only where the model runs on this page's machine.")
        if request.word_bias:
            raise RequestError("Words can have a bias only where the model runs on this page's machine.")
        req = _RemoteRequest(
            request, self.normalize_prompt(request.prompt) if request.healing else request.prompt
        )
        body = completion(req.request, self._model)
        if not self.alive:
            raise RequestError(_CLOSED)
        abort = partial(self._soon, self._cancel, req)
        req.channel = Channel(TokenChunk("", (), self._stats(req)), self._thread.is_alive, abort)
        self._soon(self._begin, req, body)
        return LocalStream(req.channel)

    @property
    def alive(self) -> bool:
        """Return whether requests are accepted."""
        return not self._closed and self._thread.is_alive()

    def info(self) -> EngineInfo:
        """Return the server's properties; unknown ones are None."""
        context = self._budget.context or self._info.context  # possibly learned from an error message
        return replace(
            self._info, context=context, active_requests=len(self._requests), **asdict(read_process_memory())
        )

    def count_tokens(self, text: str) -> int:
        """Estimate the number of tokens; asking the server for each text would take too long."""
        return estimate_tokens(text)

    def count_prompt(self, request: Request) -> int:
        """Estimate the number of tokens of a request's prompt."""
        return self.count_tokens(request.prompt)

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as it is sent with `Request.healing`: without trailing blanks."""
        return strip_trailing(prompt)

    def close(self, reason: str = "") -> None:
        """End every stream with an error and close all connections."""
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
            self._loop.run_until_complete(self._loop.shutdown_default_executor())  # it resolves host names
            if hasattr(self, "_client"):
                self._loop.run_until_complete(self._client.aclose())
            self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _soon(self, act: Callable[..., object], *arguments: object) -> None:
        """Call a function on the event loop, if the loop still runs.

        Takes no lock, since the garbage collector may call this at any moment, to abort a stream.
        """
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act, *arguments)

    def _begin(self, req: _RemoteRequest, body: dict[str, object]) -> None:
        self._requests.add(req)
        req.task = self._loop.create_task(self._complete(req, body))
        req.task.add_done_callback(partial(self._ended, req))

    def _cancel(self, req: _RemoteRequest) -> None:
        if req.task is not None and not req.stopped:
            req.stopped = True  # a second cancel would interrupt closing the connection
            req.task.cancel()

    def _ended(self, req: _RemoteRequest, task: asyncio.Task[str]) -> None:
        """Send a request's last chunk: its finish reason, or the error that ended its task."""
        self._requests.discard(req)
        if task.cancelled():
            closed = self._closed
            self._finish(req, "error" if closed else "aborted", _CLOSED if closed else None)
        elif (error := task.exception()) is None:
            self._finish(req, task.result())
        elif isinstance(error, RequestError):
            self._finish(req, "error", str(error))
        else:
            log.error("A request failed.\n%s", describe(error))
            said = redact(str(error)) or type(error).__name__
            self._finish(req, "error", f"The engine cannot be used: {said}")

    async def _open(self) -> httpx.AsyncClient:
        return self._server.client(self._options.connect_s)

    async def _complete(self, req: _RemoteRequest, body: dict[str, object]) -> str:
        """Send a request, retrying before its first text; return the finish reason."""
        pause, shortened = self._options.pause_s, False
        req.most = self._budget.afford(req.request.prompt, req.wanted)
        left = self._options.attempts
        while True:
            try:
                return await self._attempt(req, {**body, "max_tokens": req.most})
            except RetryableError as error:  # noqa: PERF203 - a request costs more than a try
                left -= 1
                wanted = pause if error.pause_s is None else error.pause_s
                if req.has_text or not left or wanted > self._options.most_pause_s:
                    raise
                await asyncio.sleep(wanted)
                pause *= 2
            except ContextLengthError as error:
                fewer = self._budget.after(error.said, req.request.prompt, req.most)
                if fewer is None or shortened or req.has_text:
                    raise _too_long(error, self._budget) from None
                req.most, shortened = fewer, True

    async def _attempt(self, req: _RemoteRequest, body: dict[str, object]) -> str:
        try:
            with anyio.move_on_after(self._options.first_token_s) as patience:
                await self._ask(req, body, patience)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise RetryableError(_unreached(self._server, error)) from None
        except httpx.ProxyError as error:
            raise RetryableError(unreachable(self._server, error)) from None
        except httpx.TransportError as error:
            if "location header" in str(error):  # httpx parses it even without following redirects
                raise RemoteError(NOWHERE) from None
            if req.reason is None:
                raise _broken(req) from error
        except ServerError as error:
            said = f"The engine’s server says: {error}. {KEPT if req.has_text else ''}"
            if read_refusal(str(error), req.most).anything:
                raise ContextLengthError(said, str(error)) from None
            raise RemoteError(said) from None
        except (ProtocolError, StreamError) as error:
            raise RemoteError(f"{_CANNOT_READ}{error}.") from None
        if req.reason is None:
            if req.oddity and not req.has_text:
                raise RemoteError(f"{_CANNOT_READ}{req.oddity}.")
            raise _silent(req) if patience.cancelled_caught else _broken(req)
        return _finish_reason(req, req.reason, self._budget.most_new)

    async def _ask(self, req: _RemoteRequest, body: dict[str, object], patience: anyio.CancelScope) -> None:
        """Send the request, following safe redirects, and stream the answer to the consumer.

        `patience`: the timeout, whose deadline moves with each chunk of text.
        """
        address: httpx.URL | str = "completions"
        for _ in range(MOST_REDIRECTS):
            async with self._client.stream("POST", address, json=body) as answer:
                moved = next_address(answer)
                if moved is None:
                    req.phase = "prefill"
                    self._send(req, CompletionChunk())
                    await check(answer, self._server.through)
                    await self._follow(req, answer, patience)
                    return
                address = moved
        raise RemoteError(CIRCLES)

    async def _follow(self, req: _RemoteRequest, answer: httpx.Response, patience: anyio.CancelScope) -> None:
        """Send the chunks of an answer; after the finish reason, wait only for the final token count."""
        async with aclosing(iter_chunks(answer, req.logprobs_due)) as chunks:
            async for chunk in chunks:
                req.reason = chunk.finish_reason or req.reason
                req.oddity = chunk.oddity or req.oddity
                if self._send(req, chunk) and req.has_text:
                    wait = _LAST_COUNT_S if req.reason else self._options.silence_s
                    patience.deadline = anyio.current_time() + wait
                if req.ending is not None and req.ending.done:
                    req.reason = "length"
                    return

    def _send(self, req: _RemoteRequest, chunk: CompletionChunk) -> bool:
        """Send a chunk to the consumer; return whether it has content."""
        now, before = time.monotonic(), req.meter.tokens
        new = min(self._count(req, chunk), req.most)
        req.wrote = req.wrote or bool(chunk.text)
        for _ in range(new):
            req.meter.tick(now)
        if req.has_text:
            req.phase = "decode"
        ids = tuple(one.sampled.token_id for one in chunk.logprobs) or (0,) * new
        logprobs = chunk.logprobs if req.logprobs_due else ()
        text, logprobs = req.boundary.strip(chunk.text, logprobs)
        if req.ending is not None:
            text = req.ending.push(text, _fraction_at(req.sampling.max_new_tokens, before, new))
            logprobs = () if req.ending.done and not text else logprobs
        req.channel.put(TokenChunk(text, ids, self._stats(req), logprobs))
        return bool(new or chunk.text or chunk.finish_reason)

    def _count(self, req: _RemoteRequest, chunk: CompletionChunk) -> int:
        """Return the number of new tokens in a chunk; store the prompt's token counts that it contains."""
        if chunk.prompt_tokens and chunk.prompt_tokens != req.prompt_tokens:
            req.prompt_tokens = chunk.prompt_tokens
            self._budget.count(req.request.prompt, chunk.prompt_tokens)
        if chunk.cached_tokens is not None:
            req.cached_tokens = min(chunk.cached_tokens, req.prompt_tokens)
        if chunk.tokens_so_far or (chunk.tokens_so_far is not None and not chunk.text):
            req.is_counted = True
            return max(0, chunk.tokens_so_far - req.meter.tokens)
        if chunk.tokens is not None:
            req.is_counted = True
            return chunk.tokens
        return 1 if chunk.text else 0

    def _finish(self, req: _RemoteRequest, reason: str, error: str | None = None) -> None:
        req.phase, rest = "done", ""
        if req.ending is not None:
            rest = req.ending.close(cut=reason in ("length", "context"))
        req.channel.put(TokenChunk(rest, (), self._stats(req, reason, error)))

    def _stats(
        self, req: _RemoteRequest, finish_reason: str | None = None, error: str | None = None
    ) -> RequestStats:
        if self._throttle.ready(time.monotonic()):
            self._memory_reading = read_process_memory()
        return RequestStats(
            phase=req.phase,
            tokens=req.meter.tokens,
            tokens_estimated=not req.is_counted,
            prompt_tokens=req.prompt_tokens,
            cached_tokens=req.cached_tokens,
            tokens_per_second=req.meter.tokens_per_second,
            mean_tokens_per_second=req.meter.mean_tokens_per_second,
            time_to_first_token_s=req.meter.time_to_first_token_s,
            process_memory_bytes=self._memory_reading.process_memory_bytes,
            finish_reason=finish_reason,
            error=error,
            seed=req.sampling.seed,
            unfinished="" if req.ending is None else req.ending.unfinished,
        )


def _fraction_at(length: int, before: int, new: int) -> float | None:
    """Return the fraction of `new` tokens after which an answer of `before` tokens is `length` tokens long.

    Returns None if the answer stays shorter than `length`, and 0 if it was that long before.
    """
    if before + new < length:
        return None
    return 0.0 if before >= length else (length - before) / new


def _broken(req: _RemoteRequest) -> RemoteError:
    if req.has_text:
        return RemoteError(f"The engine’s server broke off in the middle of the story. {KEPT}")
    return RetryableError("The engine’s server broke off before it wrote anything.")


def _silent(req: _RemoteRequest) -> RemoteError:
    if req.has_text:
        return RemoteError(f"The engine’s server has fallen silent. {KEPT}")
    return RemoteError("The engine’s server does not answer. Please try again later.")


def _unreached(server: Server, error: Exception) -> str:
    return unreachable(server, error) if server.proxy else "The engine’s server cannot be reached."


def _too_long(error: ContextLengthError, budget: TokenBudget) -> RemoteError:
    """Return the error for a prompt that is too long even with fewer new tokens."""
    if budget.context is None or not read_refusal(error.said, 0).anything:
        return RemoteError(str(error))
    return RemoteError(
        f"{str(error).rstrip()} The story is longer than the {budget.context:,} tokens that the server "
        "reads: please try again, and less of its beginning is sent."
    )


def _finish_reason(req: _RemoteRequest, reason: str, most_new: int | None) -> str:
    """Map the server's finish reason to the engine's; servers say "length" for a full context, too.

    Raises RemoteError if the server ended the answer because of a failure.
    """
    word = reason.lower()
    if word in _FAILED:
        raise RemoteError(f"The engine’s server ended the story: {redact(reason)[:40]}. {KEPT}")
    if word == "banned":
        return word
    if word != "length":
        return "stop"  # or a server's own word for it
    length = req.sampling.max_new_tokens
    if req.is_counted and req.meter.tokens < min(req.most, length):
        return "context"
    return "length" if req.most >= length or req.most == most_new else "context"


def _read_key() -> str | None:
    try:
        return read_secret(KEY_VARIABLE)
    except SecretError as error:
        raise RemoteError(str(error)) from None


def _engine_info(model: ServedModel, config: RemoteConfig) -> EngineInfo:
    limit = model.context or UNKNOWN_CONTEXT
    return EngineInfo(
        model=redact(model.name),
        parameters=model.parameters,
        device="remote",
        device_name=f"another server ({redact(model.server)})" if model.server else "another server",
        dtype=None,
        attention=None,
        kernels={},
        context=min(config.context or limit, limit) if model.context else config.context or limit,
        license=OPERATOR_LICENSE,
        load_s=None,
        warmup_s=None,
        placement="remote",
    )
