"""Test that the faster interpreter gives the results of Triton's own."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("kernels are compiled here", allow_module_level=True)

import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from tests.interpreter import own_reduce, reduce_in_pairs


@triton.jit
def carried(a, x, b, y):
    """Combine associatively, as a reduction must, but not commutatively: later elements count more."""
    return a * b, x * b + y


@triton.jit
def reduced(factors, terms, out, rows: tl.constexpr, columns: tl.constexpr, axis: tl.constexpr):
    at = tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :]
    both = tl.reduce((tl.load(factors + at), tl.load(terms + at)), axis, carried)
    length: tl.constexpr = columns if axis == 0 else rows
    tl.store(out + tl.arange(0, length), both[0])
    tl.store(out + length + tl.arange(0, length), both[1])


def launch(shape: tuple[int, int], axis: int) -> Tensor:
    torch.manual_seed(0)
    factors, terms = torch.rand(shape) + 0.5, torch.randn(shape)
    out = torch.full((2, shape[1 - axis]), torch.nan)
    reduced[(1,)](factors, terms, out, *shape, axis)
    return out


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (4, 2), (16, 4)])
@pytest.mark.parametrize("axis", [0, 1])
def test_tuples_are_reduced_alike(shape: tuple[int, int], axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interpreter.ReduceOps.generic_reduce is reduce_in_pairs
    quick = launch(shape, axis)
    monkeypatch.setattr(interpreter.ReduceOps, "generic_reduce", own_reduce)
    torch.testing.assert_close(quick, launch(shape, axis))


@triton.jit
def inner(x):
    return tl.sum(x, axis=0) + tl.max(x, axis=0)


@triton.jit
def outer(x, out):
    tl.store(out, inner(tl.load(x + tl.arange(0, 4))))


def test_the_language_is_as_before_when_a_kernel_has_ended_or_failed() -> None:
    before = {module: dict(vars(module)) for module in (tl, tl.core)}
    x, out = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(1)
    with pytest.raises(Exception, match="axis"):
        reduced[(1,)](x, x, out, 1, 4, 2)
    outer[(1,)](x, out)
    assert out.item() == 14
    for module, names in before.items():
        assert all(getattr(module, name) is value for name, value in names.items())
