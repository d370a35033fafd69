"""`sessions`: the time to the first token of what a writer does with a story of `--context` tokens.

Every round is a new user's, who has the story read and goes on with it:

- `new`: nothing is resident, all of it is read;
- `continue`: with the tokens that were written and 27 more, about 20 words;
- `retry`: the same once more, with another seed;
- `undo`: the story as it was before;
- `branches`: several ways on from there at once, until the last of them has its first token;
- `afresh`: `continue` for a user of whom nothing is resident: what it takes without sessions.

The prompts come as ids, which are parsed before: tokenising is no part of this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from jet.api import Engine, Request, RequestStats, SamplingParams, Stream
from jet.bench import networks
from jet.bench.cases.prefill import first_token
from jet.bench.options import NEW_WORDS, BenchError, Options
from jet.bench.requests import finished, request
from jet.bench.result import Figure, Report
from jet.bench.samples import alternate

BRANCHES = 4
_LABELS = {
    "new": "a new story",
    "continue": "Continue with 20 new words",
    "retry": "Retry",
    "undo": "Undo, then on from there",
    "branches": f"{BRANCHES} branches, the last of them",
    "afresh": "Continue, nothing resident",
}


def measure(options: Options) -> Report:
    """Load the network and let one user after the other write."""
    network = networks.load(replace(options, batch=BRANCHES))
    stats: list[RequestStats] = []
    with networks.serve(network) as engine:
        users = (f"user {number}" for number in count())
        spreads = alternate(
            [lambda: write(engine, network.prompt, options.sampling, users, stats)],
            options.warm_up,
            options.runs,
        )
    figures = {name: Figure(_LABELS[name], "s", spread) for name, spread in spreads.items()}
    ratios = {
        f"afresh/{name}": Figure(
            f"{_LABELS['afresh']} / {_LABELS[name]}", "", spreads["afresh"].per(spreads[name])
        )
        for name in ("continue", "retry", "undo", "branches")
    }
    return Report(options, network.info, figures, ratios=ratios, stats=stats[-1])


def write(
    engine: Engine,
    story: Sequence[int],
    sampling: SamplingParams,
    users: Iterator[str],
    stats: list[RequestStats],
) -> Mapping[str, float]:
    """Seconds to the first token of everything that a user does; the last stats go to `stats`."""
    user, other = next(users), next(users)

    def asking(prompt: Sequence[int], seed: int, user: str) -> Request:
        asked = replace(request(prompt, replace(sampling, seed=seed)), cache_salt=user)
        engine.count_tokens(asked.prompt)  # parses it
        return asked

    def ask(prompt: Sequence[int], seed: int, user: str) -> Stream:
        return engine.submit(asking(prompt, seed, user))

    def finish(stream: Stream, resident: int) -> tuple[list[int], float]:
        chunks = list(stream)
        last = finished(chunks[-1], sampling.max_new_tokens)
        if last.cached_tokens < resident:
            raise BenchError(f"{last.cached_tokens:,} tokens were resident, and {resident:,} should be.")
        stats.append(last)
        return [token for chunk in chunks for token in chunk.token_ids], first_token(last)

    written, new = finish(ask(story, 0, user), 0)
    longer = [*story, *written, *story[:NEW_WORDS]]
    _, going_on = finish(ask(longer, 0, user), len(longer) - NEW_WORDS - 1)
    _, retry = finish(ask(longer, 1, user), len(longer))
    _, undo = finish(ask(story, 1, user), len(story))
    ways = [asking(longer, 2 + way, user) for way in range(BRANCHES)]
    streams = [engine.submit(way) for way in ways]
    branches = max(finish(stream, len(longer))[1] for stream in streams)
    _, afresh = finish(ask(longer, 0, other), 0)
    return {
        "new": new,
        "continue": going_on,
        "retry": retry,
        "undo": undo,
        "branches": branches,
        "afresh": afresh,
    }
