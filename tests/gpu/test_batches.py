"""Test batches and cached states on CUDA: they give the same text as alone and uncached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from jet import JetNemotronForCausalLM
from jet.cache.state_pool import PAGE_SIZE
from jet.engine.cuda_graphs import CudaGraphDecoder, padded_size
from jet.engine.engine import LocalEngine
from jet.engine.model_runner import ModelRunner
from tests.engine.test_together import GREEDY, SAMPLED, STORY, engine_on, finish, submit, write
from tests.networks import GOLDEN

pytestmark = pytest.mark.gpu

WRITERS = 21  # so that there are graphs of 32 rows


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / "tiny-2b", dtype=torch.float32).to("cuda").eval()
    engine = engine_on(model, writers=WRITERS, tokens=100 * PAGE_SIZE)
    yield engine
    engine.close()


def test_stories_written_together_are_those_written_alone(engine: LocalEngine) -> None:
    samplings = [
        GREEDY,
        SAMPLED,
        replace(SAMPLED, repetition_penalty=1.3, top_k=7),
        replace(SAMPLED, dry_multiplier=5.0, dry_allowed_length=1),
    ]
    requests = [
        ([1 + n, 2, 3 + n] * (n + 1), replace(samplings[n % 4], max_new_tokens=40 + n, seed=n))
        for n in range(WRITERS)
    ]
    alone = [finish(submit(engine, *request))[0] for request in requests]
    streams = [submit(engine, *request) for request in requests]
    assert [finish(stream)[0] for stream in streams] == alone
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    if isinstance(runner._decoder, CudaGraphDecoder):
        assert {1, padded_size(WRITERS)} <= set(runner._decoder._graphs)


def test_going_on_trying_again_and_branching_start_from_resident_states(engine: LocalEngine) -> None:
    story = STORY * 8
    expected = write(engine, story)[0]
    written, resumed = write(engine, story, user="ann")
    assert (written, resumed) == (expected, 0)
    assert write(engine, story, user="ann") == (expected, len(story))
    longer = [*story, *written, 3]
    again, resumed = write(engine, longer, user="ann")
    assert resumed >= len(longer) - 2 and again == write(engine, longer)[0]
    streams = [submit(engine, story, replace(SAMPLED, seed=seed), "ann") for seed in range(4)]
    ended = [finish(stream) for stream in streams]
    assert [stats.cached_tokens for _, stats in ended] == [len(story)] * 4
    assert [tokens for tokens, _ in ended] == [
        write(engine, story, replace(SAMPLED, seed=seed))[0] for seed in range(4)
    ]


def test_memory_on_the_device_is_the_same_after_many_stories(engine: LocalEngine) -> None:
    def busy() -> None:
        streams = [submit(engine, [n + 1] * 50, SAMPLED, f"user {n % 5}") for n in range(40)]
        for stream in streams:
            finish(stream)

    busy()  # graphs are captured, and as many states kept as there is room for
    before = torch.cuda.memory_allocated()
    busy()
    assert torch.cuda.memory_allocated() <= before + 2**20  # logits that are kept with some states
