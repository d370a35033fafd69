"""OutputProcessor: turns the token of a decode step into a chunk of its request's stream.

A token may end the request, belong to the healed end of its prompt, complete a banned phrase, or lie behind
the end of the last sentence. The device thread calls the processor. It sends, finishes and recomputes
requests through callbacks of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jet.api import TokenLogprob, TokenLogprobs
from jet.engine.banned import BannedGuard, HeldToken
from jet.engine.interfaces import Runner, Tokenizer
from jet.engine.request_state import RequestState
from jet.engine.text.healing import Node, NoPathError


class OutputProcessor:
    """Accepts the tokens of all requests of an engine."""

    def __init__(
        self,
        runner: Runner,
        tokenizer: Tokenizer,
        clock: Callable[[], float],
        send: Callable[..., None],
        finish: Callable[..., None],
        recompute: Callable[[RequestState], None],
    ) -> None:
        """`send`, `finish` and `recompute`: methods of the engine; their first argument is the request."""
        self._runner, self._tokenizer, self._clock = runner, tokenizer, clock
        self._send, self._finish, self._recompute = send, finish, recompute

    def abort(self, req: RequestState) -> None:
        """End an aborted request; if its text would end in a banned phrase, end it before the phrase."""
        if req.guard is not None:
            self._end_guarded(req, req.guard, "aborted")
        else:
            self._finish(req, "aborted")

    def accept(self, req: RequestState, outcome: int | Exception) -> None:
        """Accept the outcome of a step: a token, or the error that ends the request, which is raised.

        A NoPathError of a request with banned phrases is not raised: the request ends as "banned".
        """
        if isinstance(outcome, NoPathError) and req.guard is not None:
            self._end_guarded(req, req.guard, "banned", clean=False)
            return
        if isinstance(outcome, Exception):
            raise outcome
        req.phase = "decode"
        if req.guard is not None:
            self._accept_guarded(req, req.guard, outcome)
            return
        if self._ends_text(req, outcome):
            self._finish(req, "stop", logprobs=self._stop_logprobs(req))
        elif (drawn := self._take(req, outcome)) is not None:
            self._emit(req, *drawn)

    def _ends_text(self, req: RequestState, token: int) -> bool:
        """Return whether a token ends the answer; the healed end of a prompt never does."""
        return req.healing is None and (token in self._tokenizer.stop_ids or token in req.stop_token_ids)

    def _take(self, req: RequestState, token: int) -> tuple[int, str, tuple[TokenLogprobs, ...]] | None:
        """Add a step's token to the output.

        Returns the token, its text in the answer and its log-probabilities; None if the step has only drawn
        the end of the prompt again, by healing, without adding text.
        """
        if req.healing is None:
            req.output_ids.append(token)
            return token, req.detokenizer.push(token), self._logprobs(req)
        healed, req.healing = self._runner.healed_path(req.sequence), None
        assert healed is not None
        req.output_ids += [*healed.path, healed.token]
        if not healed.adds:
            return None
        text = req.detokenizer.push(healed.token, skip=len(healed.node.left))
        return healed.token, text, self._logprobs(req, healed.node)

    def _stop_logprobs(self, req: RequestState) -> tuple[TokenLogprobs, ...]:
        return self._logprobs(req) if req.raw_logprobs else ()

    def _accept_guarded(self, req: RequestState, guard: BannedGuard, token: int) -> None:
        """Accept a token of a request with banned phrases; send the tokens in which no phrase can begin."""
        if self._ends_text(req, token):
            self._end_guarded(req, guard, "stop", self._stop_logprobs(req))
            return
        index, before = len(req.output_ids), req.detokenizer.copy()
        drawn = self._take(req, token)
        completed = None if drawn is None else guard.push(*drawn, index, before)
        if completed is not None:
            self._draw_again(req, guard, completed)
            return
        self._send_held(req, guard.release())
        if req.ending is not None and req.ending.done:
            self._finish(req, req.length_reason)
            return
        if req.meter.tokens + len(guard.held) >= req.max_new_tokens + req.overrun:
            self._end_guarded(req, guard, req.length_reason)
            return
        kept = guard.held[0].index if guard.held else len(req.output_ids)
        may_complete = guard.banned_if_ended() is not None
        self._runner.mark(req.sequence, len(req.prompt_ids) + kept, may_complete)

    def _end_guarded(
        self,
        req: RequestState,
        guard: BannedGuard,
        reason: str,
        logprobs: tuple[TokenLogprobs, ...] = (),
        clean: bool = True,
    ) -> None:
        """End a request with banned phrases; if its text would end in a phrase, draw other tokens instead.

        A request that is aborted, or has no other token to draw, ends before the phrase. `clean`: whether the
        request's state may be kept as a snapshot.
        """
        ended = guard.banned_if_ended()
        if ended is not None and reason not in ("aborted", "banned"):
            self._draw_again(req, guard, ended)
            return
        while ended is not None:
            clean = self._go_back(req, guard, ended, ()) and clean
            ended = guard.banned_if_ended()
        self._send_held(req, guard.release_all())
        self._finish(req, reason, logprobs=logprobs, keep_snapshot=clean)

    def _draw_again(self, req: RequestState, guard: BannedGuard, number: int) -> None:
        """Take back a banned phrase, which begins in `guard.held[number]`, and draw other tokens.

        After too many failed attempts, the request ends before the phrase.
        """
        choice = guard.choose(number)
        if choice is None:
            self._end_guarded(req, guard, "banned", clean=self._go_back(req, guard, number, ()))
        elif not self._go_back(req, guard, *choice):
            self._recompute(req)

    def _go_back(self, req: RequestState, guard: BannedGuard, number: int, barred: tuple[int, ...]) -> bool:
        """Take back `guard.held[number]` and all later tokens.

        `barred`: the tokens that must not be drawn in place of the first of them. Returns False if the
        sequence's state could not be restored.
        """
        one = guard.take_back(number)
        del req.output_ids[one.index :]
        req.detokenizer = one.detokenizer
        is_healed = one.index == 0 and req.healed_end is not None
        req.healing = req.healed_end if is_healed else None
        length, generated = len(req.prompt_ids) + one.index, req.meter.tokens + len(guard.held)
        return self._runner.roll_back(req.sequence, length, generated, barred, req.healing)

    def _send_held(self, req: RequestState, tokens: Sequence[HeldToken]) -> None:
        """Send tokens that have been held back; those behind the end of the last sentence are dropped."""
        now, text, ids, logprobs = self._clock(), "", list[int](), list[TokenLogprobs]()
        for one in tokens:
            if req.ending is not None and req.ending.done:
                break
            req.meter.tick(now)
            shown, details = self._show(req, one.text, one.logprobs)
            text += shown
            ids.append(one.token)
            logprobs += details
        if ids:
            self._send(req, text, tuple(ids), tuple(logprobs))

    def _emit(self, req: RequestState, token: int, text: str, logprobs: tuple[TokenLogprobs, ...]) -> None:
        """Send a new token; the last one allowed ends the request."""
        req.meter.tick(self._clock())
        text, logprobs = self._show(req, text, logprobs)
        done = req.ending is not None and req.ending.done
        if done or req.meter.tokens >= req.max_new_tokens + req.overrun:
            self._finish(req, req.length_reason, text, (token,), logprobs)
        else:
            self._send(req, text, (token,), logprobs)

    def _show(
        self, req: RequestState, text: str, logprobs: tuple[TokenLogprobs, ...]
    ) -> tuple[str, tuple[TokenLogprobs, ...]]:
        """Return the text to show for a new token, and its log-probabilities.

        Past the requested length, only text up to the end of the sentence (paragraph, scene) is shown. The
        token must have been counted by the request's meter.
        """
        if req.ending is None:
            return text, logprobs
        left = req.max_new_tokens - req.meter.tokens
        shown = req.ending.push(text, None if left > 0 else float(left == 0))
        return shown, logprobs if shown or not req.ending.done else ()

    def _logprobs(self, req: RequestState, healed: Node | None = None) -> tuple[TokenLogprobs, ...]:
        """Return the last token's log-probabilities with texts; () if the request wants none.

        `healed`: the node of a token that begins with bytes of the prompt, which its text leaves out.
        """
        found = self._runner.logprobs(req.sequence) if req.top_logprobs else None
        if found is None:
            return ()
        return (self.describe(found, 0 if healed is None else len(healed.left)),)

    def describe(self, found: TokenLogprobs, skip: int = 0) -> TokenLogprobs:
        """Add the tokens' texts to log-probabilities; `skip`: how many leading bytes each text leaves out."""

        def with_text(one: TokenLogprob) -> TokenLogprob:
            id = one.token_id
            text = self._tokenizer.token_text(id, skip) if skip else self._tokenizer.token_text(id)
            return TokenLogprob(id, text, one.logprob)

        return TokenLogprobs(with_text(found.sampled), tuple(map(with_text, found.top_logprobs)))
