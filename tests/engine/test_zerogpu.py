"""Test an engine whose GPU is lent: the page as ZeroGPU runs it, and the messages if no GPU is free."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client

from jet.api import Request, RequestError, RequestStats, SamplingParams, TokenChunk
from jet.engine import zerogpu
from jet.engine.loading import LocalConfig
from jet.engine.zerogpu import ZeroGpuConfig, ZeroGpuEngine, generate, loan_seconds
from jet.modeling import load_model
from jet.modeling.quantization import count_parameters
from tests.conftest import ROOT

CHOICE = LocalConfig("assets/story-model", device="cpu")
REQUEST = Request("The old man", SamplingParams(max_new_tokens=12, seed=3))


def engine_over(generate: zerogpu.Generate) -> ZeroGpuEngine:
    return ZeroGpuConfig(CHOICE, generate).create()


def tell(choice: LocalConfig, request: Request, interval_s: float) -> Iterator[TokenChunk]:
    for number in range(100):
        yield TokenChunk(f" w{number}", (number,), RequestStats(phase="decode", tokens=number + 1, seed=3))


def test_what_passes_can_be_pickled_and_the_numbers_travel_with_the_text() -> None:
    seen: list[TokenChunk] = []

    def lent(*arguments: object) -> Iterator[TokenChunk]:
        for chunk in generate(*pickle.loads(pickle.dumps(arguments))):
            yield pickle.loads(pickle.dumps(chunk))

    try:
        seen = list(engine_over(lent).submit(REQUEST))
    finally:
        zerogpu._GPU_HOLDER.close()
    last = seen[-1].stats
    assert (last.finish_reason, last.tokens, last.seed) == ("length", 12, 3)
    assert last.recurrent_bytes > 0 and last.mean_tokens_per_second is not None
    assert "".join(chunk.text for chunk in seen).strip()


def test_no_weights_are_here_and_the_panel_is_told() -> None:
    engine = engine_over(tell)
    info = engine.info()
    assert (info.placement, info.device, info.load_s) == ("zerogpu", "cuda", None)
    assert info.model == "assets/story-model"
    assert info.parameters == count_parameters(load_model("assets/story-model"))
    assert info.license == "Apache-2.0"
    assert engine.count_tokens("Once upon a time") > 2
    assert zerogpu._GPU_HOLDER._held is None


def test_what_cannot_be_served_is_refused_before_a_gpu_is_asked_for() -> None:
    engine = engine_over(tell)
    with pytest.raises(RequestError, match="tokens"):
        engine.submit(Request("word " * 10_000))
    engine.close()
    with pytest.raises(RequestError, match="closed"):
        engine.submit(REQUEST)


def test_stop_gives_the_gpu_back() -> None:
    given_back = threading.Event()

    def lent(*arguments: object) -> Iterator[TokenChunk]:
        try:
            yield from tell(*arguments)  # type: ignore[arg-type]
        finally:
            given_back.set()

    stream = engine_over(lent).submit(REQUEST)
    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        if chunk.stats.tokens == 3:
            stream.abort()
    assert given_back.is_set()
    assert chunks[-1].stats.finish_reason == "aborted"
    assert "".join(chunk.text for chunk in chunks) == " w0 w1 w2"


def test_a_stop_before_it_asks_for_none() -> None:
    stream = engine_over(tell).submit(REQUEST)
    stream.abort()
    assert [chunk.stats.finish_reason for chunk in stream] == [None, "aborted"]


def test_nothing_to_lend_is_said_and_the_text_so_far_stays() -> None:
    class Quota(Exception):
        message = "You have exceeded your quota"

    def lent(*arguments: object) -> Iterator[TokenChunk]:
        yield TokenChunk(" once", (1,), RequestStats(phase="decode", tokens=1))
        raise Quota

    chunks = list(engine_over(lent).submit(REQUEST))
    assert chunks[-2].text == " once"
    assert chunks[-1].stats.error == "No GPU could be had for this: You have exceeded your quota"
    assert chunks[-1].stats.tokens == 1


def test_a_gpu_that_is_taken_back_is_no_end_of_the_story() -> None:
    def lent(*arguments: object) -> Iterator[TokenChunk]:
        yield TokenChunk(" once", (1,), RequestStats(phase="decode", tokens=1))

    last = list(engine_over(lent).submit(REQUEST))[-1].stats
    assert (last.finish_reason, last.error) == ("error", "The GPU was taken back before the story ended.")


def test_a_gpu_is_asked_for_as_long_as_the_request_may_take() -> None:
    assert loan_seconds(CHOICE, REQUEST, 0.05) == 40
    assert loan_seconds(CHOICE, Request("", SamplingParams(max_new_tokens=1000)), 0.05) == 60
    assert loan_seconds(CHOICE, Request("", SamplingParams(max_new_tokens=10**6)), 0.05) == 120


@pytest.mark.thorough
def test_the_same_app_runs_where_gpus_are_lent(tmp_path: Path) -> None:
    """Run app.py as a Space on ZeroGPU, with a stand-in for `spaces` that forks and pickles."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests/engine/lent"),
        "PYTHONUNBUFFERED": "1",
        "SPACES_ZERO_GPU": "true",
    }
    command = [sys.executable, "app.py", "--model", "assets/story-model"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as page:
        assert page.stdout is not None
        lines = (line for line in iter(page.stdout.readline, "") if not line.startswith("Preparing"))
        try:
            url = next(found[1] for line in lines if (found := re.search(r"is at (\S+)", line)))
            assert "assets/story-model, on a GPU on demand" in next(
                line for line in lines if "License" in line
            )
            client = Client(url, verbose=False)
            arguments = {"max_new_tokens": 15, "seed": 7, "api_name": "/generate"}
            story, stats = client.predict("The old man", **arguments)
            assert stats["finish_reason"] == "length" and stats["tokens"] == 15
            assert stats["recurrent_bytes"] > 0 and stats["mean_tokens_per_second"] > 0
            assert client.predict("The old man", **arguments)[0] == story
            assert client.predict(api_name="/stats")["residence"] == "on demand"
            said = "".join(next(lines) for _ in range(4))
            assert said.count("lent for 40 s") == 2
            workers = re.findall(r"given back by (\d+) with 0", said)
            assert len(set(workers)) == 2 and str(page.pid) not in workers
        finally:
            page.terminate()
            page.wait(20)


def test_kernels_are_compiled_ahead_on_zerogpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(zerogpu.subprocess, "Popen", lambda command, **_: commands.append(command))
    monkeypatch.setattr(zerogpu, "has_triton", lambda: True)
    monkeypatch.setattr(zerogpu.torch.version, "cuda", "13.0")
    zerogpu._compile_ahead("folder", LocalConfig(quantize="int4"))
    assert commands == []
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    zerogpu._compile_ahead("folder", LocalConfig(quantize="int4"))
    ((_, *arguments),) = commands
    assert arguments == [
        *("-m", "jet.warm", "--model", "folder", "--target", "sm_120", "--target", "sm_90"),
        *("--quantize", "int4"),
    ]
