"""Test calls to torchao, which is a stub because the tests do not install it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from jet.bench import networks
from jet.bench.cases.kernels import REPEATS
from jet.bench.options import BenchError, Options
from jet.bench.torchao_baseline import make_product_timer, quantize
from tests.networks import GOLDEN

CPU = torch.device("cpu")


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[tuple[int, ...]], str]]:
    """Return a list to which each call of torchao adds the weights' shapes and the quantization."""
    seen: list[tuple[list[tuple[int, ...]], str]] = []

    def quantize_(model: nn.Module, how: str) -> None:
        linears = [part for part in model.modules() if isinstance(part, nn.Linear)]
        seen.append(([tuple(linear.weight.shape) for linear in linears], how))

    stand_in: Any = ModuleType("torchao")
    stand_in.__spec__ = ModuleSpec("torchao", None)
    stand_in.quantization = SimpleNamespace(
        Int8WeightOnlyConfig=lambda: "int8",
        Int4WeightOnlyConfig=lambda group_size, int4_packing_format: f"int4 by {group_size}",
        quantize_=quantize_,
    )
    monkeypatch.setitem(sys.modules, "torchao", stand_in)
    return seen


@pytest.mark.parametrize(("scheme", "how"), [("int8", "int8"), ("int4", "int4 by 64")])
def test_weights_are_held_as_ours_are(scheme: str, how: str, quantized: list[Any]) -> None:
    quantize(nn.Sequential(nn.Linear(3, 5)), scheme)
    assert quantized == [([(5, 3)], how)]


@pytest.mark.usefixtures("quantized")
@pytest.mark.parametrize("error", [ImportError, ValueError, AssertionError])
def test_what_it_cannot_hold_is_said(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def quantize_(model: nn.Module, how: str) -> None:
        raise error("only bfloat16")

    monkeypatch.setattr(sys.modules["torchao"].quantization, "quantize_", quantize_)
    with pytest.raises(BenchError, match="torchao cannot hold these weights in int4: only bfloat16"):
        quantize(nn.Linear(2, 2), "int4")


def test_the_products_are_those_of_a_step(quantized: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied: list[tuple[int, ...]] = []

    def compiled(product: Callable[..., torch.Tensor], **how: object) -> Callable[..., torch.Tensor]:
        def run(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            assert inputs.shape == (1, weight.shape[1])
            multiplied.append(tuple(weight.shape))
            return product(inputs, weight)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    options = Options("decode", str(GOLDEN / "tiny-2b"), device="cpu", context=3, tokens=4, quantize="int8")
    network = networks.load(options)
    seconds = make_product_timer(network.runner.decode_step.ops, "int8", CPU, torch.float32)
    network.runner.close()
    ((shapes, _),) = quantized
    # All weights but those that no product reads: of norms, decays, convolutions and biases.
    assert 0.99 < sum(rows * columns for rows, columns in shapes) / network.info.parameters < 1
    assert multiplied == shapes
    assert seconds() > 0
    assert multiplied == shapes * (1 + REPEATS)
