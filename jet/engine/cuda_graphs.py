"""CudaGraphDecoder: the decode step as captured CUDA graphs that overlap with the host."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jet.api import TokenLogprobs
from jet.cache.pinned import to_host
from jet.cache.state_pool import StatePool
from jet.engine.chain import from_numbers
from jet.engine.decode_step import DecodeStep
from jet.engine.kept_logits import KeptLogits, rows_to_keep
from jet.engine.row_inputs import write_batch, write_inputs
from jet.engine.sampler import HostSampler, SpecialTokens, draw, make_host_sampler
from jet.engine.sequence import Sequence
from jet.engine.step_output import StepFuture, token_logprobs
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.ops.backends import OpBackend, has_dependent_launch, triton_backend
from jet.ops.decode_batch import DecodeBatch, SamplerFlags
from jet.ops.logprobs import top_logprobs
from jet.ops.sampling import NOT_A_NUMBER
from jet.ops.triton import fused_sampling as kernels
from jet.ops.triton.cache_keys import settle_keys
from jet.ops.triton.final_samplers import draw_final
from jet.ops.triton.shape_logits import ShapeBuffers

# Each batch uses the variant that has all filters it needs: the page's defaults, greedy, or all filters.
# Three variants keep the number of kernels to compile and of graphs to capture small.
DEFAULT_SAMPLER = SamplerFlags(uses_penalty=True, uses_top_k=False, uses_top_p=True)
CAPTURED_SAMPLERS: tuple[SamplerFlags | None, ...] = (DEFAULT_SAMPLER, None, SamplerFlags())
# Used while a request in the batch has not generated its `min_tokens` yet.
MIN_TOKENS_SAMPLER = SamplerFlags(uses_min_tokens=True)
GRAPH_SIZES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # rows
TIMING_REPLAYS = 3  # replays


class CudaGraphDecoder:
    """Runs decode steps as CUDA graphs: from tokens on the device to the next ones, without the host.

    A step's inputs are in a `DecodeBatch` on the device, which the last kernel of the step updates. So the
    next step of the same requests can be launched at once, and the host reads tokens from pinned memory as
    they arrive. There are graphs for the batch sizes in `GRAPH_SIZES`; padding rows use the null slot.

    Compiling and capturing takes too long to do while requests run. The constructor makes the graphs of one
    row and of the largest batch; `capture_next` makes the others while the engine is idle. Until then a batch
    uses captured graphs of more rows.
    """

    overlaps = True

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        pool: StatePool,
        stop_ids: frozenset[int],
        dry_sequence_breakers: frozenset[int],
        rows: int,
    ) -> None:
        settle_keys()
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model, self._pool, self._stop_ids = model, pool, stop_ids
        self._token_mask = torch.zeros(
            pool.null_slot + 1, config.vocab_size, dtype=torch.uint8, device=model.device
        )
        self._special_tokens = SpecialTokens(config.vocab_size, stop_ids, dry_sequence_breakers, model.device)
        # Of requests with settings that the kernels do not support.
        self._host_samplers: dict[Sequence, HostSampler] = {}
        self._batch: list[Sequence] = []  # sequences whose rows are on the device, as of their last step
        self._batch_graphs: StepGraphs | None = None  # the graphs that ran that step
        self._kept_logits = KeptLogits()
        self._shared = _SharedGraphPool()
        self._graphs: dict[int, StepGraphs] = {}
        self._rows = DecodeBatch.make(padded_size(rows), model.device, stop_ids, pool.null_slot)
        self._largest: DecodeStep | None = None
        self._largest = self._graphs_of_size(padded_size(rows)).step
        self.step = self._graphs_of_size(1).step
        self.kernels = {"decode": f"{self._backend(1).name}, one CUDA graph", "sampling": "triton"}
        # Samples the first token of a request, which follows a prefill and not a step.
        self._first_batch = DecodeBatch.make(1, model.device, stop_ids, pool.null_slot)
        self._first_logits = torch.zeros(1, config.vocab_size, dtype=torch.float32, device=model.device)
        self._first_sampler = Sampler(
            self._first_logits,
            self._first_batch,
            self._token_mask,
            self.step.first_weight,
            self._special_tokens.xtc_special,
        )
        for flags in CAPTURED_SAMPLERS:
            self._first_sampler.sample(flags)  # compiles; the row uses the null slot
            for size in dict.fromkeys((padded_size(rows), 1)):
                self._graphs_of_size(size).capture(flags)
        self._captures = self._capture_all(padded_size(rows))

    def add(self, sequence: Sequence) -> None:
        """Prepare the sampler state of a new request."""
        assert sequence.slot is not None
        if sequence.sampling.repetition_penalty != 1:
            self._token_mask[sequence.slot].zero_()
        sampling, barred = sequence.sampling, sequence.min_tokens > 0
        changed = barred or (sequence.raw_logprobs and sampling.repetition_penalty != 1)
        # The kernels bar and penalize tokens by changing logits, which log-probabilities must not show.
        noted = changed and sequence.top_logprobs > 0
        counts = sampling.presence_penalty or sampling.frequency_penalty
        on_host = sampling.dry_multiplier or counts or sequence.forbidden[1]
        on_host = on_host or sequence.row_samplers is None
        if on_host or sequence.logit_bias or sequence.word_bias or noted:
            self._host_samplers[sequence] = make_host_sampler(sequence, self._special_tokens)

    def append_prompt(self, sequence: Sequence, ids: Tensor) -> None:
        """Add prefilled tokens `[T]` to the tokens that the request's penalties apply to."""
        if sequence in self._host_samplers:
            self._host_samplers[sequence].append_prompt(ids)
        if sequence.sampling.repetition_penalty != 1:
            token_mask = self._token_mask[sequence.slot]
            # Not `token_mask[ids] = 1`, which would synchronize.
            token_mask.index_fill_(0, ids, 1)
            token_mask.index_fill_(0, self._special_tokens.stop_ids, 0)

    def sample(self, sequence: Sequence) -> StepFuture:
        """Draw the sequence's next token from its `logits` `[1, V]`, which a prefill has left."""
        assert sequence.logits is not None
        if sequence in self._host_samplers:
            logits = sequence.logits.float()
            return StepFuture.completed(partial(draw, self._host_samplers[sequence], logits, sequence))
        if sequence.barred_now:
            return self._sample_barred(sequence, sequence.logits.float())
        self._first_logits.copy_(sequence.logits)
        flags = sampler_flags([sequence])
        write_inputs(self._first_batch, flags, self._first_sampler, [sequence])
        self._first_sampler.sample(flags)
        (future,) = self._step_output(self._first_batch, self._first_logits, [sequence], {})
        return future

    def _sample_barred(self, sequence: Sequence, logits: Tensor) -> StepFuture:
        """Draw a token on the host, which can bar tokens, for a sequence that the device samples otherwise.

        The token mask of the sequence on the device is updated, too.
        """
        sampler = make_host_sampler(sequence, self._special_tokens)
        ids = torch.tensor(sequence.token_ids, dtype=torch.int64).to(logits.device)
        sampler.append_prompt(ids)
        step = StepFuture.completed(partial(draw, sampler, logits, sequence))
        if sampler.token_mask is not None:
            self._token_mask[sequence.slot].copy_(sampler.token_mask[0])
        return step

    @torch.inference_mode()
    def capture_next(self) -> bool:
        """Compile or capture the next missing kernel or graph; False if none is missing."""
        return next(self._captures, False)

    def _capture_all(self, largest: int) -> Generator[bool, None, None]:
        sizes = sorted({largest, *(size for size in GRAPH_SIZES if size < largest)}, reverse=True)
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
        """Start a decode step; return a future of each sequence's next token.

        The next step cannot overlap with this step if the host draws a token of this step, or if this step
        draws a request's last allowed token.
        """
        flags = sampler_flags(sequences)
        graphs = self._fastest_graphs(padded_size(len(sequences)), flags)
        if self._batch != sequences or self._batch_graphs is not graphs:
            write_inputs(graphs.rows, flags, graphs, sequences, self._host_samplers)
            self._batch, self._batch_graphs = list(sequences), graphs
        ending = [row for row, sequence in enumerate(sequences) if sequence.samples_last_token]
        kept = rows_to_keep(sequences)
        self._kept_logits.begin(sequences)
        if not ending and not any(sequence in self._host_samplers for sequence in sequences):
            self._launch_keeping(graphs, sequences, kept, flags)
            return self._step_output(graphs.rows, graphs.step.logits, sequences, {})
        return self._sample_on_host(graphs, sequences, {*ending, *kept})

    def _launch_keeping(
        self,
        graphs: StepGraphs,
        sequences: abc.Sequence[Sequence],
        kept: abc.Collection[int],
        flags: SamplerFlags | None,
    ) -> None:
        """Start a step and keep the logits of the rows in `kept` as they were before the sampler.

        If the sampler writes into these logits, the step and the sampler are launched one after the other.
        """
        written = any(_sampler_writes(sequences[row]) for row in kept)
        if written:
            graphs.compute_logits()
        else:
            graphs.launch(flags)
        self._keep(graphs, sequences, kept)
        if written:
            graphs.sample(flags)

    def _keep(self, graphs: StepGraphs, sequences: abc.Sequence[Sequence], rows: abc.Collection[int]) -> None:
        for row in rows:
            self._kept_logits.keep(sequences[row], graphs.step.logits[row : row + 1])

    def compute_logits(self, sequence: Sequence) -> Tensor:
        """Run the sequence's last token and return the logits `[1, V]`; draw nothing."""
        graphs = self._graphs_of_size(1)
        write_batch(graphs.rows, [sequence])
        self._batch = []  # the rows have to be written again
        graphs.compute_logits()
        return graphs.step.logits.clone()

    def _sample_on_host(
        self, graphs: StepGraphs, sequences: abc.Sequence[Sequence], kept: abc.Collection[int]
    ) -> list[StepFuture]:
        """Run a step whose logits are kept or sampled on the host, so that the next step cannot overlap.

        The host draws the tokens of sequences with a host sampler, the device those of the others. Logits of
        the rows in `kept` are copied before the device's sampler writes penalties into them.
        """
        graphs.compute_logits()
        self._keep(graphs, sequences, kept)
        others = [sequence for sequence in sequences if sequence not in self._host_samplers]
        if others:
            graphs.sample(sampler_flags(others))
        host_sampled = {}
        for row, sequence in enumerate(sequences):
            if sequence in self._host_samplers:
                given = self._host_samplers[sequence], graphs.step.logits[row : row + 1], sequence
                host_sampled[row] = StepFuture.completed(partial(draw, *given))
        self._batch = []  # the rows have to be written again
        return self._step_output(graphs.rows, graphs.step.logits, sequences, host_sampled)

    def last_logits(self, sequence: Sequence) -> Tensor | None:
        """Return the logits `[1, V]` after the sequence's computed tokens; None if they were not kept.

        The logits are from before penalties. They are kept in the step that draws a request's last allowed
        token. In batches of up to `MARKED_ROWS` rows, they are kept in every step of a sequence that may be
        rolled back.
        """
        return self._kept_logits.get(sequence)

    def can_overlap(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Return whether the device draws the tokens of all these sequences."""
        return not any(sequence in self._host_samplers for sequence in sequences)

    def batch_is_on_device(self, sequences: abc.Sequence[Sequence]) -> bool:
        """Return whether the `DecodeBatch` of the next graph has the rows of exactly these sequences."""
        if self._batch != sequences or not self.can_overlap(sequences):
            return False
        return (
            self._fastest_graphs(padded_size(len(sequences)), sampler_flags(sequences)) is self._batch_graphs
        )

    def remove(self, sequence: Sequence) -> None:
        """Drop everything that is kept for a sequence, such as its host sampler."""
        self._host_samplers.pop(sequence, None)
        self._kept_logits.begin([sequence])
        if sequence in self._batch:
            self._batch = []

    def close(self) -> None:
        """Release the network, the pool and all graphs."""
        self._captures.close()
        del self.step, self._largest, self._graphs, self._batch_graphs, self._model, self._pool

    def _step_output(
        self,
        rows: DecodeBatch,
        logits: Tensor,
        sequences: abc.Sequence[Sequence],
        host_sampled: Mapping[int, StepFuture],
    ) -> list[StepFuture]:
        """Queue copies of tokens and log-probabilities to pinned memory; return a future for each row.

        If a sampler has a state, the future's `result` stores the state after the token in the sequence. So a
        future that is dropped changes nothing. `host_sampled`: the futures, by row, of tokens that the host
        has drawn.
        """
        sequences = list(sequences)  # of this step, whatever becomes of the batch
        counts = [sequence.top_logprobs for sequence in sequences]
        size = len(sequences)
        noted: tuple[Tensor, Tensor, Tensor] | None = None
        if any(counts):
            noted = top_logprobs(logits[:size], rows.token[:size], max(counts))
        tokens, status = to_host(rows.token[:size]), to_host(rows.status[:size])
        states, following = None, list[int]()
        if any(sequence.sampling.has_state for sequence in sequences):
            states = to_host(rows.sampler_state[:size])
            following = [sequence.num_generated + 1 for sequence in sequences]
        if noted is not None:
            noted = to_host(noted[0]), to_host(noted[1]), to_host(noted[2])
        copied = torch.cuda.Event()
        copied.record()

        def wait(row: int) -> tuple[int, TokenLogprobs | None]:
            copied.synchronize()
            if status[row]:
                raise FloatingPointError(NOT_A_NUMBER)
            token, sampling = int(tokens[row]), sequences[row].sampling
            if states is not None and sampling.has_state:
                state = from_numbers(sampling, *states[row].tolist())
                sequences[row].sampler_states[following[row]] = state
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
        kind = self._model.dtype, self._model.quantization
        return triton_backend(self._model.device, size, *sizes, *kind)

    def _fastest_graphs(self, size: int, flags: SamplerFlags | None) -> StepGraphs:
        """Return the fastest captured graphs for at least `size` rows.

        Graphs of more rows can be faster, since they use other kernels for their products. A batch may use
        any graphs that are large enough, so it is never slower than a larger batch.
        """
        ready = [other for other, graphs in self._graphs.items() if other >= size and graphs.has(flags)]
        fastest = min(ready, default=size, key=lambda other: (self._graphs[other].seconds(flags), other))
        return self._graphs_of_size(fastest)

    def _graphs_of_size(self, size: int) -> StepGraphs:
        """Return the graphs of `size` rows, made on first use; all share weights and buffers."""
        if size not in self._graphs:
            rows = self._rows.first(size)
            step = DecodeStep(self._model, self._pool, rows, self._backend(size), share_with=self._largest)
            special = self._special_tokens.xtc_special
            self._graphs[size] = StepGraphs(step, rows, self._token_mask, self._shared, special)
        return self._graphs[size]


def padded_size(rows: int) -> int:
    """Return the batch size of the graphs for `rows`: the next of `GRAPH_SIZES`, or a multiple of 64."""
    return next((size for size in GRAPH_SIZES if size >= rows), -(-rows // 64) * 64)


def sampler_flags(sequences: abc.Sequence[Sequence]) -> SamplerFlags | None:
    """Return the flags of the sampler that a batch needs; None for greedy without penalty.

    A batch without shape or final samplers gets one of `CAPTURED_SAMPLERS`; all other flags are captured for
    the first batch that needs them. While stop tokens are forbidden
    for one of the sequences, the flags are those of `MIN_TOKENS_SAMPLER` instead.
    """
    samplings = [sequence.sampling for sequence in sequences]
    used = [sequence.row_kernels for sequence in sequences]
    top_k, shapes, final = (any(row[number] for row in used) for number in range(3))
    if any(sequence.stop_is_forbidden for sequence in sequences):
        return replace(MIN_TOKENS_SAMPLER, uses_shape=shapes, uses_final=final)
    if shapes or final:
        return SamplerFlags(uses_shape=shapes, uses_final=final)
    if all(sampling.temperature == 0 and sampling.repetition_penalty == 1 for sampling in samplings):
        return None
    return SamplerFlags() if top_k else DEFAULT_SAMPLER


def _sampler_writes(sequence: Sequence) -> bool:
    """Return whether the sampler changes the sequence's logits: by a penalty, or to forbid stop tokens."""
    return sequence.sampling.repetition_penalty != 1 or sequence.stop_is_forbidden


class _SharedGraphPool:
    """The memory pool that all graphs share, since only one runs at a time."""

    pool: Any = None


class Sampler:
    """Draws a token from each row of logits `[B, V]` and updates the batch."""

    def __init__(
        self,
        logits: Tensor,
        rows: DecodeBatch,
        token_mask: Tensor,
        next_weight: Tensor,
        xtc_special: Tensor | None = None,
    ) -> None:
        """Allocate buffers.

        Args:
            logits: float32 `[B, V]`.
            rows: the rows' parameters and states.
            token_mask: uint8 `[slots, V]`, the tokens to penalize.
            next_weight: the first matrix of the next step, to be prefetched.
            xtc_special: bool `[V]`, tokens that XTC must not exclude; needed for `SamplerFlags.uses_final`.
        """
        scratch = kernels.SamplerScratch.make(len(logits), logits.shape[1], logits.device)
        self._given = logits, rows, token_mask, scratch
        self._next_weight = next_weight
        self._xtc_special = None if xtc_special is None else xtc_special.view(torch.uint8)
        self._shape: ShapeBuffers | None = None

    @property
    def shape(self) -> ShapeBuffers:
        """Return the buffers of samplers that change the logits before drawing; allocated on first use."""
        if self._shape is None:
            logits = self._given[0]
            self._shape = ShapeBuffers.make(len(logits), logits.shape[1], logits.device)
        return self._shape

    def sample(self, flags: SamplerFlags | None, pdl: bool = False) -> None:
        """Launch the sampler's kernels for `flags`; None for greedy without penalty.

        `pdl`: whether to use programmatic dependent launch, for a sampler at the end of a step in a graph.
        """
        if flags is None:
            kernels.greedy(*self._given, penalize=False, pdl=pdl, prefetch=self._next_weight)
        else:
            shape = self.shape if flags.uses_shape else None
            kernels.sample(*self._given, flags, pdl=pdl, prefetch=self._next_weight, shape=shape)
            if flags.uses_final:
                assert self._xtc_special is not None
                draw_final(*self._given, self._xtc_special, pdl=pdl, shape=shape)


class StepGraphs:
    """The graphs for one number of rows, one for each sampler, captured on first use."""

    def __init__(
        self,
        step: DecodeStep,
        rows: DecodeBatch,
        token_mask: Tensor,
        shared: _SharedGraphPool,
        xtc_special: Tensor,
    ) -> None:
        self.step, self.rows = step, rows
        self._sampler = Sampler(step.logits, rows, token_mask, step.first_weight, xtc_special)
        self._pdl = has_dependent_launch(step.logits.device)
        self._shared = shared
        self._graphs: dict[SamplerFlags | None, torch.cuda.CUDAGraph] = {}
        self._seconds: dict[SamplerFlags | None, float] = {}
        self._logits_graph: torch.cuda.CUDAGraph | None = None

    def capture(self, flags: SamplerFlags | None) -> None:
        """Compile, capture and time the graph for a sampler, unless that has been done."""
        if flags not in self._graphs:
            graph = self._capture(partial(self._decode_and_sample, flags))
            with dummy_batch(self.rows):
                self._seconds[flags] = seconds_of(graph)
            self._graphs[flags] = graph

    def seconds(self, flags: SamplerFlags | None) -> float:
        """Return the seconds that the sampler's graph took on padding rows when it was captured."""
        return self._seconds[flags]

    def has(self, flags: SamplerFlags | None) -> bool:
        """Return whether the graph for a sampler has been captured."""
        return flags in self._graphs

    def compile(self, run: Callable[[], None]) -> None:
        """Run a part of a step on padding rows, which compiles its kernels."""
        with dummy_batch(self.rows):
            run()

    def launch(self, flags: SamplerFlags | None) -> None:
        """Start a step, capturing its graph first if need be."""
        self.capture(flags)
        self._graphs[flags].replay()

    def capture_logits(self) -> torch.cuda.CUDAGraph:
        """Return the graph of a step that ends at the logits, captured on first use."""
        if self._logits_graph is None:
            self._logits_graph = self._capture(self.step.run)
        return self._logits_graph

    def compute_logits(self) -> None:
        """Start a step that ends at the logits."""
        self.capture_logits().replay()

    @property
    def shape(self) -> ShapeBuffers:
        """Return the buffers, by row, of samplers that change the logits before drawing."""
        return self._sampler.shape

    def sample(self, flags: SamplerFlags | None) -> None:
        """Draw tokens from the current logits."""
        self._sampler.sample(flags)

    def _decode_and_sample(self, flags: SamplerFlags | None) -> None:
        self.step.run()
        self._sampler.sample(flags, self._pdl)

    def _capture(self, run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Run `run` once on padding rows, which compiles its kernels, then capture it."""
        self.compile(run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._shared.pool, capture_error_mode="thread_local"):
            run()
        self._shared.pool = self._shared.pool or graph.pool()
        return graph


def seconds_of(graph: torch.cuda.CUDAGraph) -> float:
    """Return the seconds of the fastest of `TIMING_REPLAYS` replays, after one that warms up."""
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
