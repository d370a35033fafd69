"""The decoder against the network's own forward, token by token, in every type; and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch

from jet import HybridCache, JetNemotronForCausalLM
from jet.modeling.decoder import Decoder
from tests.networks import GOLDEN, GOLDEN_PROMPTS, golden_expectations, golden_model, random_ids, small_model


@pytest.mark.parametrize("layers", ["jsja", "jjjj", "aaaa", "ssss"])
def test_steps_equal_forwards_in_float64(layers: str) -> None:
    """Through the convolution's start, past the window and past a growth of the buffers."""
    names = {"j": "jet", "s": "swa", "a": "attn"}
    model = small_model(layer_types=[names[letter] for letter in layers]).double()
    reference = copy.deepcopy(model)
    decoder = Decoder(model)
    ids = random_ids(model, 1, 300)
    cache, expected = HybridCache(model.config), HybridCache(model.config)
    with torch.inference_mode():
        model(ids[:, :2], past_key_values=cache)
        reference(ids[:, :2], past_key_values=expected)
        for token in ids[0, 2:].tolist():
            ours = decoder.step(token, cache)
            theirs = reference(torch.tensor([[token]]), past_key_values=expected).logits[:, -1]
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    assert cache.get_seq_length() == 300
    assert cache.memory() == expected.memory()


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
def test_greedy_ids_and_logits_are_golden(name: str, prompt: int) -> None:
    """Without float64 sums, a few times the rounding of forward; logits reach 27."""
    expected = golden_expectations(name)
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / name).eval()
    decoder, cache = Decoder(model), HybridCache(model.config)
    with torch.inference_mode():
        logits = model(expected[f"{prompt}.input_ids"][None], past_key_values=cache).logits[:, -1]
        for step, token in enumerate(expected[f"{prompt}.greedy_ids"].tolist()):
            torch.testing.assert_close(
                logits[0], expected[f"{prompt}.greedy_logits"][step], atol=1e-3, rtol=0
            )
            assert logits.argmax().item() == token
            logits = decoder.step(token, cache)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_half_precision_is_as_near_the_truth_as_the_forward(name: str, dtype: torch.dtype) -> None:
    """Over all prompts, one token at a time; the state stays float32."""
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / name, dtype=dtype).eval()
    decoder, plain = Decoder(model), golden_model(name, dtype)
    ours = theirs = 0.0
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        ids, truth = (golden_expectations(name)[f"{prompt}.{key}"] for key in ("input_ids", "logits"))
        with torch.inference_mode():
            cache, usual = HybridCache(model.config), HybridCache(model.config)
            first = model(ids[None, :1], past_key_values=cache).logits[0]
            steps = [decoder.step(token, cache) for token in ids[1:].tolist()]
            forwards = [plain(token.view(1, 1), past_key_values=usual).logits[0] for token in ids]
        ours += (torch.cat([first, *steps]).float() - truth).square().sum().item()
        theirs += (torch.cat(forwards).float() - truth).square().sum().item()
        for layer in cache.layers:
            if hasattr(layer, "recurrent_state"):
                assert layer.recurrent_state.dtype == torch.float32
    assert ours**0.5 <= 1.3 * theirs**0.5


@torch.inference_mode()
def test_weights_are_shared_not_copied_and_unchanged() -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decoder = Decoder(model)
    mlp = model.model.layers[0].mlp
    assert (
        mlp.gate_proj.weight.untyped_storage().data_ptr() == mlp.up_proj.weight.untyped_storage().data_ptr()
    )
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ids = random_ids(model, 1, 9)
    cache = model(ids).past_key_values
    kept = copy.deepcopy(cache)
    decoder.step(3, cache)
    assert kept.get_seq_length() == 9, "a copy of the cache is not touched by what follows"
    expected = model(torch.cat([ids, torch.tensor([[3]])], dim=1)).logits[:, -1]
    torch.testing.assert_close(decoder.step(3, kept), expected, atol=1e-4, rtol=1e-4)
