"""DecodeLoop: draws the next token of each running sequence, and launches the next step ahead.

The first token after a prefill is drawn from the prefill's logits. If the device holds the whole batch, the
next step is launched before the host has read the tokens of the current step.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable

import torch

from jet.cache.state_pool import StatePool
from jet.engine.decoder import Decoder
from jet.engine.healing_lookahead import HealingLookahead
from jet.engine.rollback import Rollback
from jet.engine.sampler import attempt_stream
from jet.engine.sequence import Sequence
from jet.engine.snapshots import Snapshots
from jet.engine.step_output import StepFuture
from jet.engine.text.healing import Healing, NoPathError
from jet.engine.text.healing import draw as sample_path
from jet.ops.sampling import uniform

WAITING_ROWS = 2  # rows of a batch that all wait for one; in larger ones a row's lost step costs less
DECODE_SNAPSHOT_INTERVAL = 8  # tokens between snapshots of a request that decodes alone
HEALING_STEP = 2**62  # the random step of healing, which no token has


class DecodeLoop:
    """Steps sequences for one model runner, on its thread."""

    def __init__(
        self,
        pool: StatePool,
        decoder: Decoder,
        snapshots: Snapshots,
        rollback: Rollback,
        reserve_next: Callable[[Sequence], MemoryError | None],
        stop_ids: frozenset[int],
        context: int,
        snapshot_interval: int,
    ) -> None:
        """Store the arguments.

        Args:
            pool: has the sequences' slots and pages.
            decoder: runs the steps.
            snapshots: stores the sequences' states in the prefix cache.
            rollback: sets marks where a token is drawn from the logits of a prefill.
            reserve_next: reserves memory for one more token, or returns the error.
            stop_ids: tokens that end a text.
            context: most tokens of a sequence.
            snapshot_interval: most tokens between snapshots of a sequence.
        """
        self._pool, self._decoder = pool, decoder
        self._snapshots, self._rollback = snapshots, rollback
        self._reserve_next = reserve_next
        self._stop_ids, self._context = stop_ids, context
        self._snapshot_interval = snapshot_interval
        self._batch_size = 1  # of the last step; snapshots so many tokens apart cost one copy a step

    def step(self, sequences: abc.Sequence[Sequence]) -> list[int | Exception]:
        """Return each sequence's next token, or the MemoryError or FloatingPointError that ends the sequence.

        If an exception is raised, the states of all sequences are lost.
        """
        sequences, outcomes = list(sequences), dict[Sequence, int | Exception]()
        self._batch_size = len(sequences)
        for sequence in sequences:
            sequence.num_accepted = sequence.num_generated - (sequence.in_flight is not None)
        in_flight = [(one, one.in_flight) for one in sequences if one.in_flight is not None]
        all_go_on = len(in_flight) == len(sequences) and all(map(self._continues, sequences))
        # If the device holds this batch already, launch the next step before reading this one's tokens.
        waits = len(sequences) <= WAITING_ROWS and any(one.waits for one in sequences)
        overlap = all_go_on and not waits and self._decoder.batch_is_on_device(sequences)
        if overlap:
            self._launch_next(sequences)
        for sequence, step in in_flight:
            sequence.in_flight = sequence.in_flight if overlap else None
            outcomes[sequence] = self.accept(sequence, step)
        if not overlap:
            self._sample_first([one for one in sequences if one not in outcomes], outcomes)
            self._decode_step([one for one in sequences if one not in outcomes], outcomes)
            if not waits:
                self._launch_next([one for one in sequences if isinstance(outcomes[one], int)])
        return [outcomes[sequence] for sequence in sequences]

    def _sample_first(
        self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, int | Exception]
    ) -> None:
        """Draw the first token of sequences that have just been prefilled, and snapshot their states."""
        launched = list[tuple[Sequence, StepFuture]]()
        for sequence in sequences:
            if sequence.logits is not None and sequence.healing is not None:
                outcomes[sequence] = self._sample_healing(sequence, sequence.healing)
            elif sequence.logits is not None:
                self._rollback.mark_first(sequence)
                launched.append((sequence, self._decoder.sample(sequence)))
                sequence.num_generated += 1
        for sequence, step in launched:
            again = bool(sequence.barred_now)  # there was a snapshot at the first time
            outcome = outcomes[sequence] = self.accept(sequence, step)
            is_newer = sequence.num_computed_tokens > sequence.last_snapshot
            if isinstance(outcome, int) and is_newer and not again:
                self._snapshots.take(sequence)
            sequence.logits = None

    def _sample_healing(self, sequence: Sequence, healing: Healing) -> int | Exception:
        """Draw the end of the prompt again, after a snapshot of the state before it.

        Returns the last token that was drawn, or the error that ends the sequence.
        """
        if sequence.num_computed_tokens > sequence.last_snapshot:
            self._snapshots.take(sequence)
        self._rollback.mark_first(sequence)
        barred = sequence.barred_now
        logits, sequence.logits, sequence.has_generated = sequence.logits, None, True
        assert logits is not None
        lookahead = HealingLookahead(self._pool, self._decoder, self._reserve_next, sequence, logits)
        sampling = sequence.sampling
        try:
            chance = uniform(sampling.seed or 0, HEALING_STEP, attempt_stream(len(barred)))
            filters = sampling.top_k, sampling.top_p, barred
            healed = sample_path(healing.root, lookahead, sampling.temperature, chance, *filters)
            lookahead.advance(healed.path)
        except (MemoryError, FloatingPointError, NoPathError) as error:
            return error
        if sequence.top_logprobs:
            sequence.logprobs = lookahead.logprobs(healed)
        sequence.healing, sequence.healed_path = None, healed
        sequence.num_generated += healed.adds
        sequence.token_ids.append(healed.token)
        ids = torch.tensor([*healed.path, healed.token], device=self._pool.page_table.device)
        self._decoder.append_prompt(sequence, ids)
        return healed.token

    def _decode_step(
        self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, int | Exception]
    ) -> None:
        """Run one step of sequences without a step in flight; add their tokens or errors to `outcomes`."""
        full = {one: error for one in sequences if (error := self._reserve_next(one)) is not None}
        outcomes.update(full)
        able = [one for one in sequences if one not in full]
        for sequence, step in zip(able, self._launch(able), strict=True):
            outcomes[sequence] = self.accept(sequence, step)

    def _launch_next(self, sequences: abc.Sequence[Sequence]) -> None:
        """Launch the next step of the sequences that continue, if all of them can overlap with the host.

        Sets `in_flight` of these sequences; None if no step was launched.
        """
        for sequence in sequences:
            sequence.in_flight = None
        continuing = [one for one in sequences if self._continues(one)]
        if not continuing or not self._decoder.can_overlap(continuing):
            return
        for sequence in continuing:
            self._rollback.mark_before_launch(sequence)
        if any(map(self._reserve_next, continuing)):
            return
        for sequence, step in zip(continuing, self._launch(continuing), strict=True):
            sequence.in_flight = step

    def _continues(self, sequence: Sequence) -> bool:
        more = (
            sequence.num_generated < sequence.sampling.max_new_tokens
            and sequence.num_computed_tokens < self._context
        )
        return more and sequence.last_token not in self._stop_ids

    def _launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        """Launch a step of these sequences; return one future for each."""
        if not sequences:
            return []
        steps = self._decoder.launch(sequences)
        for sequence in sequences:
            sequence.num_computed_tokens += 1
            sequence.num_generated += 1
        return steps

    def accept(self, sequence: Sequence, step: StepFuture) -> int | Exception:
        """Wait for a step's token and append it; take a snapshot if one is due.

        Returns the token, or the FloatingPointError of NaN logits.
        """
        try:
            token, sequence.logprobs = step.result()
        except FloatingPointError as error:
            return error
        sequence.has_generated = True
        sequence.token_ids.append(token)
        if sequence.in_flight is not None and token in self._stop_ids:
            sequence.in_flight = None  # the step in flight skips sequences that have stopped
            sequence.num_computed_tokens -= 1
        if sequence.num_computed_tokens - sequence.last_snapshot >= min(
            self._snapshot_interval, max(DECODE_SNAPSHOT_INTERVAL, self._batch_size)
        ):
            self._snapshots.take(sequence)
        return token
