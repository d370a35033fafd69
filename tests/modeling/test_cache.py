"""Test HybridCache: lengths, bytes, rows, and cropping."""

from __future__ import annotations

import pytest
import torch

from jet import HybridCache
from jet.modeling.cache import KV_GROWTH_TOKENS
from tests.networks import random_ids, small_model


def filled(tokens: int, batch: int = 1, **changes: object) -> tuple[torch.nn.Module, HybridCache]:
    model = small_model(**changes)
    with torch.no_grad():
        return model, model(random_ids(model, batch, tokens)).past_key_values


@pytest.mark.parametrize("tokens", [1, 6, 7, 8, 40, KV_GROWTH_TOKENS, KV_GROWTH_TOKENS + 1])
def test_memory_is_the_bytes_of_the_rules(tokens: int) -> None:
    """Compare bytes with formulas for each type of layer.

    A jet layer has H·K·V and D·W values. A window has the keys and values of window - 1 tokens, full
    attention those of all tokens.
    """
    _, cache = filled(tokens)
    kv_per_token = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8, float32
    assert cache.memory() == {
        "recurrent": 2 * 3 * 12 * 18 * 4,
        "conv": 2 * 54 * 4 * 4,
        "window_kv": min(tokens, 6) * kv_per_token,
        "full_kv": tokens * kv_per_token,
    }
    assert cache.get_seq_length() == tokens


def test_a_long_prompt_is_not_kept_alive_by_its_window() -> None:
    _, cache = filled(200)
    window = cache.layers[1].keys
    assert window.untyped_storage().nbytes() == window.numel() * window.element_size()


def test_full_attention_grows_in_steps_without_losing_anything() -> None:
    model, cache = filled(KV_GROWTH_TOKENS - 3)
    ids = random_ids(model, 1, KV_GROWTH_TOKENS + 9)
    with torch.no_grad():
        for position in range(KV_GROWTH_TOKENS - 3, KV_GROWTH_TOKENS + 9):
            step = model(ids[:, position : position + 1], past_key_values=cache).logits
        whole = model(
            torch.cat([random_ids(model, 1, KV_GROWTH_TOKENS - 3), ids[:, KV_GROWTH_TOKENS - 3 :]], dim=1)
        ).logits
    torch.testing.assert_close(step[:, -1], whole[:, -1], atol=1e-4, rtol=1e-4)


def test_rows_can_be_reordered_repeated_and_selected() -> None:
    model, cache = filled(20, batch=3)
    token = torch.tensor([[4], [5], [6]])
    with torch.no_grad():
        rows = [model(random_ids(model, 3, 20)[i : i + 1]).past_key_values for i in range(3)]
        alone = torch.cat([model(token[i : i + 1], past_key_values=rows[i]).logits for i in range(3)])
        cache.reorder_cache(torch.tensor([2, 0, 1]))
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 3, 4]))
        out = model(token[[2, 0, 1]], past_key_values=cache).logits
    torch.testing.assert_close(out, alone[[2, 0, 1]], atol=1e-4, rtol=1e-4)


def test_reset_forgets_everything() -> None:
    model, cache = filled(20)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert sum(cache.memory().values()) == 0
    ids = random_ids(model, 1, 5)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)


def test_crop_says_why_a_recurrent_state_cannot_go_back() -> None:
    _, cache = filled(20)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in (cache.layers[1], cache.layers[3])]
    with pytest.raises(
        ValueError, match=r"The last 2 of 20 tokens .* JetLayerCache .* no past .* Copy the cache"
    ):
        cache.crop(-2)
    assert cache.get_seq_length() == 20
    for layer, (keys, values) in zip((cache.layers[1], cache.layers[3]), before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)
    cache.crop(0)
    cache.crop(25)
    assert cache.get_seq_length() == 20
    cache.crop(-20)
    assert cache.get_seq_length() == 0


def test_crop_works_where_nothing_was_forgotten() -> None:
    attention_only = {"layer_types": ["attn", "swa"], "num_hidden_layers": 2}
    model, cache = filled(6, **attention_only)
    ids = random_ids(model, 1, 6)
    cache.crop(-3)
    with torch.no_grad():
        again = model(ids[:, 3:], past_key_values=cache).logits
        torch.testing.assert_close(again, model(ids).logits[:, 3:])
    _, cache = filled(7, **attention_only)
    with pytest.raises(ValueError, match=r"WindowAttentionCache .* left its window"):
        cache.crop(-1)
