"""Decoder: one decode step for a batch. Eager on a CPU; CUDA graphs that overlap with the host on a GPU."""

from __future__ import annotations

from collections import abc
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from jet.cache.state_pool import StatePool
from jet.engine.decode_step import DecodeStep
from jet.engine.sampler import HostSampler, SpecialTokens, draw, make_host_sampler
from jet.engine.sequence import Sequence
from jet.engine.step_output import StepFuture
from jet.modeling import CheckpointError, JetNemotronForCausalLM
from jet.ops.availability import has_triton, recover_triton
from jet.ops.backends import numba_backend, reference_backend
from jet.ops.decode_batch import DecodeBatch


class Decoder(Protocol):
    """The interface through which `ModelRunner` runs decode steps and draws tokens.

    Attributes:
        step: the decode step of one row.
        overlaps: whether a step may be launched before the tokens of the previous step are known.
    """

    step: DecodeStep
    overlaps: bool

    @property
    def kernels(self) -> dict[str, str]:
        """Return a description of the implementation of each operation, by the operation's name."""
        ...

    def add(self, sequence: Sequence) -> None:
        """Prepare the sampler state of a new request."""
        ...

    def append_prompt(self, sequence: Sequence, ids: Tensor) -> None:
        """Add prefilled tokens `[T]` to the tokens that the request's penalties apply to."""
        ...

    def capture_next(self) -> bool:
        """Compile one kernel or capture one graph for later steps; return False if nothing is left to do."""
        ...

    def sample(self, sequence: Sequence) -> StepFuture:
        """Draw the sequence's next token from its `logits` `[1, V]`, which a prefill has left."""
        ...

    def compute_logits(self, sequence: Sequence) -> Tensor:
        """Run the sequence's last token and return the logits `[1, V]`; draw nothing."""
        ...

    def launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        """Start a decode step for these sequences; return a future of the next token of each."""
        ...

    def last_logits(self, sequence: Sequence) -> Tensor | None:
        """Return the logits `[1, V]` of the sequence's last step; None if they are gone."""
        ...

    def can_overlap(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Return whether the next step may be launched before the tokens of the current step are known."""
        ...

    def batch_is_on_device(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Return whether the device holds this batch, so that the next step needs no input from the host."""
        ...

    def remove(self, sequence: Sequence) -> None:
        """Drop everything that is kept for a sequence, such as its sampler."""
        ...

    def close(self) -> None:
        """Release the network."""
        ...


def make_decoder(
    model: JetNemotronForCausalLM,
    pool: StatePool,
    stop_ids: frozenset[int],
    dry_sequence_breakers: frozenset[int],
    rows: int,
    threads: int = 1,
) -> Decoder:
    """Make the fastest decoder available for up to `rows` rows: CUDA graphs of Triton kernels, or eager.

    `threads`: the number of threads that compute a step on a CPU.
    """
    while model.device.type == "cuda" and has_triton():
        try:
            from jet.engine.cuda_graphs import CudaGraphDecoder

            return CudaGraphDecoder(model, pool, stop_ids, dry_sequence_breakers, rows)
        except (torch.OutOfMemoryError, CheckpointError):  # noqa: PERF203 (three rounds at most)
            raise
        except Exception as error:  # no C compiler, a driver too old, a cache that is damaged or full
            recover_triton(model.device, error)
    return EagerDecoder(model, pool, stop_ids, dry_sequence_breakers, rows, threads)


class EagerDecoder:
    """Decodes eagerly: a decode step has ended when `launch` returns."""

    overlaps = False

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: StatePool,
        stop_ids: frozenset[int],
        dry_sequence_breakers: frozenset[int],
        rows: int,
        threads: int = 1,
    ) -> None:
        operations = numba_backend(threads) if model.device.type == "cpu" else reference_backend()
        self._model, self._pool, self._backend = model, pool, operations
        self._special_tokens = SpecialTokens(
            model.config.vocab_size, stop_ids, dry_sequence_breakers, model.device
        )
        sampling = "torch" if self._special_tokens.drawer is None else "numba"
        self.kernels = {"decode": operations.name, "sampling": sampling}
        self._samplers: dict[Sequence, HostSampler] = {}
        self._batches: dict[int, _Batch] = {}
        self._last_logits: dict[Sequence, Tensor] = {}  # logits of the last step
        self._largest: DecodeStep | None = None
        self._largest = self._batch(rows).step
        self.step = self._batch(1).step

    def add(self, sequence: Sequence) -> None:
        """Make the request's sampler."""
        self._samplers[sequence] = make_host_sampler(sequence, self._special_tokens)

    def append_prompt(self, sequence: Sequence, ids: Tensor) -> None:
        """Add prefilled tokens `[T]` to the tokens that the request's penalties apply to."""
        self._samplers[sequence].append_prompt(ids)

    def capture_next(self) -> bool:
        """Return False: eager steps need no preparation."""
        return False

    def sample(self, sequence: Sequence) -> StepFuture:
        """Draw the sequence's next token from its `logits` `[1, V]`, which a prefill has left."""
        assert sequence.logits is not None
        return self._sample(sequence, sequence.logits)

    def compute_logits(self, sequence: Sequence) -> Tensor:
        """Run the sequence's last token and return the logits `[1, V]`; draw nothing."""
        others = (pair for pair in self._last_logits.items() if pair[0] is not sequence)
        self._last_logits = {other: logits.clone() for other, logits in others}  # the buffer is used again
        return self._run([sequence]).clone()

    def _run(self, sequences: abc.Sequence[Sequence]) -> Tensor:
        rows, step = self._batch(len(sequences))
        rows.token.copy_(torch.tensor([sequence.last_token for sequence in sequences]))
        rows.position.copy_(torch.tensor([sequence.num_computed_tokens for sequence in sequences]))
        rows.slot.copy_(torch.tensor([sequence.slot for sequence in sequences]))
        step.run()
        return step.logits

    def launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        """Run a decode step and draw the tokens; the futures are complete."""
        logits = self._run(sequences).split(1)
        self._last_logits = dict(zip(sequences, logits, strict=True))
        return [self._sample(*row) for row in zip(sequences, logits, strict=True)]

    def last_logits(self, sequence: Sequence) -> Tensor | None:
        """Return the sequence's logits `[1, V]`; None if it took no part in the last step."""
        logits = self._last_logits.get(sequence)
        return None if logits is None else logits.clone()

    def can_overlap(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Return False: eager steps do not overlap with the host."""
        return False

    def batch_is_on_device(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Return False: eager steps do not overlap with the host."""
        return False

    def remove(self, sequence: Sequence) -> None:
        """Drop everything that is kept for a sequence, such as its sampler."""
        self._samplers.pop(sequence, None)
        self._last_logits.pop(sequence, None)

    def close(self) -> None:
        """Release the network and the pool."""
        del self.step, self._largest, self._batches, self._last_logits, self._model, self._pool

    def _batch(self, size: int) -> _Batch:
        """Return the step of `size` rows, made on first use; all share weights and buffers."""
        if size not in self._batches:
            rows = DecodeBatch.make(size, self._model.device, null_slot=self._pool.null_slot)
            step = DecodeStep(self._model, self._pool, rows, self._backend, share_with=self._largest)
            self._batches[size] = _Batch(rows, step)
        return self._batches[size]

    def _sample(self, sequence: Sequence, logits: Tensor) -> StepFuture:
        return StepFuture.completed(partial(draw, self._samplers[sequence], logits, sequence))


class _Batch(NamedTuple):
    rows: DecodeBatch
    step: DecodeStep
