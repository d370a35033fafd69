"""Compare the chunked form with the recurrence, on odd sizes and with initial states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jet.ops import gated_delta_rule as module
from jet.ops.gated_delta_rule import (
    chunk_gated_delta_rule,
    gated_delta_rule,
    naive_recurrent_gated_delta_rule,
)

SHAPES = [
    (1, 2, 1, 8, 8),
    (2, 63, 3, 12, 32),
    (1, 64, 2, 16, 8),
    (2, 65, 1, 5, 7),
    (1, 130, 2, 96, 24),
    (1, 3, 2, 4, 4),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Return q, k, v, g, beta and a state, with weak to strong decay."""
    batch, length, heads, keys, values = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    q, k, v = (
        normal(batch, length, heads, keys),
        normal(batch, length, heads, keys),
        normal(batch, length, heads, values),
    )
    g = -normal(batch, length, heads).exp() * 2
    beta = normal(batch, length, heads).sigmoid()
    return [x.to(dtype) for x in (q, k, v, g, beta, normal(batch, heads, keys, values))]


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute outputs and last state by the definition, with a loop over batch, heads and tokens."""
    batch, length, heads, keys = q.shape
    state, out = state.clone(), torch.zeros_like(v)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                query = q[b, t, h] / (q[b, t, h].square().sum() + 1e-6).sqrt() / keys**0.5
                key = k[b, t, h] / (k[b, t, h].square().sum() + 1e-6).sqrt()
                memory = state[b, h] * g[b, t, h].exp()
                memory = memory + torch.outer(key, beta[b, t, h] * (v[b, t, h] - memory.T @ key))
                state[b, h], out[b, t, h] = memory, memory.T @ query
    return out, state


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rule", [naive_recurrent_gated_delta_rule, chunk_gated_delta_rule, gated_delta_rule])
def test_every_form_follows_the_definition(rule: object, shape: tuple[int, ...]) -> None:
    given = inputs(shape)
    expected_out, expected_state = by_definition(*given)
    out, state = rule(*given)
    torch.testing.assert_close(out, expected_out, atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(state, expected_state, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("rule", [naive_recurrent_gated_delta_rule, chunk_gated_delta_rule])
def test_no_state_is_a_state_of_zeros(rule: object) -> None:
    *given, state = inputs(SHAPES[1])
    for ours, zeros in zip(rule(*given, None), rule(*given, torch.zeros_like(state)), strict=True):
        assert torch.equal(ours, zeros)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_state_is_float32_and_the_output_keeps_its_type(dtype: torch.dtype) -> None:
    *given, state = inputs((1, 70, 2, 8, 8), dtype)
    for rule in (naive_recurrent_gated_delta_rule, chunk_gated_delta_rule):
        out, new_state = rule(*given, state.float())
        assert out.dtype == dtype
        assert new_state.dtype == torch.float32


def test_8192_tokens_agree_with_the_recurrence_in_float32() -> None:
    given = inputs((1, 8192, 1, 16, 16), torch.float32)
    given[3] = given[3] * 0.01  # a memory that lasts, so that errors could add up
    (out, state), (expected_out, expected_state) = (
        chunk_gated_delta_rule(*given),
        naive_recurrent_gated_delta_rule(*given),
    )
    torch.testing.assert_close(out, expected_out, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(state, expected_state, atol=2e-5, rtol=1e-4)


def test_decay_so_strong_that_everything_is_forgotten() -> None:
    given = inputs((1, 70, 1, 4, 4), torch.float32)
    given[3] = torch.full_like(given[3], -200.0)
    out, state = chunk_gated_delta_rule(*given)
    expected_out, expected_state = naive_recurrent_gated_delta_rule(*given)
    assert out.isfinite().all()
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(state, expected_state)


def test_gradients_pass_the_numerical_check() -> None:
    given = [x.requires_grad_() for x in inputs((1, 5, 1, 3, 2))]
    assert torch.autograd.gradcheck(chunk_gated_delta_rule, given, atol=1e-6)
    assert torch.autograd.gradcheck(naive_recurrent_gated_delta_rule, given, atol=1e-6)


def test_the_cpu_uses_torch() -> None:
    assert module.prefill_implementation("cpu", torch.bfloat16) == "torch"
    assert module.prefill_implementation("cpu", torch.float32) == "torch"
