"""Tokens a second through /v1/completions, streamed, beside the engine's bare loop, in interleaved pairs.

python -m scripts.api_speed [--model assets/story-model] [--streams 1 8 32] [--tokens 128] [--pairs 5]

Server and client share this machine: what the client costs is counted against the server. Where other
programs run beside it, the processor time of the server's thread for a token says more than the ratio.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from jet.api import Engine, Request, SamplingParams
from jet.engine.holder import ModelHolder
from jet.engine.loading import LocalConfig
from jet.server.hosting import Hosting
from jet.server.standalone import launch_api

PROMPT = "Once upon a time, on a hill by the sea, "


def bare(engine: Engine, number: int, tokens: int) -> tuple[float, float]:
    """Read one stream of the engine; seconds to its first token, and how many tokens came."""
    sampling = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=tokens, seed=number)
    started, first, count = time.perf_counter(), 0.0, 0
    for chunk in engine.submit(Request(PROMPT, sampling, min_tokens=tokens, user_id="")):
        count += len(chunk.token_ids)
        if count and not first:
            first = time.perf_counter() - started
    return first, count


def over_http(url: str, number: int, tokens: int) -> tuple[float, float]:
    """Read one stream of the API by a client that only splits lines."""
    body = {"prompt": PROMPT, "max_tokens": tokens, "seed": number, "stream": True, "ignore_eos": True}
    body["stream_options"] = {"include_usage": True}
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.connect()
    started, first, last = time.perf_counter(), 0.0, b""
    connection.request("POST", "/v1/completions", json.dumps(body))
    answer = connection.getresponse()
    while line := answer.readline():
        if line.startswith(b"data: {"):
            first = first or time.perf_counter() - started
            last = line
    connection.close()
    return first, json.loads(last[6:])["usage"]["completion_tokens"]


def measure(run: Callable[[int], tuple[float, float]], streams: int) -> tuple[float, float]:
    """Run streams side by side; tokens a second of all, and the median of their first tokens' seconds."""
    found: list[tuple[float, float]] = []
    threads = [threading.Thread(target=lambda n=n: found.append(run(n))) for n in range(streams)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    return sum(count for _, count in found) / took, statistics.median(first for first, _ in found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for every number of streams. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="assets/story-model")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args(arguments)
    most = max(options.streams)
    handle = ModelHolder().handle(LocalConfig(model=options.model, max_running_requests=most))
    engine = handle.engine()
    server = launch_api(handle, Hosting())
    for streams in options.streams:

        def loop(number: int) -> tuple[float, float]:
            return bare(engine, number, options.tokens)

        def http_stream(number: int) -> tuple[float, float]:
            return over_http(server.url, number, options.tokens)

        measure(loop, streams)
        measure(http_stream, streams)
        ratios, firsts, rates, costs = [], [], [], []
        for number in range(options.pairs):
            pair = [loop, http_stream] if number % 2 else [http_stream, loop]
            results = {}
            for run in pair:
                before = server.cpu_s()
                results[run.__name__] = measure(run, streams)
                if before is not None and run is http_stream:
                    costs.append(((server.cpu_s() or 0) - before) / (streams * options.tokens))
            ratios.append(results["http_stream"][0] / results["loop"][0])
            firsts.append(results["http_stream"][1] - results["loop"][1])
            rates.append((results["loop"][0], results["http_stream"][0]))
        own, api = (statistics.median(rate[side] for rate in rates) for side in (0, 1))
        ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f})"
        print(
            f"{streams} streams: engine {own:,.0f} tok/s, API {api:,.0f} tok/s, ratio {ratio}, "
            f"first token {statistics.median(firsts) * 1e3:+.1f} ms"
            + (f", HTTP's processor time {min(costs) * 1e6:.0f} µs a token" if costs else ""),
            flush=True,
        )
    server.close()
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
