"""Test `app.py --gpus` as a whole: two engines of the shipped model on the CPU behind the router."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from jet.api import Request, SamplingParams, TokenChunk
from jet.engine.remote.client import RemoteConfig, RemoteEngine
from jet.server.router import is_installed
from scripts.processes import free_port
from tests.server.test_router import answers, healthy
from tests.ui.served import wait_until

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not is_installed(), reason="sglang-router is not installed: the router is NOT tested"),
]
ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
OPENING = "Once upon a time, on a hill by the sea, there lived a man who kept a light. "


def sampling(tokens: int) -> SamplingParams:
    return SamplingParams(min_p=0.0, repetition_penalty=1.0, seed=3, max_new_tokens=tokens)


def read(engine: RemoteEngine, request: Request, found: list[TokenChunk]) -> None:
    found += engine.submit(request)


def test_a_killed_engine_loses_only_its_streams_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    command = [sys.executable, "app.py", "--gpus", "cpu,cpu", "--api-only", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--model", "assets/story-model"], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(answers(lambda: healthy(url) == 2), PATIENCE_S)
        play(url, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
    for line in log.read_text().splitlines():
        assert "Traceback" not in line


def play(url: str, log: Path) -> None:
    engine = RemoteEngine(RemoteConfig(f"{url}/v1"))
    try:
        # A story that goes on lands where its beginning is.
        story, share = OPENING * 12, 0.0
        for _ in range(3):
            chunks = list(engine.submit(Request(story, sampling(40), cache_salt="ann")))
            assert chunks[-1].stats.finish_reason in ("length", "stop"), chunks[-1].stats.error
            share = chunks[-1].stats.cached_tokens / chunks[-1].stats.prompt_tokens
            story += "".join(chunk.text for chunk in chunks)
        assert share >= 0.9

        # Streams until both engines write; those of one are killed.
        requests, found, threads = list[Request](), list[list[TokenChunk]](), list[threading.Thread]()
        while len(requests) < 8 and (not requests or min(loads(url)) == 0):
            prompt = f"{len(requests)} times it rained. {OPENING}"
            requests.append(Request(prompt, sampling(700), cache_salt=prompt, min_tokens=700))
            chunks = list[TokenChunk]()
            found.append(chunks)
            threads.append(threading.Thread(target=read, args=(engine, requests[-1], chunks)))
            threads[-1].start()
            wait_until(lambda chunks=chunks: any(one.text for one in chunks), PATIENCE_S)
        assert min(loads(url)) > 0, "both engines write"
        os.kill(engine_processes(log)[0], signal.SIGKILL)
        fresh = list(engine.submit(Request("A new one", sampling(5), cache_salt="bob")))
        assert fresh[-1].stats.finish_reason in ("length", "stop"), "new requests go to the other engine"
        for thread in threads:
            thread.join(PATIENCE_S)
        ends = [chunks[-1].stats for chunks in found]
        lost = [number for number, stats in enumerate(ends) if stats.finish_reason == "error"]
        assert lost and all("broke off in the middle" in str(ends[number].error) for number in lost)
        kept = [stats.tokens for stats in ends if stats.finish_reason != "error"]
        assert kept and all(tokens == 700 for tokens in kept)
        # Retry: the same request, written by the other engine, is the same story.
        again = list(engine.submit(Request(requests[lost[0]].prompt, sampling(60), cache_salt="ann")))
        before = "".join(chunk.text for chunk in found[lost[0]])
        assert "".join(chunk.text for chunk in again).startswith(before[:80]) and before
        assert re.search(r"engine \d has ended \(killed by SIGKILL\)\. It is started again", log.read_text())
    finally:
        engine.close()


def loads(url: str) -> list[int]:
    return [worker["load"] for worker in httpx.get(f"{url}/workers", timeout=5).json()["workers"]]


def engine_processes(log: Path) -> list[int]:
    """Return the ids of the engines' processes, found by the ports in the log."""
    ports = re.findall(r"is at http://127\.0\.0\.1:(\d+)/ and gets", log.read_text())
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                arguments = (folder / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "--behind-router" in arguments and arguments[arguments.index("--port") + 1] in ports:
                found.append(int(folder.name))
    return found
