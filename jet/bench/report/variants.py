"""Section 4: speed of data types, attention implementations and quantized weights, and error against float64.

Variants that run without the engine compute the logits of a fixed text, which are compared with those of the
same network in float64; their speed is that of `generate()`. The engine's network decodes greedily after the
same text. The log-probabilities of these tokens are compared with those that the float64 network computes.
"""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jet.api import SamplingParams
from jet.bench import baselines, networks
from jet.bench.cases.decode import decode_with_runner
from jet.bench.networks import Network
from jet.bench.options import BenchError
from jet.bench.report.context import RunContext
from jet.bench.result import Metric
from jet.bench.samples import run_interleaved
from jet.modeling import JetNemotronForCausalLM

OURS = "ours"
_FLASH = "flash_attention_2"
IMPLEMENTATIONS = ("eager", "sdpa", _FLASH, OURS)
_NUM_GENERATED = 32


class Deviation(NamedTuple):
    """The deviation from float64; jet/bench/report/data.py describes the fields."""

    relative: float | None
    logprob: float
    agreement: float
    positions: int


def measure(ctx: RunContext, dtype: torch.dtype, implementation: str) -> dict[str, Any]:
    """Measure speed and deviation of one dtype and attention implementation.

    Raises BenchError for flash-attn if it is not installed.
    """
    ctx.release()
    prompt = ctx.text
    sampling = SamplingParams(max_new_tokens=ctx.plan.tokens, seed=0, temperature=0, repetition_penalty=1)
    if implementation == _FLASH and importlib.util.find_spec("flash_attn") is None:
        raise BenchError("the package flash-attn is not installed")
    if implementation == OURS:
        metric, deviation = _measure_ours(ctx, dtype, prompt, sampling)
    else:
        model = ctx.variant(dtype, implementation)
        threads = networks.decode_threads(model)
        deviation = deviation_of_logits(logits(model, prompt), _exact(ctx), prompt)
        run = partial(baselines.generate, model, prompt, sampling, threads=_threads(ctx, threads))
        found = run_interleaved([lambda: {"decode": run().tokens_per_second}], 1, ctx.plan.runs)
        metric = Metric(f"{implementation}, generate()", "tok/s", found["decode"])
    return {"figures": {"decode": metric.as_json()}, "deviation": deviation._asdict()}


def measure_quantized(ctx: RunContext, quantize: str) -> dict[str, Any]:
    """Measure the engine's speed with quantized weights, and the deviation of the fixed text's logits."""
    ctx.release()
    prompt = ctx.text
    sampling = SamplingParams(max_new_tokens=ctx.plan.tokens, seed=0, temperature=0, repetition_penalty=1)
    model = ctx.variant(ctx.dtype, "sdpa", quantize)
    deviation = deviation_of_logits(logits(model, prompt), _exact(ctx), prompt)
    network = ctx.with_runner(model, len(prompt) + sampling.max_new_tokens)
    try:
        metric = _runner_speed(ctx, network, prompt, sampling)
    finally:
        network.runner.close()
    return {"figures": {"decode": metric.as_json()}, "deviation": deviation._asdict()}


def _runner_speed(ctx: RunContext, network: Network, prompt: list[int], sampling: SamplingParams) -> Metric:
    run = partial(decode_with_runner, network.runner, prompt, sampling, network.prefill_chunk)
    found = run_interleaved([lambda: {"decode": run()}], 1, ctx.plan.runs)
    return Metric("ours, bare loop", "tok/s", found["decode"])


def _threads(ctx: RunContext, threads: int) -> int | None:
    return threads if ctx.device.type == "cpu" else None


def _measure_ours(
    ctx: RunContext, dtype: torch.dtype, prompt: list[int], sampling: SamplingParams
) -> tuple[Metric, Deviation]:
    room = len(prompt) + max(_NUM_GENERATED, sampling.max_new_tokens)
    network = ctx.with_runner(ctx.variant(dtype, "sdpa"), room)
    try:
        metric = _runner_speed(ctx, network, prompt, sampling)
        tokens, logprobs = generate_greedily(network, prompt)
    finally:
        network.runner.close()
    del network
    exact = logits(_in_float64(ctx), prompt + tokens)[len(prompt) - 1 : -1]
    return metric, deviation_of_tokens(exact, tokens, logprobs)


def _exact(ctx: RunContext) -> Tensor:
    """Return the float64 network's logits of the fixed text `[T, V]`; compute them at the first call."""
    if ctx.exact is None:
        ctx.exact = logits(_in_float64(ctx), ctx.text)
    return ctx.exact


def _in_float64(ctx: RunContext) -> JetNemotronForCausalLM:
    return ctx.variant(torch.float64, "eager")


@torch.inference_mode()
def logits(model: JetNemotronForCausalLM, tokens: list[int]) -> Tensor:
    """Return the logits at every position, `[T, V]` (tokens, vocabulary) in float64, on the CPU."""
    out = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
    return out.double().cpu()  # type: ignore[no-any-return]


def generate_greedily(network: Network, prompt: list[int]) -> tuple[list[int], list[float]]:
    """Generate 32 tokens greedily after a prompt; return the tokens and their log-probabilities."""
    sampling = SamplingParams(max_new_tokens=_NUM_GENERATED, seed=0, temperature=0, repetition_penalty=1)
    sequence = network.runner.allocate(sampling, 1)
    try:
        network.runner.prefill(sequence, prompt)
        tokens, logprobs = [], []
        for _ in range(_NUM_GENERATED):
            tokens.append(network.runner.decode_one(sequence))
            found = network.runner.logprobs(sequence)
            assert found is not None  # `allocate` requested them
            logprobs.append(found.sampled.logprob)
    finally:
        network.runner.free(sequence)
    return tokens, logprobs


def deviation_of_logits(found: Tensor, exact: Tensor, tokens: list[int]) -> Deviation:
    """Compare logits `[T, V]` at every position, and the log-probabilities of the next tokens."""
    following = torch.tensor(tokens[1:])[:, None]
    differences = (found.log_softmax(-1) - exact.log_softmax(-1))[:-1].gather(1, following)
    same = (found.argmax(-1) == exact.argmax(-1)).double().mean()
    relative = (found - exact).norm() / exact.norm()
    return Deviation(float(relative), float(differences.abs().max()), float(same), len(tokens))


def deviation_of_tokens(exact: Tensor, tokens: list[int], logprobs: list[float]) -> Deviation:
    """Compare greedily decoded tokens and their log-probabilities with exact logits `[T, V]`."""
    ids = torch.tensor(tokens)
    differences = exact.log_softmax(-1).gather(1, ids[:, None])[:, 0] - torch.tensor(logprobs).double()
    same = (exact.argmax(-1) == ids).double().mean()
    return Deviation(None, float(differences.abs().max()), float(same), len(tokens))
