"""Compare the network with the official one in float64, for every way to read the prompt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jet import HybridCache
from tests.networks import GOLDEN_PROMPTS, golden_expectations, golden_model

LOGITS, STATES = 2e-4, 1e-4  # absolute; logits reach 27, states 8


def read(model: torch.nn.Module, ids: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, HybridCache]:
    """Read `ids` `[T]` in chunks of the given sizes, repeated; return logits `[T, vocab]` and the cache."""
    cache = HybridCache(model.config)
    logits, start, turn = [], 0, 0
    with torch.no_grad():
        while start < len(ids):
            piece = ids[None, start : start + sizes[turn % len(sizes)]]
            logits.append(model(piece, past_key_values=cache, use_cache=True).logits[0])
            start, turn = start + piece.shape[1], turn + 1
    return torch.cat(logits), cache


def assert_states(cache: HybridCache, expected: dict[str, Tensor], prompt: int) -> None:
    checked = 0
    for index, layer in enumerate(cache.layers):
        for state in ("recurrent_state", "conv_state"):
            key = f"{prompt}.{state}.{index}"
            if key in expected:
                torch.testing.assert_close(getattr(layer, state)[0], expected[key], atol=STATES, rtol=0)
                checked += 1
    assert checked == 2 * sum(kind == "jet" for kind in golden_layer_types(cache))


def golden_layer_types(cache: HybridCache) -> list[str]:
    return ["jet" if hasattr(layer, "recurrent_state") else "attention" for layer in cache.layers]


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
def test_whole_forward_gives_golden_logits_and_states(name: str, prompt: int) -> None:
    expected = golden_expectations(name)
    logits, cache = read(golden_model(name), expected[f"{prompt}.input_ids"], (10_000,))
    torch.testing.assert_close(logits, expected[f"{prompt}.logits"], atol=LOGITS, rtol=0)
    assert_states(cache, expected, prompt)


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
@pytest.mark.parametrize("sizes", [(1,), (2,), (3,), (5,), (64,), (65,), (2, 7, 1, 30)], ids=str)
def test_pieces_of_any_size_give_golden_logits_and_states(
    name: str, prompt: int, sizes: tuple[int, ...]
) -> None:
    expected = golden_expectations(name)
    logits, cache = read(golden_model(name), expected[f"{prompt}.input_ids"], sizes)
    torch.testing.assert_close(logits, expected[f"{prompt}.logits"], atol=LOGITS, rtol=0)
    assert_states(cache, expected, prompt)


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
def test_hidden_states_of_every_layer(name: str, prompt: int) -> None:
    expected = golden_expectations(name)
    model = golden_model(name)
    with torch.no_grad():
        hidden = model(expected[f"{prompt}.input_ids"][None], output_hidden_states=True).hidden_states
    assert len(hidden) == model.config.num_hidden_layers + 1
    for index, states in enumerate(hidden):
        torch.testing.assert_close(states[0], expected[f"{prompt}.hidden.{index}"], atol=LOGITS, rtol=0)


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
def test_generate_gives_golden_greedy_ids_and_logits(name: str, prompt: int) -> None:
    expected = golden_expectations(name)
    ids = expected[f"{prompt}.input_ids"][None]
    out = golden_model(name).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert out.sequences[0, ids.shape[1] :].tolist() == expected[f"{prompt}.greedy_ids"].tolist()
    torch.testing.assert_close(
        torch.cat(out.logits), expected[f"{prompt}.greedy_logits"], atol=LOGITS, rtol=0
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
def test_attention_implementations_agree(name: str, prompt: int, attention: str) -> None:
    expected = golden_expectations(name)
    logits, _ = read(golden_model(name, attention=attention), expected[f"{prompt}.input_ids"], (50, 1))
    torch.testing.assert_close(logits, expected[f"{prompt}.logits"], atol=LOGITS, rtol=0)


@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_float64_reaches_the_rounding_of_the_expectations(name: str) -> None:
    """Check the float64 network, which other tests use as reference for low precision."""
    expected = golden_expectations(name)
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        logits, _ = read(golden_model(name, torch.float64), expected[f"{prompt}.input_ids"], (10_000,))
        truth = expected[f"{prompt}.logits"].double()
        assert (logits - truth).norm() / truth.norm() < 1e-6


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.3), (torch.float16, 0.03)])
@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_half_precision_runs_on_the_cpu_with_float32_state(
    name: str, dtype: torch.dtype, limit: float
) -> None:
    """Allow large errors: random weights amplify rounding; the official network has 2-30 % in bfloat16."""
    expected = golden_expectations(name)
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        logits, cache = read(golden_model(name, dtype), expected[f"{prompt}.input_ids"], (40,))
        truth = expected[f"{prompt}.logits"]
        assert logits.dtype == dtype
        assert (logits.float() - truth).norm() / truth.norm() < limit
        for layer in cache.layers:
            if hasattr(layer, "recurrent_state"):
                assert layer.recurrent_state.dtype == torch.float32
                assert layer.conv_state.dtype == dtype
