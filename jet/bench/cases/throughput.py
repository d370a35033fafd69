"""`throughput`: measure the total decode rate of many concurrent requests through the engine.

`--batch` requests with prompts of `--context` tokens are submitted at once. Their prefill is skipped, since
it would take minutes for many long stories. Their states, keys and values are random numbers instead, with
which a step takes as long. The measured time is that of `--tokens` steps of the full batch, from the end of
the step before them to the end of the last; then all requests are aborted. The bytes of a step are the
weights once, and the states, keys and values of each request.

With `--full-attention`, every layer of the `--config`'s network is a full attention layer.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jet.api import EngineInfo, RequestStats
from jet.bench import networks
from jet.bench.bandwidth import measure_bandwidth
from jet.bench.bytes_moved import batched, decode_bytes_moved
from jet.bench.options import BenchError, Options
from jet.bench.requests import POLL_INTERVAL_S, check_finished, token_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import run_interleaved
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence as EngineSequence
from jet.token_ids import Tokens


class FilledRunner:
    """A runner that skips the prefill of all but a prompt's last token, and records when batch steps ended.

    Attributes:
        step_ends: the end times of the steps of the full batch, in seconds of the clock.
        done: an event that is set when `step_ends` has one more entry than `steps`.
    """

    def __init__(
        self, runner: ModelRunner, writers: int, steps: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._runner, self._writers, self._steps, self._clock = runner, writers, steps, clock
        self.step_ends: list[float] = []
        self.done = threading.Event()
        fill_with_noise(runner)

    def begin(self) -> None:
        """Discard the recorded steps and begin a new measurement."""
        self.step_ends.clear()
        self.done.clear()

    @torch.inference_mode()
    def restore_prefix(self, handle: EngineSequence, prompt: Tokens) -> int:
        """Mark all tokens of the prompt but the last as prefilled; return their number.

        Reserves pages for these tokens.
        """
        assert handle.slot is not None
        length = len(prompt) - 1
        self._runner._pool.reserve(handle.slot, length)
        handle.token_ids, handle.num_computed_tokens = array("i", prompt[:length].tobytes()), length
        handle.last_snapshot = length  # what was not read is not worth keeping
        return length

    def decode(self, handles: Sequence[Any]) -> list[int | Exception]:
        """Decode the next tokens; if the batch is full, record when the step ended."""
        outcomes = self._runner.decode(handles)
        if len(handles) == self._writers and not self.done.is_set():
            self.step_ends.append(self._clock())
            if len(self.step_ends) > self._steps:
                self.done.set()
        return outcomes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


@torch.inference_mode()
def fill_with_noise(runner: ModelRunner) -> None:
    """Fill the state pool with random values of about the magnitude that a network writes."""
    for memory in runner._pool.layers:
        for tensor in vars(memory).values():
            tensor.normal_(std=0.1)


def measure(options: Options) -> CaseResult:
    """Load the network, measure batches repeatedly, and compute the utilization of a step."""
    network = networks.load(options)
    saved = network.runner.decode_step.saved_bytes
    bytes_moved = batched(
        decode_bytes_moved(network.model, options.context, options.tokens, saved), options.batch
    )
    bandwidth = measure_bandwidth(bytes_moved, network.device, networks.decode_threads(network.model))
    runner = FilledRunner(network.runner, options.batch, options.tokens)
    max_new_tokens = network.model.config.max_position_embeddings - options.context
    sampling = replace(options.sampling, max_new_tokens=min(options.new_tokens, max_new_tokens))
    prompt_request, stats = token_request(network.prompt, sampling), list[RequestStats]()
    with networks.serve(network, runner) as engine:

        def write() -> Mapping[str, float]:
            runner.begin()
            streams = [engine.submit(prompt_request) for _ in range(options.batch)]
            while not runner.done.wait(POLL_INTERVAL_S) and _has_requests(engine.info()):
                pass
            for stream in streams:
                stream.abort()
            for stream in streams:
                (*_, last) = stream
                stats.append(check_finished(last, None))
            return {"step": mean_step_s(runner.step_ends)}

        steps = run_interleaved([write], options.warm_up, options.runs)["step"]
    rate = steps.map(lambda seconds: options.batch / seconds)
    metrics = {
        "engine": Metric(f"{options.batch} requests together", "tok/s", rate),
        "writer": Metric("each of them", "tok/s", steps.map(lambda seconds: 1 / seconds)),
        "step": Metric("one step", "s", steps),
    }
    return CaseResult(
        options,
        network.info,
        metrics,
        bandwidth,
        {"engine": bandwidth.utilization(steps.median)},
        {},
        stats[-1],
    )


def _has_requests(info: EngineInfo) -> bool:
    """Return whether a request is running or waiting; a request just submitted waits at first."""
    return bool(info.active_requests or info.queued_requests)


def mean_step_s(step_ends: Sequence[float]) -> float:
    """Return the mean seconds between the ends of steps. Raises BenchError for fewer than 10 ends."""
    if len(step_ends) < 10:
        raise BenchError(
            f"All requests were decoded together for {len(step_ends)} steps only: measure more with --tokens."
        )
    return float(np.mean(np.diff(step_ends)))
