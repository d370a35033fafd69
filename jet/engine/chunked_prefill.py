"""ChunkedPrefill: runs prompts chunk by chunk; several prompts share a chunk where they fit."""

from __future__ import annotations

import logging
from collections.abc import Callable

from jet.engine.interfaces import Runner
from jet.engine.prefill_policy import ChunkedPrefillPolicy
from jet.engine.request_state import RequestState
from jet.ops.chunk_meta import ALIGNMENT, MAX_PACKED, aligned
from jet.token_ids import Tokens

Act = Callable[[RequestState], None]

log = logging.getLogger(__name__)


class ChunkedPrefill:
    """Runs prefill chunks on the device thread; reports progress, ends and errors through callbacks."""

    def __init__(
        self,
        runner: Runner,
        policy: ChunkedPrefillPolicy,
        clock: Callable[[], float],
        others_decode: Callable[[], bool],
        attempt: Callable[[RequestState, Act], None],
        send: Act,
        score: Callable[[RequestState, Tokens, int], None],
        fail: Callable[[RequestState, Exception], None],
        finish_prefill: Callable[[list[RequestState]], None],
    ) -> None:
        """Store the arguments.

        Args:
            runner: runs the chunks.
            policy: bounds the sizes of chunks, from the durations of earlier ones.
            clock: returns the time in seconds.
            others_decode: returns whether any request decodes; decoding requests wait while a chunk runs.
            attempt: calls a function for a request; an exception ends this request and no other.
            send: sends a request's stats to its stream.
            score: runs a chunk of a request that asks for its prompt's log-probabilities, and sends these.
            fail: ends a request with an error.
            finish_prefill: draws the first token of those requests whose prompt has been prefilled.
        """
        self._runner, self._policy, self._clock = runner, policy, clock
        self._others_decode, self._attempt, self._send = others_decode, attempt, send
        self._score, self._fail, self._finish_prefill = score, fail, finish_prefill

    def run_next(self, prefilling: list[RequestState]) -> None:
        """Run the next chunk of the first request, shared with tokens of other requests where they fit."""
        others = self._others_decode()
        packed = self._pack(prefilling, others) if len(prefilling) > 1 and self._runner.max_packed else []
        reading = [(req, chunk) for req, chunk in packed if len(chunk)]
        if len(reading) < 2:
            self._attempt(prefilling[0], self._run)
            return
        started = self._clock()
        try:
            errors = self._runner.prefill_packed(
                [req.sequence for req, _ in reading], [c for _, c in reading]
            )
            synchronized = self._runner.synchronize(blocking=others)
        except Exception:
            log.warning("%d prompts could not share a chunk.", len(reading), exc_info=True)
            for req, _ in reading:
                self._attempt(req, self._restart_alone)
            return
        now = self._clock()
        tokens = sum(aligned(len(chunk)) for _, chunk in reading)
        self._policy.record_chunk(tokens, now - started, now, synchronized)
        failed = {req: error for (req, _), error in zip(reading, errors, strict=True) if error is not None}
        for req, chunk in packed:
            if req in failed:
                self._fail(req, failed[req])
                continue
            assert req.num_prefilled is not None
            req.num_prefilled += len(chunk)
            if req.num_prefilled < len(req.input_ids):
                self._attempt(req, self._send)
        self._finish_prefill([req for req, _ in packed if req not in failed])

    def _restart_alone(self, req: RequestState) -> None:
        """Prefill a request from its beginning, in chunks of its own, after a failure in a shared one."""
        self._runner.reset(req.sequence)
        req.num_prefilled, req.isolated_steps = None, 2
        self._run(req)

    def _pack(self, prefilling: list[RequestState], others: bool) -> list[tuple[RequestState, Tokens]]:
        """Choose the requests that share the next chunk, with the tokens of each.

        Returns an empty list if the first request has to run alone. A request whose prompt begins like that
        of an earlier request waits, so that it can start from the earlier request's snapshot.
        """
        packed: list[tuple[RequestState, Tokens]] = []
        room = min(self._policy.chunk_size(others), self._runner.max_packed)
        for req in prefilling:
            if len(packed) == MAX_PACKED or room < ALIGNMENT:
                break
            alone = req.prompt_logprobs is not None or req.isolated_steps
            if alone or any(req.begins_like(other) for other, _ in packed):
                if not packed:
                    break
                continue
            self._attempt(req, self._restore_prefix)
            if req.num_prefilled is not None:
                chunk = req.input_ids[req.num_prefilled : req.num_prefilled + room]
                packed.append((req, chunk))
                room -= aligned(len(chunk))
        return packed

    def _restore_prefix(self, req: RequestState) -> None:
        """Restore the longest cached prefix of a request's prompt, once."""
        if req.num_prefilled is None:
            req.num_prefilled = self._runner.restore_prefix(req.sequence, req.input_ids)
            req.cached_tokens = req.cached_tokens or min(req.num_prefilled, len(req.prompt_ids))

    def _run(self, req: RequestState) -> None:
        """Run one chunk of a request's prompt; after the last one, draw its first token."""
        self._restore_prefix(req)
        assert req.num_prefilled is not None
        others = self._others_decode()
        if req.num_prefilled < len(req.input_ids):
            started = self._clock()
            end = req.num_prefilled + self._policy.chunk_size(others)
            chunk = req.input_ids[req.num_prefilled : end]
            if req.prompt_logprobs is None:
                self._runner.prefill(req.sequence, chunk)
            else:
                self._score(req, chunk, req.prompt_logprobs)
            # Blocking costs nothing if others decode: their next step would wait for the chunk anyway.
            synchronized = self._runner.synchronize(blocking=others)
            req.num_prefilled += len(chunk)
            now = self._clock()
            self._policy.record_chunk(len(chunk), now - started, now, synchronized)
        if req.num_prefilled < len(req.input_ids):
            self._send(req)
        self._finish_prefill([req])
