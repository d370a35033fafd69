"""Measure the tokens per second of streams through /v1/completions, in pairs with the engine's own loop.

python -m scripts.api_speed [--model assets/story-model] [--streams 1 8 32] [--tokens 128] [--pairs 5]

Server and client share this machine, so the client's cost is counted against the server. If other programs
run as well, the processor time that the server's thread takes for a token says more than the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from jet.api import Engine, Request, SamplingParams
from jet.engine.holder import ModelHolder
from jet.engine.loading import LocalConfig
from jet.server.hosting import Hosting
from jet.server.standalone import launch_api
from scripts.load.stream_client import PROMPT, StreamClient


def read(engine: Engine, seed: int, tokens: int) -> float:
    """Read one stream of the engine; return the seconds to its first token."""
    sampling = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=tokens, seed=seed)
    started, first = time.perf_counter(), 0.0
    for chunk in engine.submit(Request(PROMPT, sampling, min_tokens=tokens, user_id="")):
        if chunk.token_ids and not first:
            first = time.perf_counter() - started
    return first


def bare(engine: Engine, streams: int, tokens: int) -> tuple[float, list[float]]:
    """Read `streams` streams of the engine side by side.

    Returns the seconds that all of them took, and for each stream the seconds to its first token.
    """
    with ThreadPoolExecutor(streams) as pool:
        started = time.perf_counter()
        firsts = list(pool.map(partial(read, engine, tokens=tokens), range(streams)))
        return time.perf_counter() - started, firsts


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for every number of streams. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="assets/story-model")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args(arguments)
    tokens, most = options.tokens, max(options.streams)
    handle = ModelHolder().handle(LocalConfig(model=options.model, max_running_requests=most))
    engine = handle.engine()
    server = launch_api(handle, Hosting())
    client = StreamClient(server.url)
    for streams in options.streams:
        bare(engine, streams, tokens)
        client.run(streams, tokens)
        pairs: list[tuple[float, float]] = []  # tokens a second of engine and API
        delays, costs = [], []
        for number in range(options.pairs):
            own = bare(engine, streams, tokens) if number % 2 else None
            before = server.cpu_s() or 0.0
            api = client.run(streams, tokens)
            costs.append(((server.cpu_s() or 0.0) - before) / (streams * tokens))
            own = own or bare(engine, streams, tokens)
            pairs.append((streams * tokens / own[0], streams * tokens / api[0]))
            delays.append(statistics.median(api[1]) - statistics.median(own[1]))
        ratios = [through / alone for alone, through in pairs]
        alone, through = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        print(
            f"{streams} streams: engine {alone:,.0f} tok/s, API {through:,.0f} tok/s, "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f}), first token "
            f"{statistics.median(delays) * 1e3:+.1f} ms ({min(delays) * 1e3:+.1f} … {max(delays) * 1e3:+.1f})"
            + (f", HTTP's processor time {min(costs) * 1e6:.0f} µs a token" if any(costs) else ""),
            flush=True,
        )
    client.close()
    server.close()
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
