"""Test padding at any position: every row gives the same as alone, in every layer type."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM
from tests.networks import golden_expectations, golden_model, random_ids, small_model

EXACT = {"atol": 1e-9, "rtol": 0}  # in float64


def read(
    model: JetNemotronForCausalLM, ids: Tensor, mask: Tensor, sizes: list[int], say: bool = True
) -> Tensor:
    """Return the logits of `ids`, read in chunks of these sizes.

    The mask is passed with every chunk if `say` is True, else only with chunks that contain padding.
    """
    cache, logits, start = HybridCache(model.config), [], 0
    with torch.no_grad():
        for size in sizes:
            end = start + size
            said = mask[:, :end] if say or not mask[:, start:end].all() else None
            logits.append(model(ids[:, start:end], attention_mask=said, past_key_values=cache).logits)
            start = end
    return torch.cat(logits, dim=1)


def alone(model: JetNemotronForCausalLM, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids[None], use_cache=False).logits[0]


def check_rows(model: JetNemotronForCausalLM, ids: Tensor, mask: Tensor, logits: Tensor) -> None:
    for row, real in enumerate(mask.bool()):
        torch.testing.assert_close(logits[row, real], alone(model, ids[row, real]), **EXACT)


EVERYDAY = [("tiny-2b", "left", "sdpa"), ("tiny-4b", "right", "sdpa"), ("tiny-2b", "holes", "eager")]
CASES = [*product(("tiny-2b", "tiny-4b"), ("left", "right", "holes"), ("sdpa", "eager"))]


@pytest.mark.parametrize(
    ("name", "side", "attention"),
    [case if case in EVERYDAY else pytest.param(*case, marks=pytest.mark.thorough) for case in CASES],
)
def test_padded_prompts_go_on_as_if_alone(name: str, side: str, attention: str) -> None:
    """Continue the golden prompts, padded to one length, token by token."""
    model, expected = golden_model(name, torch.float64, attention), golden_expectations(name)
    count = 5 if name == "tiny-2b" else 4
    prompts = [expected[f"{number}.input_ids"] for number in range(count)]
    longest, written = max(map(len, prompts)), 24
    ids, mask = torch.zeros(count, longest + written, dtype=torch.long), torch.zeros(count, longest + written)
    mask[:, longest:] = 1
    generator = torch.Generator().manual_seed(0)
    for row, prompt in enumerate(prompts):
        missing = longest - len(prompt)
        places = {
            "left": torch.arange(missing, longest),
            "right": torch.arange(len(prompt)),
            "holes": torch.randperm(longest, generator=generator)[: len(prompt)].sort().values,
        }[side]
        ids[row, places], mask[row, places] = prompt, 1
        ids[row, longest:] = expected[f"{row}.greedy_ids"]
    logits = read(model, ids, mask, [longest, *[1] * (written - 1)])
    for row in range(count):
        real = mask[row, : longest + written - 1].bool()
        golden = torch.cat([expected[f"{row}.logits"], expected[f"{row}.greedy_logits"][1:]])
        torch.testing.assert_close(logits[row][real].float(), golden, atol=2e-4, rtol=0)
        assert logits[row, longest:].argmax(-1).tolist() == expected[f"{row}.greedy_ids"][1:].tolist()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_padding_in_any_pieces(data: st.DataObject) -> None:
    """Draw padding at random, also whole rows and late chunks; pass the mask always or only if needed."""
    attention = data.draw(st.sampled_from(["sdpa", "eager"]))
    model = small_model(attn_implementation=attention).double()
    sizes = data.draw(st.lists(st.integers(1, 11), min_size=1, max_size=6))
    rows = data.draw(st.integers(1, 3))
    drawn = data.draw(st.lists(st.booleans(), min_size=rows * sum(sizes), max_size=rows * sum(sizes)))
    mask = torch.tensor(drawn).view(rows, -1).long()
    ids = random_ids(model, rows, sum(sizes))
    logits = read(model, ids, mask, sizes, say=data.draw(st.booleans()))
    for row, real in enumerate(mask.bool()):
        if real.any():
            torch.testing.assert_close(logits[row, real], alone(model, ids[row, real]), **EXACT)


def test_rows_that_are_reordered_repeated_and_selected_take_their_padding_along() -> None:
    model = small_model().double()
    ids, mask = random_ids(model, 3, 30), torch.ones(3, 30).long()
    mask[0, 8:20], mask[1, :12], mask[2, 3::2] = 0, 0, 0
    mask[:, 20:] = 1
    cache = HybridCache(model.config)
    with torch.no_grad():
        model(ids[:, :20], attention_mask=mask[:, :20], past_key_values=cache)
        for order, change in (
            ([2, 0, 0], lambda c: c.reorder_cache(torch.tensor([2, 0, 0]))),
            ([1, 2], lambda c: c.batch_select_indices(torch.tensor([1, 2]))),
            ([0, 0, 1, 1, 2, 2], lambda c: c.batch_repeat_interleave(2)),
        ):
            changed = copy.deepcopy(cache)
            change(changed)
            logits = model(ids[order, 20:], past_key_values=changed).logits
            for row, original in enumerate(order):
                real = mask[original].bool()
                wanted = alone(model, ids[original, real])[-10:]
                torch.testing.assert_close(logits[row], wanted, **EXACT)
    cache.reset()
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits, **EXACT)


def test_padding_that_is_taken_back_is_forgotten() -> None:
    model = small_model(layer_types=["swa", "attn", "swa", "attn"]).double()
    ids, mask = random_ids(model, 2, 12), torch.ones(2, 12).long()
    mask[0, 2:4] = 0
    cache = HybridCache(model.config)
    with torch.no_grad():
        model(ids[:, :5], attention_mask=mask[:, :5], past_key_values=cache)
        cache.crop(-2)
        mask[0, 3] = 1
        logits = model(ids[:, 3:], past_key_values=cache).logits
    for row in range(2):
        wanted = alone(model, ids[row, mask[row].bool()])[-9:]
        torch.testing.assert_close(logits[row], wanted, **EXACT)


def test_a_mask_that_disowns_what_was_read_is_refused() -> None:
    model = small_model()
    ids, cache = random_ids(model, 1, 8), HybridCache(model.config)
    model(ids[:, :6], past_key_values=cache)
    mask = torch.ones(1, 8).long()
    mask[0, 2] = 0
    with pytest.raises(ValueError, match="cannot take that back"):
        model(ids[:, 6:], attention_mask=mask, past_key_values=cache)


def test_generate_goes_on_behind_no_padding() -> None:
    model = small_model()
    ids, mask = random_ids(model, 2, 8), torch.ones(2, 8).long()
    mask[0, 6:] = 0
    with pytest.raises(ValueError, match="pad on the left"):
        model.generate(ids, attention_mask=mask, max_new_tokens=2)


def test_a_text_may_begin_with_the_token_that_pads() -> None:
    model = small_model()
    options = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": 7, "eos_token_id": None}
    start = torch.tensor([[7]])
    wanted = model.generate(start, attention_mask=torch.ones_like(start), **options)
    assert torch.equal(model.generate(start, **options), wanted)
    padded = torch.tensor([[7, 7, 7], [7, 3, 5]])
    mask = torch.tensor([[0, 0, 1], [0, 1, 1]])
    assert torch.equal(
        model.generate(padded, **options), model.generate(padded, attention_mask=mask, **options)
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_what_was_read_in_inference_mode_goes_on_outside_of_it(name: str, trained: bool) -> None:
    model = golden_model(name) if not trained else small_model()
    ids = random_ids(model, 2, 40)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    cache = HybridCache(model.config)
    with torch.inference_mode():
        model(ids[:, :30], attention_mask=mask[:, :30], past_key_values=cache)
    copies = [copy.deepcopy(cache) for _ in range(3)]
    wanted = model(ids, attention_mask=mask).logits[:, 30:]
    logits = model(ids[:, 30:], past_key_values=cache).logits
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=0)
    if trained:
        logits.sum().backward()
    options = {"attention_mask": mask[:, :31], "do_sample": False, "max_new_tokens": 4, "pad_token_id": 0}
    plain = model.generate(ids[:, :31], **options)
    assert torch.equal(model.generate(ids[:, :31], past_key_values=copies[0], **options), plain)
    copies[1].reorder_cache(torch.tensor([1, 0]))
    swapped = model(ids[[1, 0], 30:], past_key_values=copies[1]).logits
    torch.testing.assert_close(swapped[[1, 0]], wanted, atol=1e-3, rtol=0)
    with torch.no_grad():  # and back again
        model(ids[:, 30:35], past_key_values=copies[2])
    with torch.inference_mode():
        again = model(ids[:, 35:], past_key_values=copies[2]).logits
    torch.testing.assert_close(again, wanted[:, 5:], atol=1e-3, rtol=0)
