"""Test the tuning script: it times every product of a step, with tilings that run."""

from __future__ import annotations

import math

import pytest
import torch

from jet.cache.state_pool import StatePool
from jet.engine.decode_step import DecodeStep
from jet.ops.backends import reference_backend
from jet.ops.decode_batch import DecodeBatch
from jet.ops.quantization import SCHEMES, QuantizedTensor, Weight
from scripts.tune_kernels import gemv_configs, products, weight_shape
from tests.networks import golden_model, small_config


@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_the_products_are_those_of_a_step(name: str) -> None:
    model = golden_model(name)
    pool = StatePool(model.config, 1, 256, torch.float32, "cpu")
    with torch.inference_mode():
        step = DecodeStep(model, pool, DecodeBatch.make(1, "cpu"), reference_backend())
    rest = step.ops[1:]  # without the embedding
    states = 2 * sum(m.recurrent[0].nbytes + m.conv[0].nbytes for m in pool.layers if hasattr(m, "conv"))
    moved = sum(part.nbytes for part in rest) - states
    assert sum(p.layers * 4 * math.prod(weight_shape(p)) for p in products(model.config)) == moved


def empty(shape: tuple[int, int], scheme: str) -> Weight:
    if scheme in SCHEMES:
        return QuantizedTensor.empty(shape, scheme, torch.bfloat16, torch.device("meta"))
    return torch.empty(shape, dtype=getattr(torch, scheme), device="meta")


@pytest.mark.parametrize("scheme", ["bfloat16", "float32", *SCHEMES])
def test_cuts_are_powers_of_two_and_some_are_left_for_every_product(scheme: str) -> None:
    for product in products(small_config(hidden_size=1536, intermediate_size=8960)):
        cuts = list(gemv_configs(product, empty(weight_shape(product), scheme)))
        assert cuts or product.c < 100
        assert all(math.log2(number).is_integer() for cut in cuts for number in cut)


def test_one_kind_can_be_asked_for() -> None:
    found = products(small_config(), "linear_add")
    assert found and {product.kind for product in found} == {"linear_add"}


@pytest.mark.gpu
@pytest.mark.timeout(400)
@pytest.mark.parametrize("more", [[], ["--quantize", "int4"]], ids=["numbers", "int4"])
def test_it_finds_the_fastest_of_a_small_network(tmp_path, capsys, more) -> None:  # type: ignore[no-untyped-def]
    from scripts import tune_kernels

    small_config(hidden_size=256, intermediate_size=512, num_attention_heads=4).save_pretrained(tmp_path)
    tune_kernels.main(["--config", str(tmp_path / "config.json"), "--workers", "4", *more])
    assert capsys.readouterr().out.count("(default)") >= 1
