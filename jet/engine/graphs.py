"""GraphStepper: the decode step as captured CUDA graphs, which run ahead of the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jet.engine.choosing import Chooser, Special
from jet.engine.stepping import Detail, Pending, detail_of, draw
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.slots import SlotPool
from jet.modeling.step import FusedStep
from jet.ops.alternatives import alternatives
from jet.ops.kernels import sampling as kernels
from jet.ops.operations import has_dependent_launch, triton_operations
from jet.ops.rows import Plan, Rows
from jet.ops.sampling import NOT_A_NUMBER

if TYPE_CHECKING:
    from jet.engine.runner import Sequence

# What is captured before the first request: the page's default settings, and the likeliest token.
USUAL = (Plan(uses_penalty=True, uses_top_k=False, uses_top_p=True), None)


class GraphStepper:
    """Steps as CUDA graphs: from a token on the device to the next one, no host in between.

    What a step needs to know stands in `Rows` on the device, and the last kernel of a step moves it on. So
    the next step can be launched at once; the host reads tokens from pinned memory as they arrive.
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: SlotPool,
        stop_ids: frozenset[int],
        breakers: frozenset[int],
    ) -> None:
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        operations = triton_operations(
            model.device, 1, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        )
        self.kernels = {"decode": f"{operations.name}, one CUDA graph", "sampling": "triton"}
        self._rows = Rows.make(1, model.device, stop_ids, pool.idle)
        self._seen = torch.zeros(pool.idle + 1, config.vocab_size, dtype=torch.uint8, device=model.device)
        self._special = Special(config.vocab_size, stop_ids, breakers, model.device)
        self.step = FusedStep(model, pool, self._rows, operations)
        self._graphs = StepGraphs(self.step, self._rows, self._seen)
        self._choosers: dict[Sequence, Chooser] = {}  # of those who ask for what the kernels do not do
        self._read_logits: dict[Sequence, Tensor] = {}
        self._owner: Sequence | None = None  # whose row it is, as its last step has left it
        for plan in USUAL:
            self._graphs.prepare(plan)

    def open(self, sequence: Sequence) -> None:
        """A new request has come."""
        assert sequence.slot is not None
        if sequence.sampling.repetition_penalty != 1:
            self._seen[sequence.slot].zero_()
        if sequence.sampling.dry_multiplier or sequence.sampling.xtc_probability:
            self._choosers[sequence] = Chooser(sequence.sampling, self._special)

    def have_read(self, sequence: Sequence, ids: Tensor, logits: Tensor) -> None:
        """A piece of its prompt has been read."""
        self._read_logits[sequence] = logits
        if sequence in self._choosers:
            self._choosers[sequence].have_read(ids)
        if sequence.sampling.repetition_penalty != 1:
            seen = self._seen[sequence.slot]
            seen[ids] = 1
            seen[self._special.stops] = 0

    def launch(self, sequence: Sequence, reads: bool) -> Pending:
        """Start a step."""
        if not reads:
            self.step.logits.copy_(self._read_logits.pop(sequence))
        if self._owner is not sequence:
            self._take_row(sequence, reads)
        if sequence in self._choosers:
            return self._choose(sequence, reads)
        return self._graphs.launch(plan_of(sequence), reads, sequence.alternatives)

    def _choose(self, sequence: Sequence, reads: bool) -> Pending:
        """A step whose token is drawn by the host: the row has to be told, and nothing runs ahead."""
        if reads:
            self._graphs.read()
        drawn = draw(self._choosers[sequence], self.step.logits, sequence)
        self._owner = None
        return drawn

    def runs_ahead(self, sequence: Sequence) -> bool:
        """Whether the next step can be launched before this one's token is known."""
        return self._owner is sequence

    def release(self, sequence: Sequence) -> None:
        """The request is over."""
        self._read_logits.pop(sequence, None)
        self._choosers.pop(sequence, None)
        if self._owner is sequence:
            self._owner = None

    def close(self) -> None:
        """Let go of the network."""
        del self.step, self._graphs

    def _take_row(self, sequence: Sequence, reads: bool) -> None:
        """Give the row to a sequence. Fills do not wait for the device."""
        rows, sampling = self._rows, sequence.sampling
        values: list[tuple[Tensor, float]] = [
            (rows.temperature, sampling.temperature),
            (rows.top_k, sampling.top_k),
            (rows.top_p, sampling.top_p),
            (rows.min_p, sampling.min_p),
            (rows.penalty, sampling.repetition_penalty),
            (rows.seed, sampling.seed or 0),
            (rows.step, sequence.steps),
            # A step that does not read leaves the position behind the prompt all the same.
            (rows.position, sequence.length if reads else sequence.length - 1),
            (rows.slot, sequence.slot or 0),
            (rows.active, 1),
            (rows.token, sequence.last or 0),
            (rows.status, 0),
        ]
        for tensor, value in values:
            tensor.fill_(value)
        self._owner = sequence


def plan_of(sequence: Sequence) -> Plan | None:
    """What a request asks of the sampler; None takes the likeliest token, without a penalty."""
    sampling = sequence.sampling
    penalty = sampling.repetition_penalty != 1
    if sampling.temperature == 0:
        return Plan(penalty, False, False) if penalty else None
    return Plan(penalty, sampling.top_k > 0, sampling.top_p < 1)


class StepGraphs:
    """One graph for each kind of sampling that somebody has asked for, captured when it is first needed."""

    def __init__(self, step: FusedStep, rows: Rows, seen: Tensor) -> None:
        device = rows.token.device
        batch, vocabulary = step.logits.shape
        self._step, self._rows, self._seen = step, rows, seen
        self._scratch = kernels.Scratch.make(batch, vocabulary, device)
        self._pdl = has_dependent_launch(device)
        self._graphs: dict[Plan | None, torch.cuda.CUDAGraph] = {}
        self._reading: torch.cuda.CUDAGraph | None = None
        self._memory: Any = None  # what all graphs share: only one runs at a time

    def prepare(self, plan: Plan | None) -> None:
        """Compile and capture, so that nobody has to wait for it later."""
        if plan not in self._graphs:
            self._graphs[plan] = self._capture(partial(self._read_and_draw, plan))

    def launch(self, plan: Plan | None, reads: bool, count: int) -> _Landing:
        """Start a step, or only the draw from the logits that are there if it does not read.

        `count`: how many alternatives to note; they are found outside of the graph, by who asks for them.
        """
        if reads:
            self.prepare(plan)
            self._graphs[plan].replay()
        else:
            self._draw(plan, pdl=False)
        noted = alternatives(self._step.logits, self._rows.token, count) if count else ()
        return _Landing(self._rows, noted)

    def read(self) -> None:
        """Start a step that stops at the logits."""
        if self._reading is None:
            self._reading = self._capture(self._step.run)
        self._reading.replay()

    def _draw(self, plan: Plan | None, pdl: bool) -> None:
        given = (self._step.logits, self._rows, self._seen, self._scratch)
        first = self._step.first_weight  # the next step begins with it
        if plan is None:
            kernels.greedy(*given, penalise=False, pdl=pdl, ahead=first)
        else:
            kernels.sample(*given, plan, pdl=pdl, ahead=first)

    def _read_and_draw(self, plan: Plan | None) -> None:
        self._step.run()
        self._draw(plan, self._pdl)

    def _capture(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Run once to compile what is new, on rows that are nobody's, then capture."""
        with _Parked(self._rows):
            run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            run()
        self._memory = self._memory or graph.pool()
        return graph


class _Parked:
    """While it lasts, all rows are idle ones; afterwards they are as before."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._tensors = [value for value in vars(rows).values() if isinstance(value, Tensor)]

    def __enter__(self) -> None:
        self._kept = [tensor.clone() for tensor in self._tensors]
        self._rows.slot.fill_(self._rows.idle)
        self._rows.position.fill_(0)
        self._rows.token.fill_(0)

    def __exit__(self, *exception: object) -> None:
        for tensor, kept in zip(self._tensors, self._kept, strict=True):
            tensor.copy_(kept)


class _Landing:
    """Where a step's tokens arrive: pinned memory, and the event that says when they are there."""

    def __init__(self, rows: Rows, noted: tuple[Tensor, ...]) -> None:
        """Have the tokens sent, and what was noted of them, behind everything launched so far."""
        self._tokens, self._status = _sent(rows.token), _sent(rows.status)
        self._noted = tuple(map(_sent, noted))
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def result(self) -> int:
        """The token of the first row, waited for. Raises FloatingPointError if its logits are NaN."""
        self._arrived.synchronize()
        if self._status[0]:
            raise FloatingPointError(NOT_A_NUMBER)
        return int(self._tokens[0])

    def detail(self) -> Detail | None:
        """What was noted of it."""
        return detail_of((self._noted[0], self._noted[1], self._noted[2])) if self._noted else None


def _sent(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, which is there when the device has come so far."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
