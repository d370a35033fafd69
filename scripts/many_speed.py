"""Compare the tokens per second of several engines behind the router with those of one engine.

python -m scripts.many_speed --gpus 0,1 --model jet-ai/Jet-Nemotron-2B [--streams 64] [--tokens 256]

The script also measures what a killed engine costs. `--streams` is a number per engine. With two GPUs and 64,
one engine writes 64 streams alone; then both together write 128 streams, and 64 streams. Every stream has a
prompt of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from scripts.processes import end, free_port

ROOT = Path(__file__).resolve().parents[1]
START_S = 900.0


class Fleet:
    """A running `app.py --gpus`."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def workers(self) -> list[dict[str, object]]:
        """Return the router's list of its engines."""
        found: list[dict[str, object]] = httpx.get(f"{self.url}/workers", timeout=10).json()["workers"]
        return found

    def healthy(self) -> int:
        """Return how many engines the router uses; 0 while it is not there."""
        try:
            return sum(bool(one["is_healthy"]) for one in self.workers())
        except (httpx.HTTPError, KeyError, ValueError):
            return 0

    def wait(self, engines: int) -> float:
        """Wait until the router uses this many engines; return the seconds that took.

        Raises SystemExit if they do not start within `START_S` seconds.
        """
        started = time.perf_counter()
        while self.healthy() < engines:
            if self.process.poll() is not None or time.perf_counter() - started > START_S:
                raise SystemExit(f"The engines did not start.\n{self.log.read_text()[-3000:]}")
            time.sleep(0.2)
        return time.perf_counter() - started


@contextmanager
def fleet(gpus: str, options: Sequence[str]) -> Iterator[Fleet]:
    """Run engines and router until the block is left."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "app.py", "--gpus", gpus, "--api-only", "--port", str(port), *options]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            running = Fleet(f"http://127.0.0.1:{port}", process, log)
            running.wait(gpus.count(",") + 1)
            yield running
        finally:
            end(process, signal.SIGTERM)


async def stream(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> tuple[int, bool]:
    """Read one stream; return the number of tokens that came, and True if the stream reached its end."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    count, ended = 0, False
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    count = json.loads(line[6:]).get("usage", {}).get("completion_tokens", count)
                ended = ended or line == "data: [DONE]"
    except httpx.HTTPError:
        pass
    return count, ended


async def run(url: str, model: str, streams: int, tokens: int, name: str) -> list[tuple[int, bool]]:
    """Read `streams` streams side by side; return the result of `stream` for each."""
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as client:
        prompts = [
            f"{name} {number}: once upon a time there was a house by the sea" for number in range(streams)
        ]
        return list(await asyncio.gather(*(stream(client, model, one, tokens) for one in prompts)))


def rate(running: Fleet, model: str, streams: int, tokens: int, rounds: int) -> float:
    """Return the median tokens per second of all streams together, after a short round as warm-up.

    Raises SystemExit if a stream breaks off.
    """
    asyncio.run(run(running.url, model, streams, 16, "warm"))
    rates = []
    for number in range(rounds):
        started = time.perf_counter()
        found = asyncio.run(run(running.url, model, streams, tokens, f"round {number}, tale"))
        rates.append(sum(count for count, _ in found) / (time.perf_counter() - started))
        if not all(ended for _, ended in found):
            raise SystemExit("A stream broke off.")
    return statistics.median(rates)


async def lose_one(running: Fleet, model: str, streams: int, tokens: int) -> None:
    """Kill an engine in mid-stream, and print what that costs."""
    writing = asyncio.create_task(run(running.url, model, streams, tokens, "lost"))
    await asyncio.sleep(2)
    before = await asyncio.to_thread(running.workers)
    port = str(before[0]["url"]).rpartition(":")[2]
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    own = [line for line in listing if "--behind-router" in line and f"--port {port}" in line]
    os.kill(int(own[0].split()[0]), signal.SIGKILL)
    started = time.perf_counter()
    fresh = await run(running.url, model, 1, 4, "fresh")
    print(
        f"next request after the kill: {time.perf_counter() - started:.2f} s, ended {fresh[0][1]}", flush=True
    )
    found = await writing
    lost = sum(not ended for _, ended in found)
    print(f"{streams} streams: {lost} broke off (the engine had {before[0]['load']})", flush=True)
    took = await asyncio.to_thread(running.wait, len(before))
    print(f"the killed engine is back after {took:.1f} s more", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print rates, their ratio and the cost of a lost engine. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpus", default="0,1")
    parser.add_argument("--model", default="assets/story-model")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    engines = options.gpus.count(",") + 1
    given = ["--model", options.model, "--max-running-requests", str(options.streams)]
    with fleet(options.gpus.partition(",")[0], given) as running:
        model = httpx.get(f"{running.url}/v1/models").json()["data"][0]["id"]
        one = rate(running, model, options.streams, options.tokens, options.rounds)
    print(f"1 engine, {options.streams} streams: {one:,.0f} tok/s", flush=True)
    with fleet(options.gpus, given) as running:
        for streams in (options.streams * engines, options.streams):
            many = rate(running, model, streams, options.tokens, options.rounds)
            print(
                f"{engines} engines, {streams} streams: {many:,.0f} tok/s, {many / one:.2f} times", flush=True
            )
        asyncio.run(lose_one(running, model, options.streams, 4 * options.tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
