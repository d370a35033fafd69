"""Test samplers on CUDA: in the graphs and on the host, alone and together, drawn as they are defined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jet.api import Request, SamplingParams
from jet.engine.model_runner import ModelRunner
from jet.ops.decode_batch import DecodeBatch, SamplerFlags
from jet.ops.sampler_chain import ChainSettings, filter_row
from tests.engine.test_local_story import ids
from tests.gpu.test_decode import GREEDY, load, serve
from tests.networks import GOLDEN
from tests.ops.test_sampling import p_value

pytestmark = pytest.mark.gpu

CUDA = "cuda"
NEUTRAL = SamplingParams(1.0, 1.0, 0, 0.0, 1.0, max_new_tokens=24, seed=5)
SETTINGS = {
    "top-nσ": replace(NEUTRAL, top_n_sigma=1.0, temperature=2.0),
    "typical": replace(NEUTRAL, typical_p=0.5, top_p=0.9, seed=6),
    "dynamic temperature": replace(NEUTRAL, dynatemp_range=0.8, repetition_penalty=1.2, seed=7),
    "mirostat": replace(NEUTRAL, mirostat=2, mirostat_tau=3.0, seed=8),
    "adaptive-p": replace(NEUTRAL, adaptive_target=0.2, min_p=0.02, seed=9),
    "another order": replace(NEUTRAL, top_p=0.8, temperature=1.5, sampler_order="top_p;temperature", seed=3),
    "plain": replace(NEUTRAL, top_p=0.9, seed=4),
    "greedy": GREEDY,
}


def test_stories_are_the_same_alone_and_together() -> None:
    engine = serve(load(GOLDEN / "tiny-2b", torch.float32))
    alone = [ids(list(engine.submit(Request("1 2 3", sampling)))) for sampling in SETTINGS.values()]
    streams = [engine.submit(Request("1 2 3", sampling)) for sampling in SETTINGS.values()]
    assert [ids(list(stream)) for stream in streams] == alone
    engine.close()


@pytest.mark.parametrize("name", ["top-nσ", "typical", "dynamic temperature"])
def test_samplers_without_a_memory_are_in_the_graph_and_overlap(name: str) -> None:
    runner = ModelRunner(load(GOLDEN / "tiny-2b", torch.float32), frozenset(), slots=2, tokens=2048)
    sequence = runner.allocate(SETTINGS[name])
    runner.prefill(sequence, [1, 2, 3])
    runner.decode_one(sequence)
    runner.decode_one(sequence)
    assert sequence.in_flight is not None and not runner._decoder._host_samplers  # type: ignore[attr-defined]
    runner.free(sequence)
    least = replace(NEUTRAL, top_n_sigma=1e-6, temperature=5.0)
    sequences = [runner.allocate(sampling) for sampling in (least, replace(GREEDY, max_new_tokens=24))]
    for sequence in sequences:
        runner.prefill(sequence, [1, 2, 3])
    for _ in range(24):
        first, second = runner.decode(sequences)
        assert first == second


@pytest.mark.parametrize("name", ["top-nσ", "typical", "dynamic temperature"])
def test_draws_on_the_device_have_the_defined_distribution(name: str) -> None:
    from jet.ops.triton import fused_sampling as kernels
    from jet.ops.triton.shape_logits import ShapeBuffers

    sampling, vocabulary, draws = SETTINGS[name], 300, 12_000
    row = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 2
    rows = DecodeBatch.make(draws, CUDA)
    rows.active.fill_(1)
    rows.temperature.fill_(sampling.temperature)
    rows.top_p.fill_(sampling.top_p)
    rows.step.copy_(torch.arange(draws))
    buffers = ShapeBuffers.make(draws, vocabulary, CUDA)
    setting = (
        sampling.top_n_sigma,
        sampling.typical_p,
        sampling.dynatemp_range,
        sampling.dynatemp_exponent,
    )
    buffers.write([setting] * draws)
    seen = torch.zeros(draws + 1, vocabulary, dtype=torch.uint8, device=CUDA)
    scratch = kernels.SamplerScratch.make(draws, vocabulary, CUDA)
    logits = row.to(CUDA).expand(draws, -1).contiguous()
    kernels.sample(logits, rows, seen, scratch, SamplerFlags(uses_shape=True), shape=buffers)
    counts = torch.bincount(rows.token.cpu(), minlength=vocabulary).double()
    chain = ChainSettings(
        sampling.temperature,
        sampling.dynatemp_range,
        sampling.dynatemp_exponent,
        sampling.top_n_sigma,
        sampling.typical_p,
        top_p=sampling.top_p,
    )
    wanted = filter_row(row.double(), chain).softmax(-1)
    assert counts[wanted == 0].sum() <= 2  # a near tie in float32
    assert p_value(counts, wanted) > 1e-3
