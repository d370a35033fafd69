"""`throughput`: tokens a second of many writers together, through the engine.

`--batch` requests are submitted at once, each with `--context` tokens before it. Those are not read, which
for many long stories takes minutes: their states, keys and values are random numbers, and a step takes as
long over them. Counted are `--tokens` steps that all writers take part in, from the end of the first to the
end of the last; then all are stopped. The floor is that of one such step: weights once, all else per writer.

With `--full-attention` the network of a `--config` has full attention in every layer, in the same engine.
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
from jet.bench.bandwidth import measure_ceiling
from jet.bench.bytes_moved import decode_floor, together
from jet.bench.options import BenchError, Options
from jet.bench.requests import PAGE_INTERVAL_S, finished, request
from jet.bench.result import Figure, Report
from jet.bench.samples import alternate
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence as Story
from jet.token_ids import Tokens


class FilledRunner:
    """A runner that takes prompts for read but for their last token, and notes when steps of all ended.

    Attributes:
        ends: when they did.
        enough: that there have been `steps` of them.
    """

    def __init__(
        self, runner: ModelRunner, writers: int, steps: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._runner, self._writers, self._steps, self._clock = runner, writers, steps, clock
        self.ends: list[float] = []
        self.enough = threading.Event()
        fill(runner)

    def begin(self) -> None:
        """Count anew."""
        self.ends.clear()
        self.enough.clear()

    @torch.inference_mode()
    def restore_prefix(self, handle: Story, prompt: Tokens) -> int:
        """All but the last token has been read, or so it seems."""
        assert handle.slot is not None
        length = len(prompt) - 1
        self._runner._pool.reserve(handle.slot, length)
        handle.token_ids, handle.num_computed_tokens = array("i", prompt[:length].tobytes()), length
        handle.last_snapshot = length  # what was not read is not worth keeping
        return length

    def decode(self, handles: Sequence[Any]) -> list[int | Exception]:
        """The next tokens."""
        outcomes = self._runner.decode(handles)
        if len(handles) == self._writers and not self.enough.is_set():
            self.ends.append(self._clock())
            if len(self.ends) > self._steps:
                self.enough.set()
        return outcomes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


@torch.inference_mode()
def fill(runner: ModelRunner) -> None:
    """Give memory that was never written numbers of the size that a network leaves there."""
    for memory in runner._pool.layers:
        for tensor in vars(memory).values():
            tensor.normal_(std=0.1)


def measure(options: Options) -> Report:
    """Load the network, let all write at once, again and again, and compare a step with its floor."""
    network = networks.load(options)
    saved = network.runner.decode_step.saved_bytes
    floor = together(decode_floor(network.model, options.context, options.tokens, saved), options.batch)
    ceiling = measure_ceiling(floor, network.device, networks.decode_threads(network.model))
    runner = FilledRunner(network.runner, options.batch, options.tokens)
    room = network.model.config.max_position_embeddings - options.context
    sampling = replace(options.sampling, max_new_tokens=min(options.new_tokens, room))
    asked, stats = request(network.prompt, sampling), list[RequestStats]()
    with networks.serve(network, runner) as engine:

        def write() -> Mapping[str, float]:
            runner.begin()
            streams = [engine.submit(asked) for _ in range(options.batch)]
            while not runner.enough.wait(PAGE_INTERVAL_S) and _going_on(engine.info()):
                pass
            for stream in streams:
                stream.abort()
            for stream in streams:
                (*_, last) = stream
                stats.append(finished(last, None))
            return {"step": seconds_a_step(runner.ends)}

        steps = alternate([write], options.warm_up, options.runs)["step"]
    rate = steps.map(lambda seconds: options.batch / seconds)
    figures = {
        "engine": Figure(f"{options.batch} writers together", "tok/s", rate),
        "writer": Figure("each of them", "tok/s", steps.map(lambda seconds: 1 / seconds)),
        "step": Figure("one step", "s", steps),
    }
    return Report(
        options, network.info, figures, ceiling, {"engine": ceiling.share(steps.median)}, {}, stats[-1]
    )


def _going_on(info: EngineInfo) -> bool:
    """Whether anybody writes, or waits to: who was just submitted does not write yet."""
    return bool(info.active_requests or info.queued_requests)


def seconds_a_step(ends: Sequence[float]) -> float:
    """The mean time between two ends. Raises BenchError if there are too few to say."""
    if len(ends) < 10:
        raise BenchError(f"All writers were writing for {len(ends)} steps only: measure more with --tokens.")
    return float(np.mean(np.diff(ends)))
