"""`decode`: tokens a second after the first one.

Measured in turn, all with the same prompt and settings:

- the engine: a request is submitted and its stream read as the page reads it; the rate is the engine's own
  figure, from the first token to the last, so without the prompt;
- the bare loop: the engine's runner called token by token, no engine, no text; what the engine costs is
  1 - engine / bare;
- with `--baseline`, what jet/bench/baselines.py says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jet.api import Engine, RequestStats, SamplingParams
from jet.bench import networks
from jet.bench.bandwidth import Ceiling, measure_ceiling
from jet.bench.baselines import Baseline, baselines
from jet.bench.bytes_moved import decode_floor
from jet.bench.networks import Network
from jet.bench.options import Options
from jet.bench.requests import write
from jet.bench.result import Figure, Report
from jet.bench.samples import Contender, Spread, alternate
from jet.engine.model_runner import ModelRunner


def measure(options: Options) -> Report:
    """Load the network, let everyone decode in turn, and compare them with the floor."""
    network = networks.load(options)
    floor = decode_floor(
        network.model, options.context, options.tokens, network.runner.decode_step.saved_bytes
    )
    ceiling = measure_ceiling(floor, network.device, networks.decode_threads(network.model))
    others = baselines(network, options) if options.baseline else []
    stats: list[RequestStats] = []
    with networks.serve(network) as engine:
        bare = partial(decode_bare, network.runner, network.prompt, options.sampling, network.prefill_chunk)
        contenders: list[Contender] = [
            lambda: decode_engine(engine, network.prompt, options.sampling, stats.append),
            lambda: {"bare": bare()},
            *(partial(_decode_baseline, other) for other in others),
        ]
        spreads = alternate(contenders, options.warm_up, options.runs)
    return _report(options, network, spreads, others, ceiling, stats[-1])


def decode_engine(
    engine: Engine, prompt: list[int], sampling: SamplingParams, note: Callable[[RequestStats], None]
) -> Mapping[str, float]:
    """Tokens a second of one request, as the engine says; its last stats go to `note`."""
    stats = write(engine, prompt, sampling)
    note(stats)
    assert stats.mean_tokens_per_second is not None  # there are two tokens or more
    return {"engine": stats.mean_tokens_per_second}


def decode_bare(
    runner: ModelRunner,
    prompt: list[int],
    sampling: SamplingParams,
    prefill_chunk: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Tokens a second of a runner alone, from the first token to the last."""
    return read_and_write(runner, prompt, sampling, prefill_chunk, clock)["decode"]


def read_and_write(
    runner: ModelRunner,
    prompt: list[int],
    sampling: SamplingParams,
    prefill_chunk: int,
    clock: Callable[[], float] = time.perf_counter,
    note: Callable[[Mapping[str, int]], None] = lambda memory: None,
    writers: int = 1,
) -> dict[str, float]:
    """Tokens a second of reading a prompt, its first token included, and of the tokens after that.

    With several writers each reads the prompt, one after the other, and all write together.
    """
    handles: list[Any] = []
    try:
        handles += [runner.allocate(sampling, 0) for _ in range(writers)]
        started = clock()
        for handle in handles:
            for begin in range(0, len(prompt), prefill_chunk):
                runner.prefill(handle, prompt[begin : begin + prefill_chunk])
        _step(runner, handles)
        read = clock()
        for _ in range(sampling.max_new_tokens - 1):
            _step(runner, handles)
        ended = clock()
        note(runner.state_bytes(handles[0]))
    finally:
        for handle in handles:
            runner.free(handle)
    return {
        "prefill": writers * len(prompt) / (read - started),
        "decode": writers * (sampling.max_new_tokens - 1) / (ended - read),
    }


def _step(runner: ModelRunner, handles: list[Any]) -> None:
    """A token of each; raises what kept one of them from it."""
    for outcome in runner.decode(handles):
        if isinstance(outcome, Exception):
            raise outcome


def _decode_baseline(other: Baseline) -> Mapping[str, float]:
    return {other.name: other.run().tokens_per_second}


def _report(
    options: Options,
    network: Network,
    spreads: dict[str, Spread],
    others: list[Baseline],
    ceiling: Ceiling,
    stats: RequestStats,
) -> Report:
    labels = {
        "engine": "through the engine",
        "bare": "bare loop",
        **{other.name: other.label for other in others},
    }
    engine = spreads["engine"]
    overhead = engine.per(spreads["bare"]).map(lambda part: 1 - part)
    ratios = {"overhead": Figure("the engine's share: 1 - engine / bare", "", overhead)}
    for other in others:
        label = f"engine / {other.label}"
        ratios[f"engine/{other.name}"] = Figure(label, "", engine.per(spreads[other.name]))
    return Report(
        options,
        network.info,
        {name: Figure(labels[name], "tok/s", spread) for name, spread in spreads.items()},
        ceiling,
        {name: ceiling.share(1 / spreads[name].median) for name in ("engine", "bare")},
        ratios,
        stats,
    )
