"""Test `generate()` with the options of transformers, on a network with all layer types."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, TextStreamer

from jet import HybridCache, JetNemotronForCausalLM
from tests.networks import random_ids, small_model


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return small_model()


@pytest.fixture(scope="module")
def ids(model: JetNemotronForCausalLM) -> Tensor:
    return random_ids(model, 1, 9)


def write(model: JetNemotronForCausalLM, ids: Tensor, **options: object) -> Tensor:
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **options}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return out[:, ids.shape[1] :]


@torch.no_grad()
def greedy_by_hand(model: JetNemotronForCausalLM, ids: Tensor, tokens: int) -> Tensor:
    for _ in range(tokens):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[:, -tokens:]


def test_greedy_equals_whole_forwards_without_a_cache(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    expected = greedy_by_hand(model, ids, 20)
    assert write(model, ids).tolist() == expected.tolist()
    assert write(model, ids, use_cache=False).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_prefill_in_chunks(model: JetNemotronForCausalLM, ids: Tensor, size: int) -> None:
    assert write(model, ids, prefill_chunk_size=size).tolist() == write(model, ids).tolist()


def test_sampling_follows_the_seed(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    def sample(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return write(model, ids, do_sample=True, temperature=1.5, top_p=0.95, top_k=40).tolist()

    assert sample(3) == sample(3)
    assert sample(3) != sample(4)


def test_num_return_sequences_begin_from_the_same_prompt(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    torch.manual_seed(0)
    out = write(model, ids, do_sample=True, temperature=2.0, num_return_sequences=3, output_logits=True)
    assert out.shape == (3, 20)
    assert len({tuple(row) for row in out.tolist()}) == 3


def test_a_streamer_gets_every_token_in_order(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    class Recorder(TextStreamer):
        def __init__(self) -> None:
            self.seen: list[int] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.seen.extend(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    recorder = Recorder()
    out = write(model, ids, streamer=recorder)
    assert recorder.seen == ids[0].tolist() + out[0].tolist()
    assert recorder.ended


def test_repetition_penalty_changes_the_text(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    plain, penalized = write(model, ids)[0].tolist(), write(model, ids, repetition_penalty=1.8)[0].tolist()
    assert len(set(penalized)) > len(set(plain))


def test_stops_at_either_end_token(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    text = write(model, ids)[0].tolist()
    for position in (4, 9):
        other = next(token for token in range(1, 61) if token not in text)
        out = write(model, ids, eos_token_id=[other, text[position]])[0].tolist()
        assert out == text[: text.index(text[position]) + 1]


def test_beam_search_equals_a_search_by_hand(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    """Score three beams over four steps by whole forwards, to check that the cache follows its beam."""
    out = write(model, ids, num_beams=3, max_new_tokens=4, length_penalty=0.0)[0].tolist()
    beams = [(0.0, ids)]
    with torch.no_grad():
        for _ in range(4):
            grown = []
            for score, beam in beams:
                logs = model(beam, use_cache=False).logits[0, -1].log_softmax(-1)
                values, tokens = logs.topk(6)
                grown += [
                    (score + value, torch.cat([beam, token.view(1, 1)], dim=1))
                    for value, token in zip(values.tolist(), tokens, strict=True)
                ]
            beams = sorted(grown, key=lambda item: -item[0])[:3]
    assert out == beams[0][1][0, -4:].tolist()


def test_what_needs_tokens_taken_back_is_refused(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="stateful"):
        write(model, ids, assistant_model=small_model(seed=5))


def test_another_kind_of_cache_is_refused(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    with pytest.raises(TypeError, match="HybridCache, not DynamicCache"):
        model(ids, past_key_values=DynamicCache())


def test_no_tokens_is_a_clear_error(model: JetNemotronForCausalLM) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


def test_a_cache_given_to_generate_goes_on(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    text = write(model, ids)
    cache = HybridCache(model.config)
    first = write(model, ids, max_new_tokens=8, past_key_values=cache)
    second = write(model, torch.cat([ids, first], dim=1), max_new_tokens=12, past_key_values=cache)
    assert first[0].tolist() + second[0].tolist() == text[0].tolist()


def test_a_copied_cache_is_a_branch_of_its_own(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    with torch.no_grad():
        cache = model(ids).past_key_values
        branch = copy.deepcopy(cache)
        token = ids[:, :1]
        first = model(token, past_key_values=cache).logits
        for _ in range(12):
            model(ids[:, 1:2], past_key_values=cache)
        assert torch.equal(model(token, past_key_values=branch).logits, first)


def test_inputs_embeds_and_tuples(model: JetNemotronForCausalLM, ids: Tensor) -> None:
    with torch.no_grad():
        expected = model(ids).logits
        embedded = model(inputs_embeds=model.get_input_embeddings()(ids), return_dict=False)
        assert isinstance(embedded, tuple)
        torch.testing.assert_close(embedded[0], expected)
        torch.testing.assert_close(model(ids, logits_to_keep=2).logits, expected[:, -2:])


def test_eager_attention_gives_its_weights(ids: Tensor) -> None:
    model = small_model()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    assert [weights is None for weights in attentions] == [True, False, True, False]
    window = attentions[1]
    assert window.shape == (1, 6, 9, 9)
    torch.testing.assert_close(window.sum(-1), torch.ones(1, 6, 9))
    assert (window[0, 0, 8, :2] == 0).all(), "a window of 7 sees the last 7 keys only"
    assert (window[0, 0, 8, 2:] > 0).all()
