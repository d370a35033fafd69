"""Test that prompts that wait together share prefill chunks, and that stories are as if each were alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from torch import Tensor

from jet.api import Request, TokenChunk
from jet.engine.engine import LocalEngine
from jet.engine.model_runner import ModelRunner
from jet.engine.prefill import EagerPrefill, Part
from jet.modeling import JetNemotronForCausalLM
from tests.engine.test_together import GREEDY, SAMPLED, engine_on
from tests.networks import golden_model


class PackingPrefill(EagerPrefill):
    """Prefills several prompts at once; `packs` records the number of tokens of each prompt."""

    max_packed = 256

    def __init__(self, model: JetNemotronForCausalLM, runner: ModelRunner) -> None:
        super().__init__(model, runner._pool)
        self.packs: list[list[int]] = []
        self.faults = 0

    def run_packed(self, parts: Sequence[Part]) -> Tensor:
        self.packs.append([len(part.token_ids) for part in parts])
        if self.faults:
            self.faults -= 1
            raise RuntimeError("a fault of the device")
        return super().run_packed(parts)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = packing_engine()
    yield engine
    engine.close()


def packing_engine(**changes: int) -> LocalEngine:
    engine = engine_on(golden_model("tiny-2b"), **changes)
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    engine._prefill_policy._max_chunk = 256
    runner._prefill = PackingPrefill(golden_model("tiny-2b"), runner)
    return engine


def packs(engine: LocalEngine) -> list[list[int]]:
    prefill = engine._runner._prefill  # type: ignore[attr-defined]
    assert isinstance(prefill, PackingPrefill)
    return prefill.packs


def prompt(length: int, seed: int) -> str:
    return " ".join(str(1 + (seed * 37 + 11 * place * place) % 250) for place in range(length))


def requests() -> list[Request]:
    sizes = [70, 3, 1, 64, 65, 20]
    return [
        Request(
            prompt(size, seed), replace((GREEDY, SAMPLED)[seed % 2], seed=seed), cache_salt=f"user {seed}"
        )
        for seed, size in enumerate(sizes)
    ]


def together(engine: LocalEngine, given: Sequence[Request]) -> list[TokenChunk]:
    """Submit all requests before the engine takes any; return each one's last chunk with the whole text."""
    with engine._changed:
        streams = [engine.submit(request) for request in given]
    answers = []
    for stream in streams:
        chunks = list(stream)
        answers.append(replace(chunks[-1], text="".join(chunk.text for chunk in chunks)))
    return answers


def alone(given: Sequence[Request]) -> list[str]:
    engine = engine_on(golden_model("tiny-2b"), writers=1)
    try:
        return ["".join(chunk.text for chunk in engine.submit(request)) for request in given]
    finally:
        engine.close()


def test_prompts_share_chunks_and_stories_are_those_of_each_alone(engine: LocalEngine) -> None:
    given = requests()
    answers = together(engine, given)
    assert [answer.stats.error for answer in answers] == [None] * len(given)
    assert [answer.text for answer in answers] == alone(given)
    # 70 tokens take two blocks of 64, 3 and 1 one each: nothing is left of 256 for the next.
    assert packs(engine)[0] == [70, 3, 1]
    assert all(len(pack) > 1 for pack in packs(engine))


def test_prompts_that_begin_alike_wait_for_the_first_one(engine: LocalEngine) -> None:
    text = prompt(40, 1)
    given = [Request(text, replace(SAMPLED, seed=seed), cache_salt="writer") for seed in range(3)]
    answers = together(engine, given)
    assert not packs(engine)
    assert [answer.stats.cached_tokens for answer in answers] == [0, 40, 40]
    others = [replace(request, cache_salt=f"writer {seed}") for seed, request in enumerate(given)]
    again = together(engine, others)
    assert packs(engine) == [[40, 40, 40]]
    assert [answer.text for answer in again] == [answer.text for answer in answers]


def test_after_a_fault_each_prompt_is_read_alone(engine: LocalEngine) -> None:
    given = requests()
    engine._runner._prefill.faults = 1  # type: ignore[attr-defined]
    answers = together(engine, given)
    assert [answer.text for answer in answers] == alone(given)
    assert [answer.stats.error for answer in answers] == [None] * len(given)


def test_a_prompt_without_memory_ends_and_the_others_go_on(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = requests()[:3]
    pool = engine._runner._pool  # type: ignore[attr-defined]
    reserve, slots = pool.reserve, []

    def no_room_for_the_second(slot: int, *sizes: int) -> None:
        slots.append(slot)
        if slot == slots[min(1, len(slots) - 1)] and len(set(slots)) == 2:
            raise MemoryError("no page is free")
        reserve(slot, *sizes)

    monkeypatch.setattr(pool, "reserve", no_room_for_the_second)
    answers = together(engine, given)
    assert answers[1].stats.error is not None and "no page is free" in answers[1].stats.error
    assert answers[0].text == alone(given[:1])[0]
    assert answers[2].text == alone(given[2:])[0]


def test_a_long_prompt_shares_its_last_chunk(engine: LocalEngine) -> None:
    given = [
        Request(prompt(300, 7), GREEDY, cache_salt="a"),
        Request(prompt(9, 8), GREEDY, cache_salt="b"),
    ]
    answers = together(engine, given)
    assert [answer.text for answer in answers] == alone(given)
    assert packs(engine) == [[44, 9]]
