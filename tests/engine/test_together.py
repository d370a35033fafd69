"""Test stories that are written together and from cached states: the same text as alone and uncached."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from jet.api import Request, RequestStats, SamplingParams
from jet.bench.networks import IdTokenizer
from jet.cache import host_pool
from jet.cache.state_pool import PAGE_SIZE
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import engine_info
from jet.engine.model_runner import ModelRunner
from jet.engine.stream import LocalStream
from jet.modeling import JetNemotronForCausalLM
from jet.token_ids import Tokens
from tests.networks import golden_model

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=12, seed=0)
SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=12, seed=3)
EVERY = 8  # tokens between two states that are kept


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return golden_model("tiny-2b")


def engine_on(
    model: JetNemotronForCausalLM, writers: int = 12, kept: int = 80, **changes: int
) -> LocalEngine:
    changes = {"tokens": 60 * PAGE_SIZE, "context": 4 * PAGE_SIZE} | changes
    runner = ModelRunner(
        model, frozenset(), slots=writers, cache_slots=kept, snapshot_interval=EVERY, **changes
    )
    info = replace(engine_info("tiny", model, load_s=0.0), context=changes["context"])
    options = EngineOptions(max_running_requests=writers, max_running_per_user=6, prefill_chunk_size=16)
    return LocalEngine(runner, IdTokenizer(), info, options)


@pytest.fixture(scope="module")
def engine(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    engine = engine_on(model)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def fresh(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    """Yield an engine that writes one story at a time and caches nothing, for expected results."""
    engine = engine_on(model, writers=1)
    yield engine
    engine.close()


def submit(engine: LocalEngine, prompt: list[int], sampling: SamplingParams, user: str = "") -> LocalStream:
    return engine.submit(Request(" ".join(map(str, prompt)), sampling, cache_salt=user))


def finish(stream: LocalStream) -> tuple[list[int], RequestStats]:
    chunks = list(stream)
    return [token for chunk in chunks for token in chunk.token_ids], chunks[-1].stats


def write(
    engine: LocalEngine, prompt: list[int], sampling: SamplingParams = GREEDY, user: str = ""
) -> tuple[list[int], int]:
    """Write a story; return its tokens, and how many tokens of the prompt were cached."""
    tokens, stats = finish(submit(engine, prompt, sampling, user))
    assert stats.error is None and len(tokens) == sampling.max_new_tokens
    return tokens, stats.cached_tokens


def test_stories_of_all_kinds_written_together_are_those_written_alone(
    engine: LocalEngine, fresh: LocalEngine
) -> None:
    """Use different lengths and settings; requests join and leave while others go on."""
    samplings = [
        GREEDY,
        SAMPLED,
        replace(SAMPLED, repetition_penalty=1.3, seed=9),
        replace(SAMPLED, top_k=5, temperature=2.0),
        replace(SAMPLED, min_p=0.3, top_p=0.5),
        replace(SAMPLED, dry_multiplier=5.0, dry_allowed_length=1),
        replace(SAMPLED, xtc_probability=0.5, top_p=1.0),
    ]
    requests = [
        ([1 + n, 2, 3 + n] * (n + 1), replace(samplings[n % 7], max_new_tokens=5 + 3 * n)) for n in range(11)
    ]
    streams = [submit(engine, *request) for request in requests]
    together = [finish(stream)[0] for stream in streams]
    assert together == [write(fresh, *request)[0] for request in requests]


STORY = [5 + 3 * n % 40 for n in range(50)]


def test_going_on_reads_only_what_is_new(engine: LocalEngine, fresh: LocalEngine) -> None:
    written, resumed = write(engine, STORY, user="going on")
    assert resumed == 0
    longer = [*STORY, *written, 7, 8, 9]
    again, resumed = write(engine, longer, user="going on")
    assert resumed == len(STORY) + len(written) - 1  # the last token had not been read
    assert again == write(fresh, longer)[0]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, replace(SAMPLED, repetition_penalty=2.0)])
def test_trying_again_reads_nothing(
    engine: LocalEngine, fresh: LocalEngine, sampling: SamplingParams
) -> None:
    user = f"again {sampling}"
    assert write(engine, STORY, sampling, user)[1] == 0
    for seed in (3, 4, 5):
        other = replace(sampling, seed=seed)
        tokens, resumed = write(engine, STORY, other, user)
        assert resumed == len(STORY)
        assert tokens == write(fresh, STORY, other)[0]


def test_taking_back_and_editing_start_from_the_nearest_state_before(
    engine: LocalEngine, fresh: LocalEngine
) -> None:
    written, _ = write(engine, STORY, replace(GREEDY, max_new_tokens=30), user="edits")
    for kept in (len(STORY) + 20, len(STORY) + 3, len(STORY), 40, 17):
        edited = [*[*STORY, *written][:kept], 3, 1]
        tokens, resumed = write(engine, edited, user="edits")
        # States of a prompt are kept where its pieces end, of 16 tokens here.
        assert kept - 16 <= resumed <= kept
        assert tokens == write(fresh, edited)[0]


def test_only_the_ends_of_prompt_and_answer_can_be_drawn_from_again(model: JetNemotronForCausalLM) -> None:
    """Check that states within a prompt have no logits; such states only make edits cheaper."""
    engine = engine_on(model)
    prompt = list(range(1, 61))
    write(engine, prompt, user="ann")
    sessions = engine._runner._prefix_cache
    engine.close()
    lengths = {len(one.tokens): one.has_logits for one in sessions._device_lru}
    assert [length for length, complete in lengths.items() if complete] == [len(prompt), len(prompt) + 11]
    assert [length for length in lengths if length < len(prompt)] == [16, 32, 48]


def test_branches_are_written_together_and_share_what_came_before(
    engine: LocalEngine, fresh: LocalEngine
) -> None:
    story = STORY * 8  # more than a page
    write(engine, story, user="branches")
    branches = [replace(SAMPLED, seed=seed) for seed in range(4)]
    streams = [submit(engine, story, sampling, "branches") for sampling in branches]
    ended = [finish(stream) for stream in streams]
    assert [stats.cached_tokens for _, stats in ended] == [len(story)] * 4
    assert [tokens for tokens, _ in ended] == [write(fresh, story, sampling)[0] for sampling in branches]
    assert len({tuple(tokens) for tokens, _ in ended}) == 4


def test_ways_on_from_a_new_prompt_read_it_once(engine: LocalEngine, fresh: LocalEngine) -> None:
    story = [9, *STORY, 2]
    branches = [replace(SAMPLED, seed=seed) for seed in range(3)]
    streams = [submit(engine, story, sampling, "ways") for sampling in branches]
    ended = [finish(stream) for stream in streams]
    assert [stats.cached_tokens for _, stats in ended] == [0, len(story), len(story)]
    assert [tokens for tokens, _ in ended] == [write(fresh, story, sampling)[0] for sampling in branches]


def test_prefixes_are_isolated_between_users(engine: LocalEngine) -> None:
    write(engine, STORY, user="ann")
    assert write(engine, STORY, user="bob")[1] == 0
    assert write(engine, STORY)[1] == 0
    assert write(engine, STORY)[1] == 0, "who has no name leaves nothing behind"
    assert write(engine, STORY, user="ann")[1] == len(STORY)


def test_an_aborted_story_can_be_gone_on_with(engine: LocalEngine, fresh: LocalEngine) -> None:
    stream = submit(engine, STORY, replace(GREEDY, max_new_tokens=500), "aborts")
    tokens: list[int] = []
    for chunk in stream:
        tokens += chunk.token_ids
        if len(tokens) >= 5:
            stream.abort()
    longer = [*STORY, *tokens, 4]
    assert len(tokens) < 500
    again, resumed = write(engine, longer, user="aborts")
    assert resumed >= len(longer) - 2
    assert again == write(fresh, longer)[0]


HOST_BYTES = 400_000  # room for a few states


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("host_bytes", [0, HOST_BYTES])
def test_random_writers_in_little_memory_write_what_each_writes_alone(
    model: JetNemotronForCausalLM, fresh: LocalEngine, seed: int, host_bytes: int
) -> None:
    """Keep few states, and fewer pages than all stories need, so that states come and go all the time."""
    chance = random.Random(seed)
    tight = engine_on(
        model, writers=5, kept=4, tokens=3 * PAGE_SIZE, context=2 * PAGE_SIZE, host_bytes=host_bytes
    )
    runner = tight._runner
    assert isinstance(runner, ModelRunner)
    stories: list[list[int]] = [[1], [2, 3]]
    expected: dict[tuple[object, ...], list[int]] = {}
    for _ in range(8):
        batch = []
        for _ in range(chance.randint(1, 7)):
            story = chance.choice(stories)[: chance.randint(1, 300)] + chance.choices(range(1, 50), k=3)
            sampling = replace(GREEDY if chance.random() < 0.5 else SAMPLED, max_new_tokens=6)
            user = chance.choice(["ann", "bob"])
            batch.append((story, sampling, submit(tight, story, sampling, user)))
        for story, sampling, stream in batch:
            tokens, stats = finish(stream)
            assert stats.error is None
            key = (tuple(story), sampling)
            if key not in expected:
                expected[key] = write(fresh, story, sampling)[0]
            assert tokens == expected[key]
            stories.append([*story, *tokens] * chance.choice([1, 1, 3]))
    pool = runner._pool
    offloaded, taken = runner.num_on_host
    assert taken <= host_bytes and bool(offloaded) == bool(host_bytes)
    while runner._prefix_cache.evict() or runner._prefix_cache.evict_host():
        assert runner.num_on_host[1] <= host_bytes
    assert runner.num_on_host == (0, 0), "no memory of the host is lost"
    assert pool.allocator.free == pool.allocator._count and pool.allocator.reserved_pages == 0, (
        "no page is lost"
    )
    assert sorted(pool._free_slots) == list(range(pool.null_slot)), "no slot is lost"
    tight.close()


def test_memory_is_waited_for_in_line(model: JetNemotronForCausalLM, fresh: LocalEngine) -> None:
    """Submit three stories of two pages each, with memory for one story at a time."""
    small = engine_on(model, writers=2, kept=1, tokens=0, context=2 * PAGE_SIZE)
    long = replace(GREEDY, max_new_tokens=300)
    streams = [submit(small, [n + 1, 2], long) for n in range(3)]
    assert [finish(stream)[0] for stream in streams] == [write(fresh, [n + 1, 2], long)[0] for n in range(3)]
    small.close()


@pytest.fixture
def small(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    """Yield an engine that keeps two states on the device and more in host memory."""
    engine = engine_on(model, writers=2, kept=2, tokens=6 * PAGE_SIZE, host_bytes=4_000_000)
    yield engine
    engine.close()


def runner_of(engine: LocalEngine) -> ModelRunner:
    assert isinstance(engine._runner, ModelRunner)
    return engine._runner


def make_leave(engine: LocalEngine) -> None:
    """Move all cached states from the device to host memory, between two requests."""
    runner = runner_of(engine)
    with torch.inference_mode():
        while runner._prefix_cache.evict():
            pass
    assert runner.num_on_host[0] == runner.num_cached


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("repeats", [1, 8], ids=["less than a page", "more"])
def test_what_left_the_device_comes_back_and_the_text_is_the_same(
    small: LocalEngine, fresh: LocalEngine, sampling: SamplingParams, repeats: int
) -> None:
    story, user = STORY * repeats, "ann"
    written, _ = write(small, story, sampling, user)
    for _ in range(2):
        make_leave(small)
        assert write(small, story, sampling, user) == (written, len(story)), "trying again"
        assert runner_of(small)._prefix_cache.match_prefix(user, ids_of(story), device_only=True), (
            "it is on the device again"
        )
    make_leave(small)
    longer = [*story, *written, 7, 8, 9]
    again, resumed = write(small, longer, sampling, user)
    assert resumed == len(longer) - 4
    make_leave(small)
    streams = [submit(small, story, replace(sampling, seed=seed), user) for seed in range(3)]
    branches = [finish(stream) for stream in streams]
    assert [stats.cached_tokens for _, stats in branches] == [len(story)] * 3
    assert again == write(fresh, longer, sampling)[0]
    alone = [write(fresh, story, replace(sampling, seed=seed))[0] for seed in range(3)]
    assert [tokens for tokens, _ in branches] == alone


def ids_of(tokens: list[int]) -> Tokens:
    return np.array(tokens, np.int32)


def test_offloaded_prefixes_are_isolated_between_users(small: LocalEngine) -> None:
    write(small, STORY, user="ann")
    make_leave(small)
    assert write(small, STORY, user="bob")[1] == 0
    assert write(small, STORY)[1] == 0
    make_leave(small)
    assert write(small, STORY, user="ann")[1] == len(STORY)


@pytest.mark.parametrize("part", ["save", "load"])
@pytest.mark.parametrize("error", [MemoryError("none left"), RuntimeError("CUDA error: invalid argument")])
def test_a_copy_that_fails_costs_the_state_and_nothing_else(
    small: LocalEngine, fresh: LocalEngine, part: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(small)
    written, _ = write(small, STORY * 8, user="ann")
    calls = []

    def fail(source: torch.Tensor, target: torch.Tensor) -> None:
        calls.append(source)
        if len(calls) > 3:  # in the midst of it
            raise error

    if part == "load":
        make_leave(small)
        monkeypatch.setattr(host_pool, "_copy", fail)
    else:
        monkeypatch.setattr(host_pool, "_copy", fail)
        with torch.inference_mode():
            while runner._prefix_cache.evict():
                pass
        assert runner.num_on_host[0] == runner.num_cached, "what could not be copied is gone"
    again, stats = finish(submit(small, STORY * 8, GREEDY, "ann"))
    assert len(calls) > 3 and stats.error is None and again == written
    assert stats.cached_tokens < len(STORY * 8)
    monkeypatch.undo()
    make_leave(small)
    assert write(small, STORY * 8, user="ann") == (written, len(STORY * 8))
