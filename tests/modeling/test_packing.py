"""Test that packed texts give the same as each alone, in every layer, or an error with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DataCollatorWithFlattening

from jet import HybridCache, JetNemotronForCausalLM
from tests.networks import golden_expectations, golden_model, random_ids, small_model

EXACT = {"atol": 1e-9, "rtol": 0}  # in float64


def alone(model: JetNemotronForCausalLM, texts: list[Tensor]) -> Tensor:
    """Return the concatenated logits of all texts, each read alone."""
    with torch.no_grad():
        return torch.cat([model(text[None], use_cache=False).logits[0] for text in texts])


def positions(texts: list[Tensor]) -> Tensor:
    return torch.cat([torch.arange(len(text)) for text in texts])[None]


def borders(texts: list[Tensor]) -> Tensor:
    return torch.tensor(
        [0, *torch.tensor([len(text) for text in texts]).cumsum(0).tolist()], dtype=torch.int32
    )


def numbers(texts: list[Tensor]) -> Tensor:
    return torch.cat([torch.full((len(text),), number) for number, text in enumerate(texts)])[None]


Ways = dict[str, Callable[[list[Tensor]], dict[str, object]]]
WAYS: Ways = {
    "positions": lambda t: {"position_ids": positions(t)},
    "borders": lambda t: {"cu_seq_lens_q": borders(t), "cu_seq_lens_k": borders(t), "max_length_q": 64},
    "borders as FLA names them": lambda t: {"cu_seqlens": borders(t)},
    "numbers": lambda t: {"seq_idx": numbers(t).int()},
    "all of them": lambda t: {
        "position_ids": positions(t),
        "cu_seq_lens_q": borders(t),
        "cu_seq_lens_k": borders(t),
        "seq_idx": numbers(t),
    },
    "borders besides positions that count on": lambda t: {
        "cu_seqlens": borders(t),
        "position_ids": torch.arange(sum(map(len, t)))[None],
    },
}


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("way", WAYS)
def test_packed_texts_are_read_as_each_alone(way: str, attention: str) -> None:
    """Pack the golden prompts of 1 to more than 64 tokens, in float64."""
    model = golden_model("tiny-2b", torch.float64, attention)
    expected = golden_expectations("tiny-2b")
    texts = [expected[f"{number}.input_ids"] for number in range(5)]
    with torch.no_grad():
        logits = model(torch.cat(texts)[None], **WAYS[way](texts)).logits[0]
    golden = torch.cat([expected[f"{number}.logits"] for number in range(5)])
    torch.testing.assert_close(logits.float(), golden, atol=1e-4, rtol=0)
    # Angles are of float32: those of later positions are rounded in another way.
    limits = {"atol": 1e-4, "rtol": 0} if "count on" in way else EXACT
    torch.testing.assert_close(logits, alone(model, texts), **limits)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_any_rows_of_any_texts_with_padding_around_them(rows: list[list[int]], data: st.DataObject) -> None:
    model = small_model().double()
    length = max(map(sum, rows)) + 2
    ids, places = random_ids(model, len(rows), length), torch.zeros(len(rows), length, dtype=torch.long)
    mask, wanted = torch.zeros_like(places), []
    for row, sizes in enumerate(rows):
        start = data.draw(st.integers(0, length - sum(sizes)))
        for size in sizes:
            places[row, start : start + size] = torch.arange(size)
            mask[row, start : start + size] = 1
            wanted.append(ids[row, start : start + size])
            start += size
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(logits[mask.bool()], alone(model, wanted), **EXACT)


def test_what_the_collator_of_transformers_packs_trains_as_each_alone() -> None:
    model = small_model().double()
    texts = [random_ids(model, size, seed=size) for size in (5, 9, 1, 12)]
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)
    batch = collate([{"input_ids": text.tolist()} for text in texts])
    loss = model(**batch).loss
    loss.backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    ids = torch.cat(texts)[None]
    assert torch.equal(
        model(ids, cu_seqlens=borders(texts), labels=ids).loss, loss
    )  # a text's last token predicts nothing
    total = sum(
        model(text[None], labels=text[None]).loss * (len(text) - 1) for text in texts if len(text) > 1
    )
    mean = total / sum(len(text) - 1 for text in texts)
    mean.backward()
    torch.testing.assert_close(loss, mean, **EXACT)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, **EXACT)


def test_hidden_states_and_the_last_logits_are_in_their_places() -> None:
    model = small_model().double()
    texts = [random_ids(model, size, seed=size) for size in (4, 7)]
    output = model(
        torch.cat(texts)[None], seq_idx=numbers(texts), output_hidden_states=True, logits_to_keep=1
    )
    assert [state.shape[1] for state in output.hidden_states] == [11] * 5
    torch.testing.assert_close(output.logits[0], alone(model, texts)[-1:], **EXACT)
    assert output.past_key_values is None


def test_what_cannot_be_honoured_is_said() -> None:
    model = small_model()
    ids, two = random_ids(model, 1, 6), torch.tensor([[0, 1, 2, 0, 1, 2]])
    cases: list[tuple[dict[str, object], str]] = [
        ({"position_ids": two, "use_cache": True}, "without past_key_values"),
        ({"position_ids": two, "past_key_values": HybridCache(model.config)}, "without past_key_values"),
        ({"position_ids": two, "output_attentions": True}, "without past_key_values"),
        ({"position_ids": torch.tensor([[0, 1, 2, 10, 11, 12]])}, "jump from 2 to 10"),
        ({"position_ids": two, "cu_seqlens": torch.tensor([0, 2, 6])}, "begin again where"),
        (
            {"cu_seq_lens_q": torch.tensor([0, 2, 6]), "cu_seq_lens_k": torch.tensor([0, 3, 6])},
            "the same texts",
        ),
        ({"cu_seqlens": torch.tensor([0, 2, 5])}, "from 0 to the number of tokens"),
        ({"cu_seqlens": torch.tensor([0, 4, 2, 6])}, "must not fall"),
        ({"seq_idx": torch.zeros(1, 5)}, "seq_idx must be"),
        ({"position_ids": two[None].expand(3, 1, 6)}, "position_ids must be"),
        ({"attention_mask": torch.tensor([[1, 1, 1, 2, 2, 2]])}, "attention_mask must hold 0 at padding"),
    ]
    for given_, message in cases:
        with pytest.raises(ValueError, match=message):
            model(ids, **given_)
    with pytest.raises(TypeError, match="no argument head_mask"):
        model(ids, head_mask=torch.ones(4, 6))


def test_rows_that_hold_one_text_each_keep_their_cache() -> None:
    model = small_model()
    ids = random_ids(model, 2, 6)
    plain = torch.arange(6)
    for given_ in ({"position_ids": plain}, {"position_ids": plain[None] + 5}, {"seq_idx": torch.ones(2, 6)}):
        output = model(ids, use_cache=True, **given_)
        assert output.past_key_values.get_seq_length() == 6
        torch.testing.assert_close(output.logits, model(ids).logits)


@torch.no_grad()
def test_a_text_that_begins_behind_another_one_in_the_cache_is_refused() -> None:
    model = small_model()
    ids = torch.arange(1, 9)[None].expand(2, -1)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    for first, begins in ((None, 0), (None, 4), (mask, 2), (mask, 4)):
        for count in (1, 3):
            past = model(ids[:, :5], attention_mask=first).past_key_values
            positions = torch.arange(begins, begins + count)[None]
            with pytest.raises(ValueError, match=f"begin again at {begins} behind the 5 tokens"):
                model(ids[:, 5 : 5 + count], position_ids=positions, past_key_values=past)
    past = model(ids[:, :5], attention_mask=mask).past_key_values
    goes_on = torch.tensor([[3, 4, 5], [5, 6, 7]])
    with_positions = model(ids[:, 5:], position_ids=goes_on, past_key_values=copy.deepcopy(past)).logits
    torch.testing.assert_close(with_positions, model(ids[:, 5:], past_key_values=past).logits)
