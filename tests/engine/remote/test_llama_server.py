"""Test stories from a real server that others have made: llama.cpp's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from jet.api import Request, SamplingParams
from jet.engine.remote.client import RemoteConfig, RemoteEngine
from tests.engine.llama_server import CONTEXT, llama_server


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteEngine]:
    with llama_server(tmp_path_factory.mktemp("llama")) as url:
        engine = RemoteConfig(url).create()
        yield engine
        engine.close()


def test_it_says_what_it_is(engine: RemoteEngine) -> None:
    info = engine.info()
    assert info.model.endswith("tiny.gguf")
    assert info.context == CONTEXT
    assert info.parameters is not None and info.parameters > 10_000
    assert info.device_name == "another server (llamacpp)"


def test_a_story_with_everything_that_is_known(engine: RemoteEngine) -> None:
    sampling = SamplingParams(max_new_tokens=30, seed=3, top_k=20, dry_multiplier=0.5, xtc_probability=0.1)
    chunks = list(engine.submit(Request("ba be bi", sampling, top_logprobs=4)))
    stats = chunks[-1].stats
    assert (stats.finish_reason, stats.error) == ("length", None)
    assert stats.tokens == 30 and not stats.tokens_estimated
    assert stats.prompt_tokens >= 3
    assert stats.mean_tokens_per_second is not None and stats.time_to_first_token_s is not None
    details = [detail for chunk in chunks for detail in chunk.logprobs]
    assert len(details) == 30
    assert "".join(detail.sampled.text for detail in details) == "".join(chunk.text for chunk in chunks)
    for detail in details:
        logprobs = [other.logprob for other in detail.top_logprobs]
        assert len(logprobs) == 4 and logprobs == sorted(logprobs, reverse=True)
        assert sum(map(math.exp, logprobs)) <= 1.001


def test_the_same_seed_gives_the_same_story(engine: RemoteEngine) -> None:
    def story(seed: int) -> str:
        request = Request("ba be bi", SamplingParams(max_new_tokens=20, seed=seed))
        return "".join(chunk.text for chunk in engine.submit(request))

    assert story(1) == story(1) != story(2)


def test_stop_frees_the_place(engine: RemoteEngine) -> None:
    """Check that ten long stories, once stopped, do not occupy the server's four slots."""
    long = SamplingParams(max_new_tokens=CONTEXT - 100, seed=1)
    for _ in range(10):
        stream = engine.submit(Request("ba be bi", long))
        for chunk in stream:
            if chunk.text:
                stream.abort()
        assert chunk.stats.finish_reason in ("aborted", "length")
    started = time.monotonic()
    last = list(engine.submit(Request("ba", SamplingParams(max_new_tokens=3))))[-1]
    assert last.stats.finish_reason == "length"
    assert time.monotonic() - started < 20


def test_a_text_that_is_too_long_is_refused_in_its_words(engine: RemoteEngine) -> None:
    last = list(engine.submit(Request("ba be bi " * CONTEXT, SamplingParams(max_new_tokens=3))))[-1]
    assert last.stats.error is not None
    assert last.stats.error.startswith("The engine’s server refuses this (400): ")
    assert "context size" in last.stats.error
