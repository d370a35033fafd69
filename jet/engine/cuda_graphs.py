"""CudaGraphDecoder: the decode step as captured CUDA graphs, which run ahead of the host."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jet.api import TokenLogprobs
from jet.cache.pinned import pinned, to_host
from jet.cache.state_pool import StatePool
from jet.engine.decode_step import DecodeStep
from jet.engine.sampler import HostSampler, SpecialTokens, draw
from jet.engine.sequence import Sequence
from jet.engine.step_output import StepFuture, token_logprobs
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.ops.backends import OpBackend, has_dependent_launch, triton_backend
from jet.ops.decode_batch import DecodeBatch, SamplerFlags
from jet.ops.logprobs import top_logprobs
from jet.ops.sampling import NOT_A_NUMBER
from jet.ops.triton import fused_sampling as kernels

# Every batch is of one of these kinds, which may do more than it asks for: the page's settings, the likeliest
# tokens, and all filters. So there are few kernels to compile and few graphs to capture.
DEFAULT_SAMPLER = SamplerFlags(uses_penalty=True, uses_top_k=False, uses_top_p=True)
CAPTURED_SAMPLERS: tuple[SamplerFlags | None, ...] = (DEFAULT_SAMPLER, None, SamplerFlags())
MIN_TOKENS_SAMPLER = SamplerFlags(
    uses_min_tokens=True
)  # besides, for batches in which a text may not end yet
TIMING_REPLAYS = 3  # replays


class CudaGraphDecoder:
    """Steps as CUDA graphs: from tokens on the device to the next ones, no host in between.

    What a step needs to know stands in `DecodeBatch` on the device, and the last kernel of a step moves it
    on. So the next step of the same requests can be launched at once; the host reads tokens from pinned
    memory as they arrive. There are graphs for 1, 2, 4, 8 … rows; rows that are too many are nobody's.

    To compile and capture takes longer than those who write should wait. So at first there are graphs of one
    row and of as many as there can be; `capture_next` makes the others while nobody writes, and until then a
    batch takes the next larger ones.
    """

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: StatePool,
        stop_ids: frozenset[int],
        dry_sequence_breakers: frozenset[int],
        rows: int,
    ) -> None:
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model, self._pool, self._stop_ids = model, pool, stop_ids
        self._token_mask = torch.zeros(
            pool.null_slot + 1, config.vocab_size, dtype=torch.uint8, device=model.device
        )
        self._special_tokens = SpecialTokens(config.vocab_size, stop_ids, dry_sequence_breakers, model.device)
        self._host_samplers: dict[
            Sequence, HostSampler
        ] = {}  # of those who ask for what the kernels do not do
        self._batch: list[Sequence] = []  # whose rows they are, as their last step has left them
        self._batch_graphs: StepGraphs | None = None  # by that step
        self._last_logits: dict[Sequence, Tensor] = {}  # what the last tokens of requests are drawn from
        self._shared = _SharedGraphPool()
        self._graphs: dict[int, StepGraphs] = {}
        self._rows = DecodeBatch.make(padded_size(rows), model.device, stop_ids, pool.null_slot)
        self._largest: DecodeStep | None = None
        self._largest = self._graphs_of_size(padded_size(rows)).step
        self.step = self._graphs_of_size(1).step
        self.kernels = {"decode": f"{self._backend(1).name}, one CUDA graph", "sampling": "triton"}
        # For the first token of a request, which follows its prompt and no step.
        self._first_batch = DecodeBatch.make(1, model.device, stop_ids, pool.null_slot)
        self._first_logits = torch.zeros(1, config.vocab_size, dtype=torch.float32, device=model.device)
        self._first_sampler = _Sampler(
            self._first_logits, self._first_batch, self._token_mask, self.step.first_weight
        )
        for flags in CAPTURED_SAMPLERS:
            self._first_sampler.sample(flags)  # compiles; the row is nobody's
            for size in dict.fromkeys((padded_size(rows), 1)):
                self._graphs_of_size(size).capture(flags)
        self._captures = self._capture_all(padded_size(rows))

    def add(self, sequence: Sequence) -> None:
        """A new request has come."""
        assert sequence.slot is not None
        if sequence.sampling.repetition_penalty != 1:
            self._token_mask[sequence.slot].zero_()
        sampling, barred = sequence.sampling, sequence.min_tokens > 0
        # The kernels bar tokens by their logits, and what is noted of tokens must not know of that.
        if sampling.dry_multiplier or sampling.xtc_probability or (barred and sequence.top_logprobs):
            self._host_samplers[sequence] = HostSampler(sampling, self._special_tokens, sequence.min_tokens)

    def append_prompt(self, sequence: Sequence, ids: Tensor) -> None:
        """A piece of its prompt has been read."""
        if sequence in self._host_samplers:
            self._host_samplers[sequence].append_prompt(ids)
        if sequence.sampling.repetition_penalty != 1:
            seen = self._token_mask[sequence.slot]
            # Not `seen[ids] = 1`, for which the host waits until the device has come so far.
            seen.index_fill_(0, ids, 1)
            seen.index_fill_(0, self._special_tokens.stop_ids, 0)

    def sample(self, sequence: Sequence) -> StepFuture:
        """The token that follows the sequence's `logits`."""
        assert sequence.logits is not None
        if sequence in self._host_samplers:
            logits = sequence.logits.float()
            return StepFuture.completed(partial(draw, self._host_samplers[sequence], logits, sequence))
        self._first_logits.copy_(sequence.logits)
        write_batch(self._first_batch, [sequence])
        self._first_sampler.sample(sampler_flags([sequence]))
        (future,) = self._step_output(self._first_batch, self._first_logits, [sequence], {})
        return future

    @torch.inference_mode()
    def capture_next(self) -> bool:
        """Make a small part of what is still to be compiled or captured. False if nothing was."""
        return next(self._captures, False)

    def _capture_all(self, largest: int) -> Generator[bool, None, None]:
        sizes = [1 << bit for bit in reversed(range(largest.bit_length()))]
        for size in sizes:
            graphs = self._graphs_of_size(size)
            for part in graphs.step.ops if size not in (1, largest) else ():
                graphs.compile(part.run)
                yield True
            for flags in CAPTURED_SAMPLERS:
                graphs.capture(flags)
                yield True
            graphs.capture_logits()
            yield True
        self._first_sampler.sample(MIN_TOKENS_SAMPLER)
        yield True
        for size in dict.fromkeys((largest, 1)):
            self._graphs_of_size(size).capture(MIN_TOKENS_SAMPLER)
            yield True

    def launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        """Start a step."""
        flags = sampler_flags(sequences)
        graphs = self._fastest_graphs(padded_size(len(sequences)), flags)
        if self._batch != sequences or self._batch_graphs is not graphs:
            write_batch(graphs.rows, sequences, self._host_samplers)
            self._batch, self._batch_graphs = list(sequences), graphs
        ending = [row for row, sequence in enumerate(sequences) if sequence.samples_last_token]
        if not ending and not any(sequence in self._host_samplers for sequence in sequences):
            graphs.launch(flags)
            return self._step_output(graphs.rows, graphs.step.logits, sequences, {})
        return self._sample_on_host(graphs, sequences, ending)

    def compute_logits(self, sequence: Sequence) -> Tensor:
        """A step that ends at the logits."""
        graphs = self._graphs_of_size(1)
        write_batch(graphs.rows, [sequence])
        self._batch = []  # the rows have to be told
        graphs.compute_logits()
        return graphs.step.logits.clone()

    def _sample_on_host(
        self, graphs: StepGraphs, sequences: abc.Sequence[Sequence], ending: abc.Sequence[int]
    ) -> list[StepFuture]:
        """A step of which some tokens are drawn by the host: nothing runs ahead of that.

        The logits of the rows in `ending` are put aside before penalties are written into them.
        """
        graphs.compute_logits()
        self._last_logits |= {sequences[row]: graphs.step.logits[row : row + 1].clone() for row in ending}
        others = [sequence for sequence in sequences if sequence not in self._host_samplers]
        if others:
            graphs.sample(sampler_flags(others))
        host_sampled = {}
        for row, sequence in enumerate(sequences):
            if sequence in self._host_samplers:
                given = self._host_samplers[sequence], graphs.step.logits[row : row + 1], sequence
                host_sampled[row] = StepFuture.completed(partial(draw, *given))
        self._batch = []  # the rows have to be told
        return self._step_output(graphs.rows, graphs.step.logits, sequences, host_sampled)

    def last_logits(self, sequence: Sequence) -> Tensor | None:
        """Those of the last token that the request may have."""
        return self._last_logits.get(sequence)

    def can_overlap(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Whether the device draws all their tokens."""
        return not any(sequence in self._host_samplers for sequence in sequences)

    def batch_is_on_device(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Whether the rows on the device are theirs, in the graphs that are next."""
        if self._batch != sequences or not self.can_overlap(sequences):
            return False
        return (
            self._fastest_graphs(padded_size(len(sequences)), sampler_flags(sequences)) is self._batch_graphs
        )

    def remove(self, sequence: Sequence) -> None:
        """The request is over."""
        self._host_samplers.pop(sequence, None)
        self._last_logits.pop(sequence, None)
        if sequence in self._batch:
            self._batch = []

    def close(self) -> None:
        """Let go of the network."""
        self._captures.close()
        del self.step, self._largest, self._graphs, self._batch_graphs, self._model, self._pool

    def _step_output(
        self,
        rows: DecodeBatch,
        logits: Tensor,
        sequences: abc.Sequence[Sequence],
        host_sampled: Mapping[int, StepFuture],
    ) -> list[StepFuture]:
        """Copy tokens and log-probabilities to pinned memory, behind everything launched so far.

        `host_sampled`: the futures of rows whose tokens are known already.
        """
        counts = [sequence.top_logprobs for sequence in sequences]
        size = len(sequences)
        noted: tuple[Tensor, Tensor, Tensor] | None = None
        if any(counts):
            noted = top_logprobs(logits[:size], rows.token[:size], max(counts))
        tokens, status = to_host(rows.token[:size]), to_host(rows.status[:size])
        if noted is not None:
            noted = to_host(noted[0]), to_host(noted[1]), to_host(noted[2])
        copied = torch.cuda.Event()
        copied.record()

        def wait(row: int) -> tuple[int, TokenLogprobs | None]:
            copied.synchronize()
            if status[row]:
                raise FloatingPointError(NOT_A_NUMBER)
            token = int(tokens[row])
            if noted is None or not counts[row]:
                return token, None
            return token, token_logprobs(token, noted, row, counts[row])

        return [
            host_sampled[row] if row in host_sampled else StepFuture(partial(wait, row))
            for row in range(size)
        ]

    def _backend(self, size: int) -> OpBackend:
        config = self._model.config
        sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        return triton_backend(self._model.device, size, *sizes)

    def _fastest_graphs(self, size: int, flags: SamplerFlags | None) -> StepGraphs:
        """The graphs that are fastest for so many rows, of those that are there.

        More rows can take less time, where other kernels multiply. As a batch may take any graphs that are
        large enough, it never takes longer than a larger one.
        """
        ready = [other for other, graphs in self._graphs.items() if other >= size and graphs.has(flags)]
        fastest = min(ready, default=size, key=lambda other: (self._graphs[other].seconds(flags), other))
        return self._graphs_of_size(fastest)

    def _graphs_of_size(self, size: int) -> StepGraphs:
        """The graphs of so many rows, made when they are first needed; all share weights and buffers."""
        if size not in self._graphs:
            rows = self._rows.first(size)
            step = DecodeStep(self._model, self._pool, rows, self._backend(size), share_with=self._largest)
            self._graphs[size] = StepGraphs(step, rows, self._token_mask, self._shared)
        return self._graphs[size]


def padded_size(rows: int) -> int:
    """The number of rows that there are graphs for: the next power of two."""
    return 1 << (rows - 1).bit_length()


def write_batch(
    rows: DecodeBatch, sequences: abc.Sequence[Sequence], inactive: abc.Container[Sequence] = ()
) -> None:
    """Tell the rows whose they are. From then on only the device changes them.

    Those beyond the sequences are nobody's. Of those in `inactive` no token is drawn.
    """
    missing = len(rows.token) - len(sequences)

    def write(tensor: Tensor, values: Iterable[float], otherwise: float = 0) -> None:
        given = pinned([*values, *[otherwise] * missing], tensor.dtype, tensor.device)
        tensor.copy_(given, non_blocking=True)

    samplings = [sequence.sampling for sequence in sequences]
    write(rows.temperature, (sampling.temperature for sampling in samplings))
    write(rows.top_k, (sampling.top_k for sampling in samplings))
    write(rows.top_p, (sampling.top_p for sampling in samplings), 1)
    write(rows.min_p, (sampling.min_p for sampling in samplings))
    write(rows.repetition_penalty, (sampling.repetition_penalty for sampling in samplings), 1)
    write(rows.seed, (sampling.seed or 0 for sampling in samplings))
    write(rows.step, (sequence.num_generated for sequence in sequences))
    write(rows.min_tokens, (sequence.min_tokens for sequence in sequences))
    write(rows.position, (sequence.num_computed_tokens for sequence in sequences))
    write(rows.slot, (sequence.slot or 0 for sequence in sequences), rows.null_slot)
    write(rows.active, (sequence not in inactive for sequence in sequences))
    write(rows.token, (sequence.last_token or 0 for sequence in sequences))
    write(rows.status, (0 for _ in sequences))


def sampler_flags(sequences: abc.Sequence[Sequence]) -> SamplerFlags | None:
    """Which of `CAPTURED_SAMPLERS` does what requests ask of the sampler; None is greedy, no
    penalty.

    It is `MIN_TOKENS_SAMPLER` where the text of one may not end with its next token.
    """
    if any(sequence.stop_is_forbidden for sequence in sequences):
        return MIN_TOKENS_SAMPLER
    samplings = [sequence.sampling for sequence in sequences]
    if all(sampling.temperature == 0 and sampling.repetition_penalty == 1 for sampling in samplings):
        return None
    top_k = any(sampling.temperature > 0 and sampling.top_k > 0 for sampling in samplings)
    return SamplerFlags() if top_k else DEFAULT_SAMPLER


class _SharedGraphPool:
    """What all graphs share, of which only one runs at a time."""

    pool: Any = None


class _Sampler:
    """Draws tokens from logits `[B, V]` into rows."""

    def __init__(self, logits: Tensor, rows: DecodeBatch, token_mask: Tensor, next_weight: Tensor) -> None:
        """`next_weight`: the matrix that the next step begins with."""
        scratch = kernels.SamplerScratch.make(len(logits), logits.shape[1], logits.device)
        self._given = logits, rows, token_mask, scratch
        self._next_weight = next_weight

    def sample(self, flags: SamplerFlags | None, pdl: bool = False) -> None:
        """Start it; `pdl`: as the end of a step in a graph."""
        if flags is None:
            kernels.greedy(*self._given, penalize=False, pdl=pdl, prefetch=self._next_weight)
        else:
            kernels.sample(*self._given, flags, pdl=pdl, prefetch=self._next_weight)


class StepGraphs:
    """Graphs of so many rows, one for each kind of sampling, captured when somebody first asks for it."""

    def __init__(
        self, step: DecodeStep, rows: DecodeBatch, token_mask: Tensor, shared: _SharedGraphPool
    ) -> None:
        self.step, self.rows = step, rows
        self._sampler = _Sampler(step.logits, rows, token_mask, step.first_weight)
        self._pdl = has_dependent_launch(step.logits.device)
        self._shared = shared
        self._graphs: dict[SamplerFlags | None, torch.cuda.CUDAGraph] = {}
        self._seconds: dict[SamplerFlags | None, float] = {}
        self._logits_graph: torch.cuda.CUDAGraph | None = None

    def capture(self, flags: SamplerFlags | None) -> None:
        """Compile, capture and time, so that nobody has to wait for it later."""
        if flags not in self._graphs:
            graph = self._capture(partial(self._decode_and_sample, flags))
            with dummy_batch(self.rows):
                self._seconds[flags] = seconds_of(graph)
            self._graphs[flags] = graph

    def seconds(self, flags: SamplerFlags | None) -> float:
        """Return the seconds that a step took on padding rows."""
        return self._seconds[flags]

    def has(self, flags: SamplerFlags | None) -> bool:
        """Whether that has been done."""
        return flags in self._graphs

    def compile(self, run: Callable[[], None]) -> None:
        """Do a part of a step on rows that are nobody's."""
        with dummy_batch(self.rows):
            run()

    def launch(self, flags: SamplerFlags | None) -> None:
        """Start a step."""
        self.capture(flags)
        self._graphs[flags].replay()

    def capture_logits(self) -> torch.cuda.CUDAGraph:
        """The graph of a step that stops at the logits, captured if need be."""
        if self._logits_graph is None:
            self._logits_graph = self._capture(self.step.run)
        return self._logits_graph

    def compute_logits(self) -> None:
        """Start a step that stops at the logits."""
        self.capture_logits().replay()

    def sample(self, flags: SamplerFlags | None) -> None:
        """Draw from the logits that are there."""
        self._sampler.sample(flags)

    def _decode_and_sample(self, flags: SamplerFlags | None) -> None:
        self.step.run()
        self._sampler.sample(flags, self._pdl)

    def _capture(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Run once to compile what is new, on rows that are nobody's, then capture."""
        self.compile(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._shared.pool, capture_error_mode="thread_local"):
            run()
        self._shared.pool = self._shared.pool or graph.pool()
        return graph


def seconds_of(graph: torch.cuda.CUDAGraph) -> float:
    """Return the seconds of a graph: the quickest of some replays, after one that warms up."""
    graph.replay()
    took: list[float] = []
    for _ in range(TIMING_REPLAYS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        took.append(float(begin.elapsed_time(end)) / 1000)
    return min(took)


@contextmanager
def dummy_batch(rows: DecodeBatch) -> Iterator[None]:
    """Point all rows at the null slot, token 0 and position 0; restore them on exit."""
    tensors = [value for value in vars(rows).values() if isinstance(value, Tensor)]
    saved = [tensor.clone() for tensor in tensors]
    rows.slot.fill_(rows.null_slot)
    rows.position.fill_(0)
    rows.token.fill_(0)
    try:
        yield
    finally:
        for tensor, values in zip(tensors, saved, strict=True):
            tensor.copy_(values)
