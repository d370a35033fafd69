"""Test gradients: chunks against the recurrence, with and without checkpointing, and learning steps."""

from __future__ import annotations

import pytest
import torch

from jet.modeling import jet_block
from jet.ops.gated_delta_rule import naive_recurrent_gated_delta_rule
from tests.networks import random_ids, small_model


def gradients(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradients_of_chunks_equal_those_of_the_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model().double().train()
    ids = random_ids(model, 2, 150)
    chunked = gradients(model, ids)
    monkeypatch.setattr(jet_block, "gated_delta_rule", naive_recurrent_gated_delta_rule)
    recurrent = gradients(model, ids)
    assert chunked.keys() == recurrent.keys()
    for name, gradient in chunked.items():
        assert gradient.abs().max() > 0, f"{name} gets no gradient"
        torch.testing.assert_close(gradient, recurrent[name], atol=1e-9, rtol=1e-6)


def test_gradient_checkpointing_changes_nothing() -> None:
    model = small_model().train()
    ids = random_ids(model, 2, 40)
    plain = gradients(model, ids)
    model.gradient_checkpointing_enable()
    for name, gradient in gradients(model, ids).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-4)


def test_gradients_flow_through_a_cache() -> None:
    """Check that two chunks give the same gradients as the whole story."""
    model = small_model().double()
    ids = random_ids(model, 1, 30)
    model(ids, use_cache=False).logits[:, -1].sum().backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    cache = model(ids[:, :17], use_cache=True).past_key_values
    model(ids[:, 17:], past_key_values=cache).logits[:, -1].sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-9, rtol=1e-6)


def test_a_few_steps_learn_a_sentence() -> None:
    model = small_model(initializer_range=0.05).train()
    ids = random_ids(model, 1, 24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
