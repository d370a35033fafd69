"""Steppers: one token in, the next token out; on a CPU at once, on CUDA as one graph that runs ahead."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from jet.engine.choosing import Chooser, Special
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.slots import SlotPool
from jet.modeling.step import FusedStep
from jet.ops.alternatives import alternatives
from jet.ops.operations import cpu_operations, has_triton, reference_operations
from jet.ops.rows import Rows

if TYPE_CHECKING:
    from jet.engine.runner import Sequence

log = logging.getLogger(__name__)


class Detail(NamedTuple):
    """The log-probability of a token, and the likeliest tokens in its place with theirs, likeliest first."""

    logprob: float
    ids: list[int]
    logprobs: list[float]


class Pending(Protocol):
    """A step that has been launched."""

    def result(self) -> int:
        """Its token; waits for it. Raises FloatingPointError if the network's output is NaN."""
        ...

    def detail(self) -> Detail | None:
        """What the request wants to know of the token; None if nothing. Only after `result()`."""
        ...


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

    def have_read(self, sequence: Sequence, ids: Tensor, logits: Tensor) -> None:
        """A piece of its prompt, `[T]`, has been read; `logits` `[1, V]` are of what follows."""
        ...

    def launch(self, sequence: Sequence, reads: bool) -> Pending:
        """Start a step: if it `reads`, first the last token is read into the state."""
        ...

    def runs_ahead(self, sequence: Sequence) -> bool:
        """Whether the next step can be launched before this one's token is known."""
        ...

    def release(self, sequence: Sequence) -> None:
        """The request is over."""
        ...

    def close(self) -> None:
        """Let go of the network."""
        ...


def make_stepper(
    model: JetNemotronForCausalLM, pool: SlotPool, stop_ids: frozenset[int], breakers: frozenset[int]
) -> Stepper:
    """The fastest one here: CUDA graphs of Triton kernels, or plain calls where those cannot be had."""
    if model.device.type == "cuda" and has_triton():
        try:
            from jet.engine.graphs import GraphStepper

            return GraphStepper(model, pool, stop_ids, breakers)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever keeps Triton from compiling here: no C compiler, a driver too old
            log.warning("The Triton kernels cannot be used: plain PyTorch decodes, slower.", exc_info=True)
    return HostStepper(model, pool, stop_ids, breakers)


@dataclass
class _Read:
    """What a request has read: who chooses its tokens, and the logits `[1, V]` of the next one."""

    chooser: Chooser
    logits: Tensor | None = None


class HostStepper:
    """Steps one after the other, each finished when it returns."""

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: SlotPool,
        stop_ids: frozenset[int],
        breakers: frozenset[int],
    ) -> None:
        operations = cpu_operations() if model.device.type == "cpu" else reference_operations()
        self.kernels = {"decode": operations.name, "sampling": "torch"}
        self._rows = Rows.make(1, model.device, stop_ids, pool.idle)
        self.step = FusedStep(model, pool, self._rows, operations)
        self._special = Special(model.config.vocab_size, stop_ids, breakers, model.device)
        self._states: dict[Sequence, _Read] = {}

    def open(self, sequence: Sequence) -> None:
        """A new request has come."""
        self._states[sequence] = _Read(Chooser(sequence.sampling, self._special))

    def have_read(self, sequence: Sequence, ids: Tensor, logits: Tensor) -> None:
        """A piece of its prompt has been read."""
        state = self._states[sequence]
        state.logits = logits
        state.chooser.have_read(ids)

    def launch(self, sequence: Sequence, reads: bool) -> Pending:
        """Start a step."""
        state = self._states[sequence]
        logits = state.logits
        if reads:
            assert sequence.last is not None and sequence.slot is not None
            self._rows.token[0], self._rows.position[0] = sequence.last, sequence.length
            self._rows.slot[0] = sequence.slot
            self.step.run()
            logits = self.step.logits
        assert logits is not None
        return draw(state.chooser, logits, sequence)

    def runs_ahead(self, sequence: Sequence) -> bool:
        """Whether the next step can be launched before this one's token is known."""
        return False

    def release(self, sequence: Sequence) -> None:
        """The request is over."""
        self._states.pop(sequence, None)

    def close(self) -> None:
        """Let go of the network."""
        del self.step


def draw(chooser: Chooser, logits: Tensor, sequence: Sequence) -> Drawn:
    """The next token of a sequence, and of it what was asked for."""
    token, logits = chooser.choose(logits, sequence.steps)
    if not sequence.alternatives:
        return Drawn(token, None)
    drawn = torch.tensor([token], device=logits.device)
    return Drawn(token, detail_of(alternatives(logits, drawn, sequence.alternatives)))


class Drawn:
    """A step that is over."""

    def __init__(self, token: int, detail: Detail | None) -> None:
        self._token, self._detail = token, detail

    def result(self) -> int:
        """Its token."""
        return self._token

    def detail(self) -> Detail | None:
        """What the request wants to know of it."""
        return self._detail


def detail_of(noted: tuple[Tensor, Tensor, Tensor]) -> Detail:
    """What `jet.ops.alternatives.alternatives` says of the first row, as plain numbers."""
    logprob, ids, logprobs = noted
    return Detail(float(logprob[0]), ids[0].tolist(), logprobs[0].tolist())
