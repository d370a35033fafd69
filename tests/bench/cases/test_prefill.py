"""Test that the time to the first token is that of the prompt and one token."""

from __future__ import annotations

from jet.api import SamplingParams
from jet.bench.cases.prefill import first_token
from jet.bench.requests import run_request
from tests.bench.stand_in import SteadyRunner, engine_on


def test_the_time_to_the_first_token_is_the_runners() -> None:
    engine = engine_on(SteadyRunner(step_s=1 / 64, prompt_s=1 / 1024))
    stats = run_request(engine, [1] * 160, SamplingParams(max_new_tokens=1, seed=0))
    engine.close()
    assert first_token(stats) == 160 / 1024 + 1 / 64
