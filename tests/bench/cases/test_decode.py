"""Test `decode` on a stand-in of known speed, which must be measured correctly."""

from __future__ import annotations

import pytest

from jet.api import RequestStats, SamplingParams
from jet.bench.cases.decode import decode_engine, decode_with_runner
from jet.bench.options import BenchError
from jet.bench.requests import run_request
from tests.bench.stand_in import SteadyRunner, engine_on

SAMPLING = SamplingParams(max_new_tokens=33, seed=0)


def test_the_engines_rate_is_the_runners_without_the_prompt() -> None:
    runner = SteadyRunner(step_s=1 / 64, prompt_s=1.0)
    engine = engine_on(runner)
    noted: list[RequestStats] = []
    assert decode_engine(engine, [1, 2, 3], SAMPLING, noted.append) == {"engine": 64.0}
    engine.close()
    assert noted[0].tokens == 33 and noted[0].prompt_tokens == 3
    assert noted[0].full_kv_bytes == 4


def test_the_bare_rate_is_the_runners_without_the_prompt() -> None:
    runner = SteadyRunner(step_s=1 / 64, prompt_s=1.0)
    assert decode_with_runner(runner, [1] * 10, SAMPLING, prefill_chunk=4, clock=runner.clock) == 64.0
    assert runner.pieces == [4, 4, 2]  # as the engine reads it
    assert runner.released == 1


def test_the_state_is_freed_when_a_bare_run_fails() -> None:
    class Broken(SteadyRunner):
        def step(self, handle: object) -> int:
            raise MemoryError("full")

    runner = Broken()
    with pytest.raises(MemoryError):
        decode_with_runner(runner, [1], SAMPLING, prefill_chunk=4)
    assert runner.released == 1


def test_a_failed_or_short_request_is_no_measurement() -> None:
    class Broken(SteadyRunner):
        def step(self, handle: object) -> int:
            raise MemoryError("The device is full.")

    engine = engine_on(Broken())
    with pytest.raises(BenchError, match=r"The engine failed: The device is full\."):
        run_request(engine, [1], SAMPLING)
    engine.close()
    engine = engine_on(SteadyRunner())
    with pytest.raises(BenchError, match=r"wrote 10 of 33 tokens \(context\)"):
        run_request(engine, [1] * 190, SAMPLING)  # the stand-in's context is 200
    engine.close()
