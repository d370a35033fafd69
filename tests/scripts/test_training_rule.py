"""Test the gated delta rule of the training script against the definition, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from jet.ops.gated_delta_rule import naive_recurrent_gated_delta_rule
from scripts.training.delta_rule import scan, trainable_gated_delta_rule, unit_lower_inverse


def values_and_gradients(rule, inputs, weights):
    leaves = [x.clone().requires_grad_() for x in inputs]
    out, _ = rule(*leaves)
    gradients = torch.autograd.grad((out.to(weights) * weights).sum(), leaves)
    return [out, *gradients]


@pytest.mark.parametrize("length", [5, 64, 150])
@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-12), (True, 0.02)])
def test_the_rule_and_its_gradients_are_those_of_the_definition(length, half, tolerance):
    torch.manual_seed(length)
    q, k = torch.randn(2, 2, length, 2, 16, dtype=torch.float64).bfloat16().double()
    k = F.silu(k) + 0.3  # keys of a trained network are alike
    v, weights = torch.randn(2, 2, length, 2, 8, dtype=torch.float64).bfloat16().double()
    g, beta = torch.randn(2, 2, length, 2, dtype=torch.float64)
    inputs = [q, k, v, -F.softplus(g - 2), beta.sigmoid()]
    expected = values_and_gradients(naive_recurrent_gated_delta_rule, inputs, weights)
    if half:
        inputs = [x.bfloat16() for x in inputs[:3]] + [x.float() for x in inputs[3:]]
    got = values_and_gradients(trainable_gated_delta_rule, inputs, weights)
    assert got[0].dtype == (torch.bfloat16 if half else torch.float64)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours.double() - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.parametrize("size", [16, 32, 64])
def test_equal_keys_do_not_ruin_the_inverse(size):
    lower = torch.ones(2, size, size).tril(-1)
    inverse = unit_lower_inverse(lower)
    torch.testing.assert_close(inverse @ (lower + torch.eye(size)), torch.eye(size).expand(2, -1, -1))


def test_the_operators_keep_what_the_compiler_expects_of_them():
    torch.manual_seed(0)
    lower = torch.randn(2, 16, 16, dtype=torch.float64).tril(-1)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(unit_lower_inverse, (lower,), test_utils=checks)
    shapes = (3, 2, 4, 4), (3, 2, 4, 5), (3, 2)
    inputs = tuple((0.5 * torch.randn(s, dtype=torch.float64)).requires_grad_() for s in shapes)
    torch.library.opcheck(scan, inputs, test_utils=checks)
    assert torch.autograd.gradcheck(scan, inputs)
