"""Test top-nσ, typical sampling and dynamic temperature in the graphs' bookkeeping, without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("triton")

from jet.api import SamplingParams
from jet.engine.cuda_graphs import DEFAULT_SAMPLER, CudaGraphDecoder, sampler_flags
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from jet.ops.decode_batch import SamplerFlags
from tests.engine.test_cuda_graphs import GREEDY, begin, runner, without_cuda, write  # noqa: F401

pytestmark = pytest.mark.thorough
NEUTRAL = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=4, seed=5)
SHAPED = [
    replace(NEUTRAL, top_n_sigma=1.0, temperature=2.0),
    replace(NEUTRAL, typical_p=0.5, top_p=0.9, seed=6),
    replace(NEUTRAL, dynatemp_range=0.8, repetition_penalty=1.2, seed=7),
]


def test_a_shaped_row_writes_together_what_it_writes_alone(runner: ModelRunner) -> None:  # noqa: F811
    samplings = [*SHAPED, replace(NEUTRAL, top_p=0.8, min_p=0.05), GREEDY]
    alone = [write(runner, replace(sampling, max_new_tokens=4), 1, 2, 3) for sampling in samplings]
    writing = [begin(runner, replace(sampling, max_new_tokens=4), 1, 2, 3) for sampling in samplings]
    together = list(zip(*(runner.decode(writing) for _ in range(4)), strict=True))
    assert [list(tokens) for tokens in together] == alone
    decoder = runner._decoder
    assert isinstance(decoder, CudaGraphDecoder) and not decoder._host_samplers
    assert decoder.can_overlap(writing)


def test_hardly_any_deviation_leaves_the_likeliest(runner: ModelRunner) -> None:  # noqa: F811
    least = replace(NEUTRAL, top_n_sigma=1e-6, temperature=5.0, max_new_tokens=8)
    assert write(runner, least, 1, 2, 3) == write(runner, GREEDY, 1, 2, 3)


def test_other_batches_pay_nothing_and_other_orders_are_the_hosts(
    runner: ModelRunner,  # noqa: F811
) -> None:
    plain = Sequence(replace(NEUTRAL, top_p=0.9), 0)
    assert sampler_flags([plain]) == DEFAULT_SAMPLER
    for sampling in SHAPED:
        assert sampler_flags([plain, Sequence(sampling, 1)]) == SamplerFlags(uses_shape=True)
    greedy = Sequence(replace(SHAPED[0], temperature=0.0), 0)
    assert sampler_flags([greedy]) is None
    decoder = runner._decoder
    assert isinstance(decoder, CudaGraphDecoder)
    sequence = runner.allocate(
        replace(SHAPED[2], sampler_order="min_p;temperature;top_n_sigma", top_n_sigma=1.0)
    )
    assert sequence in decoder._host_samplers and not decoder.can_overlap([sequence])
    runner.free(sequence)
