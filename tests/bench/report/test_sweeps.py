"""Test sweeps with a runner of known speed, and the refusal of impossible figures."""

from __future__ import annotations

import pytest

from jet.api import SamplingParams
from jet.bench.cases.decode import time_prefill_and_decode
from jet.bench.options import ImpossibleError
from jet.bench.report.sweeps import refuse_impossible
from tests.bench.stand_in import SteadyRunner


def test_a_runner_of_known_speed_gives_that_speed() -> None:
    runner = SteadyRunner(step_s=1 / 64, prompt_s=1 / 1024)
    noted: dict[str, int] = {}
    sampling = SamplingParams(max_new_tokens=9, seed=0)
    found = time_prefill_and_decode(runner, [1] * 496, sampling, 128, runner.clock, noted.update)
    assert found["decode"] == 64
    assert found["prefill"] == 496 / (496 / 1024 + 1 / 64)  # with the first token
    assert runner.pieces == [128, 128, 128, 112]
    assert noted == {"recurrent": 1, "conv": 2, "window_kv": 3, "full_kv": 4}
    assert runner.released == 1


def test_writers_read_one_after_the_other_and_write_together() -> None:
    class Together(SteadyRunner):
        def decode(self, handles: list[object]) -> list[int]:
            self.now += self._step_s
            return [7 for _ in handles]

    runner = Together(step_s=1 / 64, prompt_s=1 / 1024)
    sampling = SamplingParams(max_new_tokens=9, seed=0)
    found = time_prefill_and_decode(runner, [1] * 48, sampling, 128, runner.clock, batch=5)
    assert found["decode"] == 5 * 64
    assert found["prefill"] == 5 * 48 / (5 * 48 / 1024 + 1 / 64)
    assert runner.pieces == [48] * 5 and runner.released == 5


def test_a_runner_that_fails_gives_its_slot_back() -> None:
    class Full(SteadyRunner):
        def decode(self, handles: list[object]) -> list[int | Exception]:
            return [MemoryError("full") for _ in handles]

    runner = Full()
    with pytest.raises(MemoryError):
        time_prefill_and_decode(runner, [1], SamplingParams(max_new_tokens=2, seed=0), 8, runner.clock)
    assert runner.released == 1


def test_more_than_was_seen_is_impossible() -> None:
    refuse_impossible("decoding", 1e9, 1e9, "bytes")
    with pytest.raises(ImpossibleError, match=r"decoding would have done 1\.01e\+09 bytes a second"):
        refuse_impossible("decoding", 1.01e9, 1e9, "bytes")
