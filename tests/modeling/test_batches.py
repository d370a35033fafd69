"""Test that a row of a padded batch equals the row alone, in every layer type, for any chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from jet import HybridCache, JetNemotronForCausalLM
from tests.networks import random_ids, small_model

EQUAL = {"atol": 1e-9, "rtol": 1e-9}
LENGTHS = (90, 1, 2, 3, 7, 33)
TYPES = {"all": None, "jet": ["jet"] * 3, "attn": ["attn"] * 3, "swa": ["swa"] * 3}


def model_of(kind: str) -> JetNemotronForCausalLM:
    """Load a network in float64, where equivalent computations differ in the last digits only."""
    layers = TYPES[kind]
    model = small_model() if layers is None else small_model(layer_types=layers, num_hidden_layers=3)
    return model.double()


def left_padded(rows: list[Tensor], padding_id: int = 5) -> tuple[Tensor, Tensor]:
    """Return rows padded on the left, and their mask. Padding is an ordinary token, so that leaks show."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), padding_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return ids, mask


@pytest.fixture(params=list(TYPES))
def model(request: pytest.FixtureRequest) -> JetNemotronForCausalLM:
    return model_of(request.param)


@pytest.fixture
def rows(model: JetNemotronForCausalLM) -> list[Tensor]:
    return [random_ids(model, length, seed=length) for length in LENGTHS]


@torch.no_grad()
def test_left_padded_rows_are_as_if_alone(model: JetNemotronForCausalLM, rows: list[Tensor]) -> None:
    ids, mask = left_padded(rows)
    together = model(ids, attention_mask=mask)
    for index, row in enumerate(rows):
        alone = model(row[None])
        torch.testing.assert_close(together.logits[index, -len(row) :], alone.logits[0], **EQUAL)
        for ours, theirs in zip(together.past_key_values.layers, alone.past_key_values.layers, strict=True):
            if hasattr(ours, "recurrent_state"):
                torch.testing.assert_close(ours.recurrent_state[index], theirs.recurrent_state[0], **EQUAL)
                torch.testing.assert_close(ours.conv_state[index], theirs.conv_state[0], **EQUAL)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(1,), (2,), (3, 5), (40,)], ids=str)
def test_left_padded_rows_in_pieces(
    model: JetNemotronForCausalLM, rows: list[Tensor], sizes: tuple[int, ...]
) -> None:
    """Test chunks that are all padding for some rows, contain the padding's end, or begin after it."""
    ids, mask = left_padded(rows)
    whole = model(ids, attention_mask=mask).logits
    cache, pieces, start, turn = HybridCache(model.config), [], 0, 0
    while start < ids.shape[1]:
        end = min(start + sizes[turn % len(sizes)], ids.shape[1])
        pieces.append(model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache).logits)
        start, turn = end, turn + 1
    read = torch.cat(pieces, dim=1)
    for index, row in enumerate(rows):
        torch.testing.assert_close(read[index, -len(row) :], whole[index, -len(row) :], **EQUAL)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_padding_never_makes_nan(rows: list[Tensor], attention: str, dtype: torch.dtype) -> None:
    model = model_of("all").to(dtype)
    model.set_attn_implementation(attention)
    ids, mask = left_padded([row % model.config.vocab_size for row in rows])
    logits = model(ids, attention_mask=mask).logits
    assert logits[mask.bool()].isfinite().all()


def test_generated_batch_equals_single_rows(model: JetNemotronForCausalLM, rows: list[Tensor]) -> None:
    ids, mask = left_padded(rows)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    for index, row in enumerate(rows):
        alone = model.generate(row[None], attention_mask=torch.ones_like(row[None]), **options)[0, len(row) :]
        assert together[index].tolist() == alone.tolist()


@torch.no_grad()
def test_a_first_token_of_padded_rows_never_reaches_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that flash attention never gets rows of padding alone, which it cannot pack."""
    model, called = model_of("attn"), []

    def packed(module: torch.nn.Module, query: Tensor, *given: Tensor, **more: object) -> None:
        called.append(query.shape)

    ids, mask = left_padded([random_ids(model, length, seed=length) for length in (1, 3)])
    expected = model(ids[:, :1], attention_mask=mask[:, :1]).logits
    monkeypatch.setattr(type(ALL_ATTENTION_FUNCTIONS), "get_interface", lambda *given: packed)
    monkeypatch.setattr(model.config, "_attn_implementation", "flash_attention_2")
    together = model(ids[:, :1], attention_mask=mask[:, :1]).logits
    torch.testing.assert_close(together[1], expected[1], **EQUAL)
    assert not called


@torch.no_grad()
def test_gaps_and_right_padding_leave_no_trace_in_a_jet_layer() -> None:
    """Test that a recurrent layer skips padding anywhere, and continues from the last unpadded token."""
    model = model_of("jet")
    ids = random_ids(model, 1, 20)
    mask = torch.ones_like(ids)
    mask[0, [0, 5, 6, 11, 18, 19]] = 0
    real = ids[mask.bool()][None]
    gapped, alone = model(ids, attention_mask=mask), model(real)
    torch.testing.assert_close(gapped.logits[mask.bool()], alone.logits[0], **EQUAL)
    more = random_ids(model, 1, 3, seed=9)
    mask = torch.cat([mask, torch.ones_like(more)], dim=1)
    after = model(more, attention_mask=mask, past_key_values=gapped.past_key_values).logits
    torch.testing.assert_close(after, model(more, past_key_values=alone.past_key_values).logits, **EQUAL)


def test_a_mask_of_the_wrong_length_says_what_is_expected() -> None:
    model = small_model()
    ids = random_ids(model, 2, 6)
    with pytest.raises(ValueError, match=r"past \+ new tokens\] = \[2, 6\], not \[2, 5\]"):
        model(ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="who sees whom"):
        model(ids, attention_mask=torch.ones(2, 1, 6, 6))
