"""Test that baselines time every token, from the first to the last."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from jet.api import SamplingParams
from jet.bench import networks
from jet.bench.baselines import TokenClock, baselines, generate, prefill_forward, random_transformer
from jet.bench.options import BenchError, Options
from tests.networks import GOLDEN, small_model


def test_a_clock_at_every_token_gives_the_speed_of_decoding_alone() -> None:
    moments = iter([10.0, 13.0, 13.5, 14.0, 14.5])
    clock = TokenClock(clock=lambda: next(moments))
    for value in range(5):
        clock.put(value)
    clock.end()
    assert clock.first_token_s == 3.0
    assert clock.tokens_per_second == 2.0


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0, repetition_penalty=1.0)]
)
def test_no_token_ends_the_text(sampling: SamplingParams) -> None:
    """Check that end tokens are suppressed; one of the small network's 61 tokens is one."""
    wanted = SamplingParams(**{**vars(sampling), "max_new_tokens": 150})
    model = small_model()
    assert len(generate(model, [1, 2, 3], wanted).times) == 150


def test_the_cache_of_the_compiled_baseline_is_one_that_generate_knows() -> None:
    """Check the arguments of the compiled cache, which needs no GPU."""
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config).eval()
    greedy = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=4)
    assert len(generate(model, [1, 2], greedy, cache_implementation="static").times) == 4


def test_torchao_has_the_products_of_our_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the calls to torchao, with stubs in place of the package and the GPU."""
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(
        "jet.bench.torchao_baseline.make_product_timer", lambda *given: asked.append(given) or (lambda: 0.25)
    )
    network = SimpleNamespace(
        device=torch.device("cuda"),
        model=SimpleNamespace(dtype=torch.bfloat16),
        runner=SimpleNamespace(decode_step=SimpleNamespace(ops=["a part"])),
    )
    options = Options("decode", "model", baseline="torchao", quantize="int4")
    (other,) = baselines(network, options)  # type: ignore[arg-type]
    assert asked == [(["a part"], "int4", network.device, torch.bfloat16)]
    assert other.label == "nothing but the products of a step, in int4 by torchao"
    assert other.run().tokens_per_second == 4


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "torchao is for CUDA"), ("cuda", "torchao is not installed: pip install")]
)
def test_torchao_where_it_cannot_be_had(device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    network = SimpleNamespace(
        device=torch.device(device),
        model=SimpleNamespace(dtype=torch.bfloat16),
        runner=SimpleNamespace(decode_step=SimpleNamespace(ops=[])),
    )
    options = Options("decode", "model", baseline="torchao", quantize="int8")
    with pytest.raises(BenchError, match=message):
        baselines(network, options)  # type: ignore[arg-type]


def test_on_a_cpu_generate_runs_with_the_engines_threads_and_with_all() -> None:
    options = Options("decode", str(GOLDEN / "tiny-2b"), device="cpu", context=3, tokens=4)
    network = networks.load(options)
    others = baselines(network, options)
    counts = sorted({1, network.threads})
    assert [other.name for other in others] == [f"generate_{count}" for count in counts]
    before = torch.get_num_threads()
    assert len(others[0].run().times) == 4
    torch.set_num_threads(before)
    network.runner.close()


def test_prompts_are_compared_with_a_plain_transformer_of_our_sizes() -> None:
    ours = small_model()
    model = random_transformer(ours, "sdpa")
    assert isinstance(model, Qwen2ForCausalLM)
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "rope_theta"):
        found = getattr(model.config, name, None) or model.config.rope_parameters["rope_theta"]
        assert found == getattr(ours.config, name)
    clock = prefill_forward(model, [1, 2, 3])
    assert len(clock.times) == 1 and clock.first_token_s > 0
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3]])).logits
    assert logits.shape == (1, 3, ours.config.vocab_size)
