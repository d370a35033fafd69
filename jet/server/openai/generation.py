"""Generation: reads the stream of one engine request up to its end, a stop string or a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jet.api import RequestStats, Stream, TokenChunk, TokenLogprobs
from jet.engine.stop_strings import StopMatcher
from jet.server.openai.tokens import Codec
from jet.server.openai.wakeups import Reader, Wakeups

BEAT_S = 15.0  # a stream that has nothing to say for so long says that it is still there
FAILURES = ("error", "model_changed")  # the engine's reasons that are errors
# What OpenAI's clients know of the engine's reasons. An error is none: it is sent as one.
FINISH_REASONS = {"stop": "stop", "stop_string": "stop", "aborted": "stop", "banned": "stop"}


@dataclass(frozen=True)
class TokenInfo:
    """A token's log-probabilities, and the offset of its text in the answer, in characters."""

    detail: TokenLogprobs
    offset: int


class Delta(NamedTuple):
    """A part of an answer.

    Attributes:
        text: the new text.
        tokens: the number of new tokens, including those without text in the answer.
        details: the tokens whose text begins in `text`, if log-probabilities were requested.
        prompt_details: log-probabilities of the prompt's tokens; the first token has none.
        finish_reason: OpenAI's finish reason in the last part; None in all others, and after a failure.
        stats: the request's latest stats; after a failure, `stats.error` is set.
    """

    text: str
    tokens: int
    details: tuple[TokenInfo, ...]
    prompt_details: tuple[TokenLogprobs, ...]
    finish_reason: str | None
    stats: RequestStats

    @property
    def stop_reason(self) -> str | None:
        """Return "banned" if the answer ends in front of a banned phrase, otherwise None.

        OpenAI has no such finish reason.
        """
        return "banned" if self.finish_reason and self.stats.finish_reason == "banned" else None


class Generation:
    """Reads one engine request on the event loop. `close` must always be called."""

    def __init__(
        self,
        stream: Stream,
        wakeups: Wakeups,
        stops: Sequence[str] = (),
        deadline_s: float | None = None,
        record: Callable[[RequestStats], object] = lambda stats: None,
        leave: Callable[[], object] = lambda: None,
        codec: Codec | None = None,
    ) -> None:
        """Start to read a stream.

        Args:
            stream: the stream of the engine request.
            wakeups: wakes the reader on this event loop.
            stops: stop strings, at which the answer ends.
            deadline_s: seconds after which the request is aborted; None for no deadline.
            record: called with the last stats on `close`.
            leave: called on `close`.
            codec: the engine's tokenizer; None if the engine has none.
        """
        self._reader = Reader(stream, wakeups)
        self._stops = StopMatcher(stops)
        self._record, self._leaving = record, [leave]
        self.codec = codec
        self.stats = RequestStats()
        self._parts: list[str] = []
        self._shown = 0  # characters
        self._come = 0  # characters that have come from the engine
        self._held: list[TokenInfo] = []  # details of text that is held back
        self._reason: str | None = None
        self._ended = self._closed = False
        loop = asyncio.get_running_loop()
        self._timer = None if deadline_s is None else loop.call_later(deadline_s, self._be_late)

    @property
    def text(self) -> str:
        """Return the text of all parts so far."""
        return "".join(self._parts)

    async def next(self, gap_s: float = 0.0) -> Delta | None:
        """Wait for the next part of the answer; return None after the last part.

        The last part has a finish reason or an error. A part is empty if the engine has sent nothing for
        `BEAT_S` seconds.

        Args:
            gap_s: least seconds between two parts; the last part comes at once.
        """
        while not self._ended:
            chunks = await self._reader.next(gap_s, BEAT_S)
            delta = self._take(chunks)
            self._ended = delta.finish_reason is not None or delta.stats.error is not None
            if delta.text or delta.tokens or delta.prompt_details or self._ended or not chunks:
                return delta
        return None

    def stop(self, reason: str = "aborted") -> None:
        """Abort the request; the last part comes within one step of the engine.

        `reason`: the finish reason in the request's stats.
        """
        self._reason = self._reason or reason
        self._reader.abort()

    def on_close(self, act: Callable[[], object]) -> None:
        """Call `act` when the generation is closed."""
        self._leaving.append(act)

    def close(self) -> None:
        """Free the request in any state. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._reader.abort()
        if self._timer is not None:
            self._timer.cancel()
        self._record(self.stats)
        for leave in self._leaving:
            leave()

    def _be_late(self) -> None:
        self.stop("deadline")

    def _take(self, chunks: Sequence[TokenChunk]) -> Delta:
        text, tokens, prompt_details = "", 0, list[TokenLogprobs]()
        reason: str | None = None
        for chunk in chunks:
            self.stats = chunk.stats
            tokens += len(chunk.token_ids)
            if chunk.prompt_logprobs:
                prompt_details += chunk.prompt_logprobs
            if chunk.logprobs:
                self._held += (TokenInfo(detail, self._come) for detail in chunk.logprobs)
            self._come += len(chunk.text)
            ended = chunk.stats.finish_reason
            text += self._stops.push(chunk.text, last=ended is not None)
            if self._stops.matched:
                reason = "stop_string"
                self._reader.abort()
                break
            if ended is not None:
                reason = self._reason or ended
        self._parts.append(text)
        self._shown += len(text)
        if reason is not None:
            error = self.stats.error if reason in FAILURES else None
            unfinished = "" if self._stops.matched else self.stats.unfinished
            self.stats = replace(
                self.stats, phase="done", finish_reason=reason, error=error, unfinished=unfinished
            )
        details = self._release(reason is not None) if self._held else ()
        finish = None if reason is None or reason in FAILURES else FINISH_REASONS.get(reason, "length")
        return Delta(text, tokens, details, tuple(prompt_details), finish, self.stats)

    def _release(self, ended: bool) -> tuple[TokenInfo, ...]:
        """Remove and return the held details of tokens whose text begins in the answer so far.

        `ended`: whether the answer has ended. The details of all tokens are then returned, unless a stop
        string ended the answer.
        """
        if ended and not self._stops.matched:
            found, self._held = self._held, []
        else:
            waiting = self._shown < self._come
            found = [one for one in self._held if one.offset < self._shown or not waiting]
            self._held = self._held[len(found) :]
        return tuple(found)
