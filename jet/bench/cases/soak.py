"""`soak`: serve many users with random arrivals, lengths and aborts, and check the results.

There are `--batch` users, and each sends requests for `--seconds` per round. A request is a new story of up
to `--context` tokens (one in four of full length) or continues the user's last one. It decodes up to
`--tokens` tokens greedily; one in five is aborted. A gap is the time between two tokens of a story.

Each user's first request and one in four of the others ask for log-probabilities. After the round, some of
these are generated again, alone and without cached prefixes. Where a token differs, both candidates must be
so nearly equally likely that rounding decides (`jet.bench.batch_invariance`).

The measurement fails if a request is lost, cut, stuck or mixed up, if a repeated request differs by more than
rounding explains, or if memory is not freed.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from jet.api import Engine, Request, RequestStats, SamplingParams, TokenLogprobs
from jet.bench import networks
from jet.bench.batch_invariance import BatchInvarianceCheck, Completion
from jet.bench.options import BenchError, Options
from jet.bench.requests import token_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import percentile, run_interleaved
from jet.engine.model_runner import ModelRunner

JOIN_TIMEOUT_S = 120.0  # after a round, for the stories that are still being written
NUM_RECHECKED = 8  # stories of a round that are written again
_LABELS = {
    "rate": ("all requests together", "tok/s"),
    "stories": ("stories that were finished", "1/s"),
    "gap_p50": ("gap between tokens, half are below", "s"),
    "gap_p99": ("gap between tokens, 99 % are below", "s"),
    "gap_max": ("gap between tokens, the longest", "s"),
    "first_p99": ("first token, 99 % are below", "s"),
    "differing": (f"of {NUM_RECHECKED} written again alone, those that differ", ""),
    "margin": ("  how much less likely their tokens are there, at most", ""),
    "error": ("  how far the same tokens before those are off, at most", ""),
}


class GapRunner:
    """A runner that records the seconds between consecutive tokens of each request."""

    def __init__(self, runner: ModelRunner, clock: Callable[[], float] = time.perf_counter) -> None:
        self._runner, self._clock = runner, clock
        self._last: dict[Any, float] = {}
        self.gaps: list[float] = []

    def decode(self, handles: Sequence[Any]) -> list[int | Exception]:
        """Decode the next tokens and record the time."""
        outcomes = self._runner.decode(handles)
        now = self._clock()
        for handle in handles:
            if handle in self._last:
                self.gaps.append(now - self._last[handle])
            self._last[handle] = now
        return outcomes

    def free(self, handle: Any, keep_snapshot: bool = True) -> None:
        """Free a request, and drop the time of its last token."""
        self._last.pop(handle, None)
        self._runner.free(handle, keep_snapshot)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


@dataclass
class Round:
    """Results of all requests of one round.

    Attributes:
        completions: the completions with log-probabilities and at least one token.
        num_finished: the number of requests that generated as many tokens as they asked for.
        tokens: the number of all generated tokens.
        stats: the last stats of each request.
        violations: messages about violated requirements.
    """

    completions: list[Completion] = field(default_factory=list)
    num_finished: int = 0
    tokens: int = 0
    stats: list[RequestStats] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def measure(options: Options) -> CaseResult:
    """Load the network and run the rounds."""
    options = replace(options, greedy=True)
    network = networks.load(options)
    runner = GapRunner(network.runner)
    numbers, done = count(), list[Round]()
    with networks.serve(network, runner) as engine:
        check = BatchInvarianceCheck(engine, options.sampling)

        def soak() -> Mapping[str, float]:
            runner.gaps.clear()
            done.append(run_round(engine, options, next(numbers), network.model.config.vocab_size))
            check_memory(engine, network.runner)
            metrics = describe(done[-1], runner.gaps, options.seconds)
            return metrics | check.compare(choose_completions(done[-1]))

        samples_by_name = run_interleaved([soak], options.warm_up, options.runs)
    metrics = {name: Metric(*_LABELS[name], samples) for name, samples in samples_by_name.items()}
    return CaseResult(options, network.info, metrics, stats=done[-1].stats[-1])


def run_round(engine: Engine, options: Options, number: int, vocabulary: int) -> Round:
    """Run one round. Raises BenchError if a request was lost, mixed up or did not end.

    Args:
        engine: the engine that serves the requests.
        options: the number of users, the seconds of the round and the lengths of requests.
        number: the round's number, from which random choices are seeded.
        vocabulary: the number of token ids to choose from.
    """
    result, lock = Round(), threading.Lock()
    until = time.monotonic() + options.seconds

    def write(writer: int) -> None:
        rng = random.Random(f"{number} {writer}")
        user, story = f"{number} {writer}", list[int]()
        while time.monotonic() < until:
            prompt = choose_prompt(rng, story, options.context, vocabulary)
            sampling = replace(options.sampling, max_new_tokens=rng.randint(1, options.tokens))
            stop_after = rng.randint(0, sampling.max_new_tokens) if rng.random() < 0.2 else None
            wants_logprobs = not story or rng.random() < 0.25
            request = replace(
                token_request(prompt, sampling), cache_salt=user, top_logprobs=int(wants_logprobs)
            )
            tokens, details, last = follow(engine, request, stop_after)
            with lock:
                result.tokens += len(tokens)
                result.stats.append(last)
                result.violations += violations_of(len(tokens), last, sampling, stop_after)
                result.num_finished += last.finish_reason == "length"
                if tokens and wants_logprobs:
                    logprobs = [detail.sampled.logprob for detail in details]
                    result.completions.append(Completion(prompt, tokens, logprobs))
            story = [*prompt, *tokens]
            time.sleep(rng.uniform(0, 0.2))

    threads = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(options.batch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()) + JOIN_TIMEOUT_S)
    stuck = sum(thread.is_alive() for thread in threads)
    if stuck or result.violations or not result.stats:
        messages = [f"{stuck} requests are stuck"] * bool(stuck) + result.violations[:3]
        raise BenchError(f"What must not happen did: {'; '.join(messages) or 'nothing was written'}.")
    return result


def choose_prompt(rng: random.Random, story: list[int], context: int, vocabulary: int) -> list[int]:
    """Return the user's story, perhaps shortened, with 9 tokens added, or a new random prompt.

    A prompt has at most `context` tokens.
    """
    if story and rng.random() < 0.5:
        kept = story[: rng.randint(1, len(story))] if rng.random() < 0.3 else story
        if len(kept) + 9 <= context:
            return [*kept, *rng.choices(range(vocabulary), k=9)]
    length = context if rng.random() < 0.25 else rng.randint(1, context)
    return rng.choices(range(vocabulary), k=length)


def follow(
    engine: Engine, request: Request, stop_after: int | None
) -> tuple[list[int], list[TokenLogprobs], RequestStats]:
    """Read the stream of a request; return its tokens, log-probabilities and last stats.

    `stop_after`: the number of tokens after which to abort the request; None for never.
    """
    stream = engine.submit(request)
    tokens: list[int] = []
    details: list[TokenLogprobs] = []
    last = RequestStats()
    for chunk in stream:
        tokens += chunk.token_ids
        details += chunk.logprobs
        last = chunk.stats
        if stop_after is not None and len(tokens) >= stop_after:
            stream.abort()
    return tokens, details, last


def violations_of(
    tokens: int, last: RequestStats, sampling: SamplingParams, stop_after: int | None
) -> list[str]:
    """Return a message for each requirement that a finished request of `tokens` tokens violates."""
    if last.tokens != tokens:
        return [f"{tokens} of {last.tokens} tokens arrived"]
    if last.finish_reason == "length" and tokens == sampling.max_new_tokens:
        return []
    if last.finish_reason == "aborted" and stop_after is not None:
        return []
    return [f"a story ended with {last.finish_reason} after {tokens} tokens: {last.error}"]


def check_memory(engine: Engine, runner: ModelRunner) -> None:
    """Raise BenchError if a request still runs after 10 seconds, or pages are in use when none runs."""
    deadline = time.monotonic() + 10
    while engine.info().active_requests + engine.info().queued_requests:
        if time.monotonic() > deadline:
            raise BenchError("A request is stuck: its stream is closed, and it has not ended.")
        time.sleep(0.01)
    leaked = runner.pages_in_use
    if leaked:
        raise BenchError(f"{leaked} pages of memory have not come back.")


def describe(result: Round, gaps: list[float], seconds: float) -> dict[str, float]:
    """Return the figures of a round of `seconds` seconds, of which `gaps` are the seconds between tokens.

    Raises BenchError if too few tokens were generated.
    """
    first = [one.time_to_first_token_s for one in result.stats if one.time_to_first_token_s is not None]
    if not gaps or not first:
        raise BenchError("Too little was written to say anything: measure longer with --seconds.")
    return {
        "rate": result.tokens / seconds,
        "stories": result.num_finished / seconds,
        "gap_p50": percentile(gaps, 50),
        "gap_p99": percentile(gaps, 99),
        "gap_max": max(gaps),
        "first_p99": percentile(first, 99),
    }


def choose_completions(result: Round) -> list[Completion]:
    """Choose at most NUM_RECHECKED completions of a round for the check, with a fixed seed."""
    return random.Random(0).sample(result.completions, min(NUM_RECHECKED, len(result.completions)))
