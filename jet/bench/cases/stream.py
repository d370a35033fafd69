"""`stream`: measure streaming latency for a client that reads chunks at 20 Hz, as the page does.

A gap is the time between two chunks with text. The last chunk's delay is the time from the moment the runner
returns the last token to the arrival of the chunk. This delay includes all work of the engine at the end of a
request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from jet.api import RequestStats, SamplingParams, Stream
from jet.bench import networks
from jet.bench.bandwidth import measure_bandwidth
from jet.bench.bytes_moved import decode_bytes_moved
from jet.bench.options import BenchError, Options
from jet.bench.requests import POLL_INTERVAL_S, check_finished, token_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import percentile, run_interleaved
from jet.engine.interfaces import Runner

_LABELS = {
    "tokens_per_second": ("tokens, from the first to the last", "tok/s"),
    "chunks_per_second": ("chunks with text", "1/s"),
    "gap_p50": ("gap between chunks, half are below", "s"),
    "gap_p99": ("gap between chunks, 99 % are below", "s"),
    "gap_max": ("gap between chunks, the longest", "s"),
    "last_chunk": ("last chunk after the last token", "s"),
}


class TimedRunner:
    """A runner that records when it returned the last token."""

    def __init__(self, runner: Runner, clock: Callable[[], float] = time.monotonic) -> None:
        self._runner = runner
        self._clock = clock
        self.last_token = 0.0

    def decode(self, handles: Sequence[Any]) -> list[int | Exception]:
        """Decode the next tokens and record the time."""
        outcomes = self._runner.decode(handles)
        self.last_token = self._clock()
        return outcomes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def measure(options: Options) -> CaseResult:
    """Load the network and measure its streams."""
    network = networks.load(options)
    bytes_moved = decode_bytes_moved(
        network.model, options.context, options.tokens, network.runner.decode_step.saved_bytes
    )
    bandwidth = measure_bandwidth(bytes_moved, network.device, networks.decode_threads(network.model))
    runner = TimedRunner(network.runner)
    stats: list[RequestStats] = []
    with networks.serve(network, runner) as engine:

        def run_stream() -> Mapping[str, float]:
            stream = engine.submit(token_request(network.prompt, options.sampling))
            arrivals, last = read(stream, options.sampling)
            stats.append(last)
            return describe(arrivals, last, runner.last_token)

        samples_by_name = run_interleaved([run_stream], options.warm_up, options.runs)
    metrics = {name: Metric(*_LABELS[name], samples) for name, samples in samples_by_name.items()}
    utilization = bandwidth.utilization(1 / samples_by_name["tokens_per_second"].median)
    return CaseResult(
        options, network.info, metrics, bandwidth, {"tokens_per_second": utilization}, stats=stats[-1]
    )


def read(
    stream: Stream, sampling: SamplingParams, clock: Callable[[], float] = time.monotonic
) -> tuple[list[float], RequestStats]:
    """Read a stream; return the time of each chunk with text, and the last stats."""
    arrivals = [(clock(), chunk) for chunk in stream.chunks(POLL_INTERVAL_S)]
    with_text = [moment for moment, chunk in arrivals if chunk.token_ids]
    return with_text, check_finished(arrivals[-1][1], sampling.max_new_tokens)


def describe(arrivals: list[float], stats: RequestStats, last_token: float) -> dict[str, float]:
    """Return the figures of one stream. Raises BenchError if it had only one chunk with text.

    `arrivals`: when each chunk with text arrived. `last_token`: when the runner returned the last token. Both
    are in seconds of the same clock.
    """
    gaps = [later - earlier for earlier, later in pairwise(arrivals)]
    if not gaps or stats.mean_tokens_per_second is None:
        raise BenchError("All tokens came in one chunk: measure a longer stream with --tokens.")
    return {
        "tokens_per_second": stats.mean_tokens_per_second,
        "chunks_per_second": len(gaps) / sum(gaps),
        "gap_p50": percentile(gaps, 50),
        "gap_p99": percentile(gaps, 99),
        "gap_max": max(gaps),
        "last_chunk": arrivals[-1] - last_token,
    }
