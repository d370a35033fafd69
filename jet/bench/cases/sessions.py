"""`sessions`: the time to the first token of what a writer does with a story of `--context` tokens.

Every round is a new user's, who has the story read and goes on with it:

- `new`: nothing is resident, all of it is read;
- `continue`: with the tokens that were written and 27 more, about 20 words;
- `retry`: the same once more, with another seed;
- `undo`: the story as it was before;
- `branches`: several ways on from there at once, until the last of them has its first token;
- `afresh`: `continue` for a user of whom nothing is resident: what it takes without sessions.

The prompts come as ids, which are parsed before: tokenizing is no part of this.
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
    "afresh": "Continue, nothing resident",
}


def measure(options: Options) -> CaseResult:
    """Load the network and measure one session after the other, each of a new user."""
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
    """Run all actions of a user; return the seconds to each first token. The last stats go to `stats`."""
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
            raise BenchError(
                f"{last.cached_tokens:,} tokens were resident, and {expected_cached:,} should be."
            )
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
