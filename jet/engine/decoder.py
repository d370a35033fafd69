"""Steppers: one token in, the next token out; on a CPU at once, on CUDA as one graph that runs ahead."""

from __future__ import annotations

from collections import abc
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from jet.cache.state_pool import SlotPool
from jet.engine.decode_step import FusedStep
from jet.engine.sampler import Chooser, Special, draw
from jet.engine.sequence import Sequence
from jet.engine.step_output import Drawn, Pending, _Token
from jet.modeling import CheckpointError, JetNemotronForCausalLM
from jet.ops.availability import has_triton, recover_triton
from jet.ops.backends import numba_backend, reference_backend
from jet.ops.decode_batch import DecodeBatch


class Stepper(Protocol):
    """What the runner needs to draw tokens."""

    step: FusedStep

    @property
    def kernels(self) -> dict[str, str]:
        """What computes: operation → implementation, in words for people."""
        ...

    def open(self, sequence: Sequence) -> None:
        """A new request has come."""
        ...

    def have_read(self, sequence: Sequence, ids: Tensor) -> None:
        """A piece of its prompt, `[T]`, has been read."""
        ...

    def prepare(self) -> bool:
        """Do a small part of what makes later steps quicker. False if nothing was left to do."""
        ...

    def draw(self, sequence: Sequence) -> Pending:
        """The token that follows the sequence's `logits`, as row 0."""
        ...

    def read(self, sequence: Sequence) -> Tensor:
        """Read the sequence's last token into its state; the logits `[1, V]` of what follows."""
        ...

    def launch(self, sequences: abc.Sequence[Sequence]) -> Pending:
        """Start a step: read the last token of each into its state, then draw the next."""
        ...

    def drawn_from(self, sequence: Sequence) -> Tensor | None:
        """The logits `[1, V]` that the sequence's last step ended with, if they are still there."""
        ...

    def may_run_ahead(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Whether a step of these may be launched before it is wanted."""
        ...

    def runs_ahead(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Whether the next step of these can be launched before the tokens of this one are known."""
        ...

    def release(self, sequence: Sequence) -> None:
        """The request is over."""
        ...

    def close(self) -> None:
        """Let go of the network."""
        ...


def make_stepper(
    model: JetNemotronForCausalLM,
    pool: SlotPool,
    stop_ids: frozenset[int],
    breakers: frozenset[int],
    rows: int,
) -> Stepper:
    """The fastest one here, for up to so many rows: CUDA graphs of Triton kernels, or else plain calls."""
    while model.device.type == "cuda" and has_triton():
        try:
            from jet.engine.cuda_graphs import GraphStepper

            return GraphStepper(model, pool, stop_ids, breakers, rows)
        except (torch.OutOfMemoryError, CheckpointError):  # noqa: PERF203 (three rounds at most)
            raise
        except Exception as error:  # no C compiler, a driver too old, a cache that is damaged or full
            recover_triton(model.device, error)
    return HostStepper(model, pool, stop_ids, breakers, rows)


class HostStepper:
    """Steps one after the other, each finished when it returns."""

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: SlotPool,
        stop_ids: frozenset[int],
        breakers: frozenset[int],
        rows: int,
    ) -> None:
        operations = numba_backend() if model.device.type == "cpu" else reference_backend()
        self.kernels = {"decode": operations.name, "sampling": "torch"}
        self._model, self._pool, self._backend = model, pool, operations
        self._special = Special(model.config.vocab_size, stop_ids, breakers, model.device)
        self._choosers: dict[Sequence, Chooser] = {}
        self._batches: dict[int, _Batch] = {}
        self._latest: dict[Sequence, Tensor] = {}  # logits of the last step
        self._largest: FusedStep | None = None
        self._largest = self._batch(rows).step
        self.step = self._batch(1).step

    def open(self, sequence: Sequence) -> None:
        """A new request has come."""
        self._choosers[sequence] = Chooser(sequence.sampling, self._special, sequence.min_tokens)

    def have_read(self, sequence: Sequence, ids: Tensor) -> None:
        """A piece of its prompt has been read."""
        self._choosers[sequence].have_read(ids)

    def prepare(self) -> bool:
        """Nothing has to be prepared."""
        return False

    def draw(self, sequence: Sequence) -> Pending:
        """The token that follows the sequence's `logits`."""
        assert sequence.logits is not None
        return Drawn([self._draw(sequence, sequence.logits)])

    def read(self, sequence: Sequence) -> Tensor:
        """A step that ends at the logits."""
        self._latest = {}
        return self._run([sequence]).clone()

    def _run(self, sequences: abc.Sequence[Sequence]) -> Tensor:
        rows, step = self._batch(len(sequences))
        rows.token.copy_(torch.tensor([sequence.last for sequence in sequences]))
        rows.position.copy_(torch.tensor([sequence.length for sequence in sequences]))
        rows.slot.copy_(torch.tensor([sequence.slot for sequence in sequences]))
        step.run()
        return step.logits

    def launch(self, sequences: abc.Sequence[Sequence]) -> Pending:
        """A step."""
        logits = self._run(sequences).split(1)
        self._latest = dict(zip(sequences, logits, strict=True))
        return Drawn([self._draw(*row) for row in zip(sequences, logits, strict=True)])

    def drawn_from(self, sequence: Sequence) -> Tensor | None:
        """Those of the last step of all."""
        logits = self._latest.get(sequence)
        return None if logits is None else logits.clone()

    def may_run_ahead(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Nothing does."""
        return False

    def runs_ahead(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Nothing does."""
        return False

    def release(self, sequence: Sequence) -> None:
        """The request is over."""
        self._choosers.pop(sequence, None)
        self._latest.pop(sequence, None)

    def close(self) -> None:
        """Let go of the network."""
        del self.step, self._largest, self._batches, self._latest, self._model, self._pool

    def _batch(self, size: int) -> _Batch:
        """A step of so many rows, made when it is first needed; all share weights and buffers."""
        if size not in self._batches:
            rows = DecodeBatch.make(size, self._model.device, null_slot=self._pool.idle)
            step = FusedStep(self._model, self._pool, rows, self._backend, like=self._largest)
            self._batches[size] = _Batch(rows, step)
        return self._batches[size]

    def _draw(self, sequence: Sequence, logits: Tensor) -> _Token | FloatingPointError:
        try:
            return draw(self._choosers[sequence], logits, sequence)
        except FloatingPointError as error:
            return error


class _Batch(NamedTuple):
    rows: DecodeBatch
    step: FusedStep
