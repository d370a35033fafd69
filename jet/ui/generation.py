"""Generate text on a document: build the prompt, submit requests, append the streamed text."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from copy import copy
from dataclasses import dataclass, field, replace

from jet.api import MAX_SEED, Engine, EngineInfo, Request, RequestError, RequestStats, SamplingParams
from jet.engine.holder import EngineHandle
from jet.server.hosting import Hosting
from jet.story.building import build_prompt, guided
from jet.story.context import ContextBuilder, Prompt, as_tokenized
from jet.story.document import Continuation, Document
from jet.story.errors import StoryError
from jet.story.guidance import Guidance
from jet.story.offsets import from_utf16, to_utf16
from jet.story.pieces import Token, ends_at_token_boundary
from jet.story.siblings import seeds_at
from jet.ui import branch_messages, rewriting
from jet.ui.commands import Command, parse_about, parse_stops, parse_unfinished
from jet.ui.deltas import DELTA_MIN_CHARACTERS
from jet.ui.never_write import parse_banned
from jet.ui.sessions import FinishedRequest, Session
from jet.ui.streamed_request import StreamedRequest, merge_streams
from jet.ui.word_choice import parse_word_bias

MIN_TOKENS_PAST_END = 40  # tokens that must come before the model may end a story once more
TOP_LOGPROBS = 8  # other words that are remembered for each token
NUM_VARIANTS = 3
INFO_AGE_S = 1.0  # how old the panel's numbers of the engine may be while nothing is written
MAX_RATE_POINTS = 60  # points of the panel's curve
_POLL_S = 0.05  # how soon a stop is noticed while the model is being loaded for the first time


class GenerationError(Exception):
    """The generation could not start. The message is for the writer."""


@dataclass(frozen=True)
class GenerationState:
    """Progress and result of a generation.

    Attributes:
        stats: the stats of the request, or of all variants together.
        rates: tokens per second, oldest first.
        variants: the continuations, if there are several.
        characters: the number of characters generated so far.
        start: offset of the generated text, in characters; None if unknown.
        remarks: messages for the writer.
        suffix_units: length of the text after the new text, in UTF-16 units; None for variants.
        unfinished: the incomplete sentence that was cut off at the end.
    """

    stats: RequestStats = field(default_factory=RequestStats)
    rates: Sequence[float] = ()
    variants: Sequence[Continuation] = ()
    characters: int = 0
    start: int | None = None
    remarks: Sequence[str] = ()
    suffix_units: int | None = None
    unfinished: str = ""

    @classmethod
    def failed(cls, message: str) -> GenerationState:
        """Return the state of a generation that could not start."""
        return cls(RequestStats(phase="done", finish_reason="error", error=message))


class GenerationService:
    """Generates on the documents of all sessions, with one engine."""

    def __init__(self, source: EngineHandle, hosting: Hosting) -> None:
        self._info: EngineInfo | None = None  # of the engine `_described`
        self._described: Engine | None = None
        self._info_read_at = -math.inf
        self._source = source
        self._hosting = hosting
        self._loading: asyncio.Task[EngineInfo] | None = None
        self._context_builder: tuple[Engine, ContextBuilder] | None = None
        self._precounting: asyncio.Task[None] | None = None

    @property
    def info(self) -> EngineInfo | None:
        """Return the engine's info; None until the model is loaded, and while another model replaces it."""
        if self._described is not None and not self._described.alive:  # keep nothing of it in memory
            self._described = self._context_builder = None
        return None if self._described is None else self._info

    async def load(self) -> EngineInfo:
        """Load the model if necessary; return its current properties. Raises the errors of loading."""

        def read() -> tuple[Engine, EngineInfo]:
            engine = self._source.engine()
            return engine, engine.info()

        self._described, info = await asyncio.to_thread(read)
        self._info = info
        self._info_read_at = time.monotonic()
        return info

    async def recent_info(self) -> EngineInfo:
        """Return the engine's info. It is about `INFO_AGE_S` seconds old at most, and shared by all tabs.

        A new reading takes a thread, whose result waits for the event loop on a busy server.
        """
        if (info := self.info) is None:
            return await self.load()
        if time.monotonic() - self._info_read_at >= INFO_AGE_S:
            self._info_read_at = time.monotonic()  # the other tabs take the last reading meanwhile
            return await self.load()
        return info

    async def build_prompt(self, document: Document, user: str = "") -> Prompt | None:
        """Build the prompt for continuing at the end; None before the model is loaded.

        `user`: the salt of the user's cached texts. Raises RequestError if the prompt does not fit.
        """
        if not self._source.ready or self.info is None:
            return None
        healing = not ends_at_token_boundary(document.tree.branch().pieces)
        request = Request(document.text, document.sampling, cache_salt=user, healing=healing)
        guidance = document.guidance

        def build() -> Prompt:
            engine = self._source.engine()
            prompt = self._build(engine, request, guidance)
            return as_tokenized(prompt, engine.normalize_prompt) if healing else prompt

        return await asyncio.to_thread(build)  # one way to a thread and back, as said at `recent_info`

    def precount_tokens(self, document: Document, user: str = "") -> None:
        """Count the tokens of a long story in the background, so that the next generation starts sooner."""
        if len(document.text) >= DELTA_MIN_CHARACTERS and self._precounting is None:
            self._precounting = asyncio.create_task(self._precount_tokens(copy(document), user))

    async def _precount_tokens(self, document: Document, user: str) -> None:
        try:
            await self.build_prompt(document, user)
        except RequestError:  # said when the story is written on
            pass
        finally:
            self._precounting = None

    async def generate(
        self, session: Session, command: Command, sampling: SamplingParams
    ) -> AsyncGenerator[GenerationState, None]:
        """Run a command that generates. The document has the new text when a state is yielded.

        Raises GenerationError if the generation cannot start, or if the story gets too long. However the
        generator ends, its requests are freed and the text stays.
        """
        async for waiting in self._wait_until_loaded(session):
            yield waiting
        if self.info is None:
            return
        remarks: list[str] = []
        with ExitStack() as stack:
            try:
                session.document.stops = parse_stops(command.fields)
                banned, bias = parse_banned(command.fields), parse_word_bias(command.fields)
                samplings = _samplings(
                    command, _with_unused_seed(session.document, command, sampling, remarks)
                )
                before = session.document.current
                rewrite = None
                if command.type == "rewrite":
                    rewrite = rewriting.parse_rewrite(command.fields, session.document.text)
                    samplings = [rewriting.sampling_of(rewrite, samplings[0])]
                    remarks.append(rewriting.INSTRUCTED if self._has_chat else rewriting.INFILLED)
                continuations = self._start_continuations(session.document, command, samplings, rewrite)
                if command.type in ("retry", "replace_token"):
                    remarks += branch_messages.describe_left_behind(session.document, before)
                for continuation in continuations:
                    stack.enter_context(continuation)
                requests = self._submit(session, command, continuations, samplings, banned, bias, rewrite)
            except (StoryError, RequestError) as error:
                raise GenerationError(str(error)) from None
            session.requests = requests
            if session.stop_requested:
                session.stop()
            async with aclosing(self._stream(session, continuations, requests)) as states:
                async for state in states:
                    yield replace(state, remarks=remarks)
            model = "" if self._info is None else self._info.model
            session.request_log.extend(
                FinishedRequest(model if request.info is None else request.info.model, request.stats)
                for request in requests
            )

    async def _stream(
        self, session: Session, continuations: list[Continuation], requests: list[StreamedRequest]
    ) -> AsyncGenerator[GenerationState, None]:
        rates: deque[float] = deque(maxlen=MAX_RATE_POINTS)
        variants = continuations if len(continuations) > 1 else ()
        suffix = "" if variants else continuations[0].suffix
        suffix_units = None if variants else to_utf16(suffix, len(suffix))
        async with aclosing(merge_streams(requests)) as batches:
            async for chunks in batches:
                if (
                    session.visible_end is not None
                    and suffix_units is not None
                    and continuations[0].limit is None
                ):
                    end = from_utf16(session.document.text, session.visible_end)
                    continuations[0].limit = max(0, end - continuations[0].start)
                try:
                    for number, chunk in chunks:
                        continuations[number].add_chunk(chunk)
                except StoryError as error:  # the story is full
                    raise GenerationError(str(error)) from None
                stats = merge_stats([request.stats for request in requests])
                self._info = requests[0].info or self._info
                if stats.tokens_per_second is not None:
                    rates.append(stats.tokens_per_second)
                yield GenerationState(
                    stats,
                    rates,
                    variants,
                    sum(len(one.text) for one in continuations),
                    continuations[0].start,
                    suffix_units=suffix_units,
                    unfinished="" if variants else continuations[0].unfinished,
                )

    async def _wait_until_loaded(self, session: Session) -> AsyncGenerator[GenerationState, None]:
        """Yield states until the model is loaded, or a stop is requested."""
        while self.info is None:
            self._loading = self._loading or asyncio.create_task(self.load())
            await asyncio.wait({self._loading}, timeout=_POLL_S)
            if self._loading.done():
                loading, self._loading = self._loading, None
                if (error := loading.exception()) is not None:
                    raise GenerationError(f"Writing failed: {str(error) or type(error).__name__}")
            elif session.stop_requested:
                yield GenerationState(RequestStats(phase="done", finish_reason="aborted"))
                return
            else:
                yield GenerationState()

    @property
    def _has_chat(self) -> bool:
        """Return whether the model takes instructions."""
        return self._info is not None and self._info.chat_tokens is not None

    def _start_continuations(
        self,
        document: Document,
        command: Command,
        samplings: list[SamplingParams],
        rewrite: rewriting.Rewrite | None = None,
    ) -> list[Continuation]:
        assert self._info is not None
        model, sampling, fields = self._info.model, samplings[0], command.fields
        if rewrite is not None:
            return [rewriting.start(document, rewrite, model, sampling, self._has_chat)]
        if command.type == "retry":
            return [document.retry(model, sampling)]
        if command.type == "variants":
            return document.start_variants(model, samplings)
        if command.type == "continue_at":
            at = from_utf16(document.text, fields.take("at", int))
            return [document.start_continuation(model, sampling, at=at)]
        if command.type == "replace_token":
            offset = from_utf16(document.text, fields.take("at", int))
            at = document.replace_token(offset, fields.take("choice", int))
            return [document.start_continuation(model, sampling, at=at)]
        if command.type == "write_about":
            return [
                _start_story_about(document, parse_about(command.fields)).start_continuation(model, sampling)
            ]
        if command.type == "finish":
            return [_finish_sentence(document, command, model, sampling)]
        if command.type != "continue":
            raise StoryError(
                "The page asked for something to be written that is not known: please reload it."
            )
        return [document.start_continuation(model, sampling)]

    def _submit(
        self,
        session: Session,
        command: Command,
        continuations: list[Continuation],
        samplings: list[SamplingParams],
        banned: tuple[str, ...],
        word_bias: tuple[tuple[str, float], ...],
        rewrite: rewriting.Rewrite | None = None,
    ) -> list[StreamedRequest]:
        alternatives = with_alternatives(command)
        stops = session.document.stops
        past_end = command.fields.has("beyond") and command.fields.take("beyond", bool)
        instructed = rewrite if self._has_chat else None
        return [
            self.streamed_request(
                session,
                Request(
                    continuation.prompt + ("" if continuation.cuts else continuation.text),
                    sampling,
                    TOP_LOGPROBS if alternatives else 0,
                    session.cache_salt,
                    healing=continuation.cuts and not continuation.starts_at_token_boundary,
                    min_tokens=MIN_TOKENS_PAST_END if past_end else 0,
                    banned=banned,
                    word_bias=word_bias,
                    stop_strings=tuple(stops),
                ),
                stops,
                instructed,
            )
            for continuation, sampling in zip(continuations, samplings, strict=True)
        ]

    def streamed_request(
        self,
        session: Session,
        request: Request,
        stops: Sequence[str],
        instructed: rewriting.Rewrite | None = None,
        deadline_s: float = math.inf,
    ) -> StreamedRequest:
        """Create a request. Its prompt is built with the session's guidance once the engine is loaded.

        Args:
            session: the session of the story.
            request: the request, with the text to continue as its prompt.
            stops: stop strings.
            instructed: a passage that a chat model is to rewrite, instead of continuing the text.
            deadline_s: seconds after which the request ends, if that is less than the limit of all requests.
        """
        guidance = session.document.guidance

        def prepare(engine: Engine, request: Request) -> Request:
            if instructed is not None:
                return rewriting.instruct(engine, request, instructed)
            return guided(request, self._build(engine, request, guidance))

        deadline_s = min(deadline_s, self._hosting.limits.deadline_s or math.inf)
        return StreamedRequest(
            self._source,
            request,
            prepare,
            stops,
            None if math.isinf(deadline_s) else deadline_s,
            self._hosting.metrics.record_request,
            self._hosting.limiter.update_interval_s,
        )

    def _build(self, engine: Engine, request: Request, guidance: Guidance) -> Prompt:
        if self._context_builder is None or self._context_builder[0] is not engine:
            self._context_builder = (engine, ContextBuilder(engine.count_tokens))
        return build_prompt(self._context_builder[1], engine, request, guidance)


def with_alternatives(command: Command) -> bool:
    """Return whether a command asks to store the alternatives of each token."""
    return command.fields.has("alternatives") and command.fields.take("alternatives", bool)


def _finish_sentence(
    document: Document, command: Command, model: str, sampling: SamplingParams
) -> Continuation:
    """Start a continuation that completes the sentence that an earlier continuation cut off.

    The text of the new continuation starts with the words that were cut off.
    """
    at, text = from_utf16(document.text, command.fields.take("at", int)), parse_unfinished(command.fields)
    continuation = document.start_continuation(model, sampling, at=at)
    continuation.cuts = False
    # The tokens behind it are found by their lengths. Its own are not known any more.
    continuation.append(text, [Token(0, len(text))] if text and with_alternatives(command) else ())
    return continuation


def _start_story_about(document: Document, about: str) -> Document:
    """Prepare a story about a subject. The text in the editor stays as a branch."""
    document.guidance = replace(document.guidance, about=about)
    if document.text:
        document.fork(0)
    return document


def merge_stats(stats: list[RequestStats]) -> RequestStats:
    """Merge the stats of several requests.

    Tokens and bytes are summed over all requests, rates over the running ones. All other values are those of
    one request, a running one if there is any.
    """
    if len(stats) == 1:
        return stats[0]
    running = [one for one in stats if one.finish_reason is None]
    latest = (running or stats)[-1]

    def total(name: str) -> float | None:
        rates = [rate for one in running or stats if (rate := getattr(one, name)) is not None]
        return sum(rates) if rates else None

    sums = ("tokens", "recurrent_bytes", "conv_bytes", "window_kv_bytes", "full_kv_bytes")
    return replace(
        latest,
        **{name: sum(getattr(one, name) for one in stats) for name in sums},
        tokens_per_second=total("tokens_per_second"),
        mean_tokens_per_second=total("mean_tokens_per_second"),
        seed=stats[0].seed,
        error=next((one.error for one in stats if one.error), None) if not running else None,
    )


def _with_unused_seed(
    document: Document, command: Command, sampling: SamplingParams, remarks: list[str]
) -> SamplingParams:
    """Return the settings, with another seed if theirs would only repeat an existing continuation.

    A new seed is noted in `remarks`.
    """
    if command.type == "retry" and document.can_retry:
        at = document.retry_offset
    elif command.type == "variants":
        at = len(document.text)
    else:
        return sampling
    used = seeds_at(document.tree, at)
    if document.sampling.seed is None or _seeds(command, sampling).isdisjoint(used):
        return sampling
    while not _seeds(command, sampling).isdisjoint(used):
        sampling = replace(sampling, seed=None).with_seed()
    remarks.append(f"Written with another seed, {sampling.seed}: the one in the field has been used here.")
    return sampling


def _seeds(command: Command, sampling: SamplingParams) -> set[int | None]:
    return {one.seed for one in _samplings(command, sampling)}


def _samplings(command: Command, sampling: SamplingParams) -> list[SamplingParams]:
    """Return the settings of each continuation. Variants have consecutive seeds."""
    if command.type == "finish":
        return [replace(sampling, max_new_tokens=1, end_at="sentence")]
    if command.type != "variants":
        return [sampling]
    seed = sampling.seed or 0
    return [replace(sampling, seed=(seed + index) % (MAX_SEED + 1)) for index in range(NUM_VARIANTS)]
