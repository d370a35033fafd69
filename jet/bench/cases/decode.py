"""`decode`: measure the decode rate in tokens a second, from the first token to the last.

The following are measured in turn, all with the same prompt and settings:

- the engine: a request is submitted, and its stream is read as the page does; the rate is the engine's
  figure;
- the bare loop: the engine's runner is called token by token, without the engine and without detokenizing;
  the overhead of the engine is 1 - engine / bare;
- with `--baseline`, the baselines of jet/bench/baselines.py.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jet.api import Engine, RequestStats, SamplingParams
from jet.bench import networks
from jet.bench.bandwidth import Bandwidth, measure_bandwidth
from jet.bench.baselines import Baseline, baselines
from jet.bench.bytes_moved import decode_bytes_moved
from jet.bench.networks import Network
from jet.bench.options import Options
from jet.bench.requests import run_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import Case, Samples, run_interleaved
from jet.engine.model_runner import ModelRunner


def measure(options: Options) -> CaseResult:
    """Load the network; measure engine, bare loop and baselines in turn; compute bandwidth utilization."""
    network = networks.load(options)
    bytes_moved = decode_bytes_moved(
        network.model, options.context, options.tokens, network.runner.decode_step.saved_bytes
    )
    bandwidth = measure_bandwidth(bytes_moved, network.device, networks.decode_threads(network.model))
    compared = baselines(network, options) if options.baseline else []
    stats: list[RequestStats] = []
    with networks.serve(network) as engine:
        bare = partial(
            decode_with_runner, network.runner, network.prompt, options.sampling, network.prefill_chunk
        )
        cases: list[Case] = [
            lambda: decode_engine(engine, network.prompt, options.sampling, stats.append),
            lambda: {"bare": bare()},
            *(partial(_decode_baseline, other) for other in compared),
        ]
        samples_by_name = run_interleaved(cases, options.warm_up, options.runs)
    return _report(options, network, samples_by_name, compared, bandwidth, stats[-1])


def decode_engine(
    engine: Engine, prompt: list[int], sampling: SamplingParams, on_stats: Callable[[RequestStats], None]
) -> Mapping[str, float]:
    """Decode one request through the engine; return its tokens a second under the name "engine".

    Passes the request's last stats to `on_stats`.
    """
    stats = run_request(engine, prompt, sampling)
    on_stats(stats)
    assert stats.mean_tokens_per_second is not None  # there are two tokens or more
    return {"engine": stats.mean_tokens_per_second}


def decode_with_runner(
    runner: ModelRunner,
    prompt: list[int],
    sampling: SamplingParams,
    prefill_chunk: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Prefill and decode with a runner alone; return tokens a second from the first token to the last.

    The prompt is prefilled in chunks of `prefill_chunk` tokens.
    """
    return time_prefill_and_decode(runner, prompt, sampling, prefill_chunk, clock)["decode"]


def time_prefill_and_decode(
    runner: ModelRunner,
    prompt: list[int],
    sampling: SamplingParams,
    prefill_chunk: int,
    clock: Callable[[], float] = time.perf_counter,
    on_memory: Callable[[Mapping[str, int]], None] = lambda memory: None,
    batch: int = 1,
) -> dict[str, float]:
    """Prefill and decode with a runner alone; return the tokens a second of "prefill" and of "decode".

    The rates are those of all sequences together. The first token counts as prefill.

    Args:
        runner: the runner to measure.
        prompt: the token ids of the prompt of every sequence.
        sampling: the sampling parameters; `max_new_tokens` tokens are generated.
        prefill_chunk: the most tokens of a prefill chunk.
        clock: returns the time in seconds.
        on_memory: is called at the end with the bytes of the first sequence's states, by kind.
        batch: the number of sequences, which are prefilled one after the other and decoded together.
    """
    sequences: list[Any] = []
    try:
        sequences += [runner.allocate(sampling, 0) for _ in range(batch)]
        started = clock()
        for sequence in sequences:
            for begin in range(0, len(prompt), prefill_chunk):
                runner.prefill(sequence, prompt[begin : begin + prefill_chunk])
        _step(runner, sequences)
        read = clock()
        for _ in range(sampling.max_new_tokens - 1):
            _step(runner, sequences)
        ended = clock()
        on_memory(runner.state_bytes(sequences[0]))
    finally:
        for sequence in sequences:
            runner.free(sequence)
    return {
        "prefill": batch * len(prompt) / (read - started),
        "decode": batch * (sampling.max_new_tokens - 1) / (ended - read),
    }


def _step(runner: ModelRunner, sequences: list[Any]) -> None:
    """Decode one token of each sequence. Raises the error of the first sequence that fails."""
    for outcome in runner.decode(sequences):
        if isinstance(outcome, Exception):
            raise outcome


def _decode_baseline(other: Baseline) -> Mapping[str, float]:
    return {other.name: other.run().tokens_per_second}


def _report(
    options: Options,
    network: Network,
    samples_by_name: dict[str, Samples],
    compared: list[Baseline],
    bandwidth: Bandwidth,
    stats: RequestStats,
) -> CaseResult:
    labels = {
        "engine": "through the engine",
        "bare": "bare loop",
        **{other.name: other.label for other in compared},
    }
    engine = samples_by_name["engine"]
    overhead = engine.ratio_to(samples_by_name["bare"]).map(lambda part: 1 - part)
    ratios = {"overhead": Metric("the engine's share: 1 - engine / bare", "", overhead)}
    for other in compared:
        label = f"engine / {other.label}"
        ratio = engine.ratio_to(samples_by_name[other.name])
        ratios[f"engine/{other.name}"] = Metric(label, "", ratio)
        if other.nbytes is not None:
            bytes_ratio = ratio.map(partial(operator.mul, bandwidth.bytes_moved.total / other.nbytes))
            ratios[f"bytes/{other.name}"] = Metric("the same in bytes a second", "", bytes_ratio)
    return CaseResult(
        options,
        network.info,
        {name: Metric(labels[name], "tok/s", samples) for name, samples in samples_by_name.items()},
        bandwidth,
        {name: bandwidth.utilization(1 / samples_by_name[name].median) for name in ("engine", "bare")},
        ratios,
        stats,
    )
