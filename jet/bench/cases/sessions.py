"""`sessions`: measure the time to the first token of a writer's actions on a story of `--context` tokens.

Each round has a new user, who takes these actions in order:

- `new`: continue the story; nothing is cached, so all of it is prefilled;
- `continue`: append the generated tokens and 27 new ones, about 20 words, and continue;
- `retry`: submit the prompt of `continue` with another seed;
- `undo`: submit the prompt of `new` with another seed;
- `branches`: submit the prompt of `continue` several times at once; the time is until all have a first token;
- `afresh`: submit the prompt of `continue` for another user, for whom nothing is cached. This is the time
  without a prefix cache.

The prompts are given as ids, which are parsed before the clock starts, so tokenizing is not included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from jet.api import Engine, Request, RequestStats, SamplingParams, Stream
from jet.bench import networks
from jet.bench.cases.prefill import first_token
from jet.bench.options import CONTINUE_TOKENS, BenchError, Options
from jet.bench.requests import check_finished, token_request
from jet.bench.result import CaseResult, Metric
from jet.bench.samples import run_interleaved

BRANCHES = 4
_LABELS = {
    "new": "a new story",
    "continue": "Continue with 20 new words",
    "retry": "Retry",
    "undo": "Undo, then on from there",
    "branches": f"{BRANCHES} branches, the last of them",
    "afresh": "Continue, nothing cached",
}


def measure(options: Options) -> CaseResult:
    """Load the network and measure the actions of a new user in each round."""
    network = networks.load(replace(options, batch=BRANCHES))
    stats: list[RequestStats] = []
    with networks.serve(network) as engine:
        users = (f"user {number}" for number in count())
        samples_by_name = run_interleaved(
            [lambda: run_round(engine, network.prompt, options.sampling, users, stats)],
            options.warm_up,
            options.runs,
        )
    metrics = {name: Metric(_LABELS[name], "s", samples) for name, samples in samples_by_name.items()}
    ratios = {
        f"afresh/{name}": Metric(
            f"{_LABELS['afresh']} / {_LABELS[name]}",
            "",
            samples_by_name["afresh"].ratio_to(samples_by_name[name]),
        )
        for name in ("continue", "retry", "undo", "branches")
    }
    return CaseResult(options, network.info, metrics, ratios=ratios, stats=stats[-1])


def run_round(
    engine: Engine,
    story: Sequence[int],
    sampling: SamplingParams,
    users: Iterator[str],
    stats: list[RequestStats],
) -> Mapping[str, float]:
    """Run all actions of a new user; return action → seconds to its first token.

    Takes two users from `users`, the second for `afresh`. Appends the last stats of each request to `stats`.
    Raises BenchError if fewer tokens were cached than expected.
    """
    user, other = next(users), next(users)

    def build(prompt: Sequence[int], seed: int, user: str) -> Request:
        request = replace(token_request(prompt, replace(sampling, seed=seed)), cache_salt=user)
        engine.count_tokens(request.prompt)  # parses it
        return request

    def submit(prompt: Sequence[int], seed: int, user: str) -> Stream:
        return engine.submit(build(prompt, seed, user))

    def finish(stream: Stream, expected_cached: int) -> tuple[list[int], float]:
        chunks = list(stream)
        last = check_finished(chunks[-1], sampling.max_new_tokens)
        if last.cached_tokens < expected_cached:
            raise BenchError(f"{last.cached_tokens:,} tokens were cached, and {expected_cached:,} should be.")
        stats.append(last)
        return [token for chunk in chunks for token in chunk.token_ids], first_token(last)

    written, new = finish(submit(story, 0, user), 0)
    longer = [*story, *written, *story[:CONTINUE_TOKENS]]
    _, continued = finish(submit(longer, 0, user), len(longer) - CONTINUE_TOKENS - 1)
    _, retry = finish(submit(longer, 1, user), len(longer))
    _, undo = finish(submit(story, 1, user), len(story))
    variants = [build(longer, 2 + variant, user) for variant in range(BRANCHES)]
    streams = [engine.submit(variant) for variant in variants]
    branches = max(finish(stream, len(longer))[1] for stream in streams)
    _, afresh = finish(submit(longer, 0, other), 0)
    return {
        "new": new,
        "continue": continued,
        "retry": retry,
        "undo": undo,
        "branches": branches,
        "afresh": afresh,
    }
