"""Test quantized networks: from checkpoint to token, and what they refuse."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jet import CheckpointError, HybridCache, JetNemotronForCausalLM, load_model
from jet.modeling.footprint import decode_weight_bytes, total_weight_bytes
from jet.modeling.quantization import (
    QuantizedEmbedding,
    QuantizedLinear,
    count_parameters,
    is_tied,
    quantize_network,
)
from jet.modeling.quantized_loading import random_quantized
from jet.ops import activations
from jet.ops.activations import round_activations
from jet.ops.backends import TENSOR_CORE_BATCH
from jet.ops.quantization import CHUNK, SCHEMES, QuantizedTensor
from tests.conftest import ROOT
from tests.engine.test_decode_step import BACKENDS, SLOW, Stepped
from tests.networks import (
    GOLDEN,
    GOLDEN_NAMES,
    GOLDEN_PROMPTS,
    golden_expectations,
    random_ids,
    small_config,
    small_model,
)

STORY_MODEL = ROOT / "assets" / "story-model"
CPU = torch.device("cpu")


def with_numbers(model: JetNemotronForCausalLM) -> JetNemotronForCausalLM:
    """Return the same network with dequantized weights, in float64."""
    plain = JetNemotronForCausalLM(copy.deepcopy(model.config)).double().eval()
    numbers: dict[str, Tensor] = dict(model.named_parameters())
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | QuantizedEmbedding):
            numbers[f"{name}.weight"] = module.weight.dequantize(torch.float64)
    plain.load_state_dict({name: number.double() for name, number in numbers.items()})
    return plain


def with_rounded_activations(model: JetNemotronForCausalLM) -> JetNemotronForCausalLM:
    """Return `with_numbers(model)` with linear layers that also round their inputs to quantized values."""
    plain = with_numbers(model)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear):
            plain.get_submodule(name).register_forward_pre_hook(
                lambda _, given, weight=module.weight: (round_activations(given[0], weight).double(),)
            )
    return plain


def without_compiled_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the forward multiply by dequantized weights, as it does without numba."""
    monkeypatch.setattr(activations, "compiled_linear", lambda x: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model(layer_types=["jet", "swa", "attn", "jet"]).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", GOLDEN_NAMES)
@torch.inference_mode()
def test_forward_is_that_of_the_numbers(name: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiled_products(monkeypatch)
    model = load_model(GOLDEN / name, quantize=scheme)
    ids = random_ids(model, 2, 40)
    torch.testing.assert_close(
        model(ids).logits.double(), with_numbers(model)(ids).logits, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("operations", BACKENDS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rows", [1, 3, 9])
@torch.inference_mode()
def test_steps_equal_forwards(
    scheme: str, operations: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test few and many rows of different lengths, in all layer types."""
    # Inputs in 16 bits, whose rounding the layers of a random network amplify.
    tolerance, errors = 2e-3 if operations == "triton" and rows < TENSOR_CORE_BATCH else 2e-4, []
    if operations != "cpu":
        without_compiled_products(monkeypatch)
    if operations == "triton" and SLOW and rows > 3 and scheme == "int4":
        pytest.skip("the interpreter is slow")
    layers = ["jet", "attn"] if operations == "triton" and SLOW else ["jet", "swa", "attn", "jet"]
    # So many columns between the products of an MLP are whole parts in either scheme.
    config = small_config(layer_types=layers, num_hidden_layers=len(layers), intermediate_size=96)
    model = random_quantized(config, scheme, CPU, torch.float32)
    reference = with_rounded_activations(model) if operations == "cpu" else with_numbers(model)
    ids = random_ids(model, rows, 12)
    stepped, caches = Stepped(model, operations, rows, slots=rows), []
    assert (stepped.step._hidden.dtype == torch.int64) == (
        operations == "triton" and rows < TENSOR_CORE_BATCH
    )
    for row in range(rows):
        stepped.prefill(row, ids[row, : 2 + row % 3])
        caches.append(HybridCache(model.config))
        reference(ids[None, row, : 2 + row % 3], past_key_values=caches[row])
    read = 1 if operations == "triton" and SLOW else 3
    for tokens in ids[:, -read:].T.tolist():
        ours = stepped.read(*tokens)
        for row, token in enumerate(tokens):
            theirs = reference(torch.tensor([[token]]), past_key_values=caches[row]).logits[0, -1]
            if operations == "cpu":
                errors.append((ours[row] - theirs).abs().max().item())
                continue
            torch.testing.assert_close(ours[row].double(), theirs, atol=tolerance, rtol=tolerance)
    # Now and then a last bit decides which of two codes is the nearest, and a random network amplifies that.
    assert not errors or (sorted(errors)[len(errors) // 2] < 10 * tolerance and max(errors) < 0.5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_network_in_memory_gets_the_same_codes(name: str, scheme: str) -> None:
    loaded = load_model(GOLDEN / name, quantize=scheme).state_dict()
    made = quantize_network(load_model(GOLDEN / name), scheme).state_dict()
    assert loaded.keys() == made.keys()
    assert all(torch.equal(loaded[key], made[key]) for key in loaded)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_matrix_is_codes_and_nothing_is_held_twice(scheme: str) -> None:
    model = load_model(STORY_MODEL, quantize=scheme)
    assert model.quantization == scheme
    assert max(parameter.ndim for parameter in model.parameters()) == 1
    plain = load_model(STORY_MODEL)
    assert count_parameters(model) == count_parameters(plain) == plain.num_parameters()
    assert is_tied(model) and is_tied(plain)
    assert model.lm_head.weight.scheme == "int8"
    before = total_weight_bytes(model)
    share = before / total_weight_bytes(plain)
    assert share < (0.51 if scheme == "int8" else 0.34)  # of bfloat16; the head is a fifth of this model
    stepped = Stepped(model, "torch")
    assert stepped.step.saved_bytes == 0
    assert total_weight_bytes(model) == before == decode_weight_bytes(model)
    moved = sum(part.weight.nbytes for part in stepped.step.ops if part.weight is not None)
    assert moved == pytest.approx(before, rel=0.01)
    mlp = model.model.layers[0].mlp
    for name in ("qweight", "scales"):
        storages = {
            getattr(part.quantized_weight, name).untyped_storage().data_ptr()
            for part in (mlp.gate_proj, mlp.up_proj)
        }
        assert len(storages) == 1


def test_what_a_step_fetches_ahead_is_codes() -> None:
    model = random_quantized(small_config(), "int4", CPU, torch.float32)
    step = Stepped(model).step
    weights = [part.weight for part in step.ops if part.weight is not None]
    assert all(isinstance(weight, QuantizedTensor) for weight in weights)
    assert step.first_weight is weights[0].qweight
    assert [part.first_weight.data_ptr() for part in step.ops if part.weight is not None] == [
        weight.qweight.data_ptr() for weight in weights
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_untied_head_has_codes_of_its_own(scheme: str) -> None:
    model = load_model(GOLDEN / "tiny-4b", quantize=scheme)
    assert not is_tied(model)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    unread = model.model.embed_tokens.weight[1:].nbytes
    assert decode_weight_bytes(model) == total_weight_bytes(model) - unread


# Distance of all golden logits, relative, over all prompts; measured ones stand in docs/performance.md.
DEVIATIONS = {
    ("tiny-2b", "int8"): 0.18,
    ("tiny-2b", "int4"): 0.9,
    ("tiny-4b", "int8"): 0.12,
    ("tiny-4b", "int4"): 0.8,
}


# How much farther off quantized activations may be than quantized weights alone.
WITH_ACTIVATIONS = {"int8": 1.5, "int4": 1.05}


@pytest.mark.parametrize(("name", "scheme"), DEVIATIONS)
@torch.inference_mode()
def test_golden_logits_are_as_near_as_measured(
    name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(GOLDEN / name, quantize=scheme)
    both = golden_deviation(model, name)
    without_compiled_products(monkeypatch)
    weights = golden_deviation(model, name)
    print(f"{name}, {scheme}: {weights:.4f}, with quantized activations {both:.4f}")
    assert DEVIATIONS[name, scheme] / 2 < weights < DEVIATIONS[name, scheme]
    assert both < WITH_ACTIVATIONS[scheme] * weights


def golden_deviation(model: JetNemotronForCausalLM, name: str) -> float:
    wrong, size = 0.0, 0.0
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        ids, truth = (golden_expectations(name)[f"{prompt}.{key}"] for key in ("input_ids", "logits"))
        found = model(ids[None]).logits[0]
        wrong += (found - truth).square().sum().item()
        size += truth.square().sum().item()
    return (wrong / size) ** 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_large_matrices_are_multiplied_part_by_part(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_quantized(small_config(), scheme, CPU, torch.float32)
    ids = random_ids(model, 1, 9)
    without_compiled_products(monkeypatch)
    whole = model(ids).logits
    monkeypatch.setattr("jet.modeling.quantization.MAX_DEQUANTIZED", 7 * model.config.hidden_size)
    torch.testing.assert_close(model(ids).logits, whole, atol=1e-5, rtol=1e-5)


def test_the_type_of_the_numbers_changes_and_the_codes_do_not() -> None:
    model = load_model(GOLDEN / "tiny-2b", dtype=torch.bfloat16, quantize="int8")
    linear = model.model.layers[0].mlp.gate_proj
    assert model.dtype == linear.weight.dtype == torch.bfloat16
    assert model(random_ids(model, 1, 5)).logits.dtype == torch.bfloat16
    codes, scales = linear.quantized_weight.qweight, linear.quantized_weight.scales
    model = model.float()
    assert model.dtype == linear.weight.dtype == torch.float32
    assert linear.quantized_weight.qweight is codes and linear.quantized_weight.scales is scales
    assert is_tied(model)
    moved = copy.deepcopy(model).to("meta")
    assert is_tied(moved) and moved.lm_head.weight.scales.dtype == torch.float32


@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_networks_are_the_same_in_every_process(scheme: str) -> None:
    model, again = (random_quantized(small_config(), scheme, CPU, torch.bfloat16) for _ in range(2))
    ids = random_ids(model, 1, 8)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, again(ids).logits)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    std = model.model.layers[0].mlp.gate_proj.weight.float().std().item()
    assert std == pytest.approx(small_config().initializer_range, rel=0.1)
    assert (model.model.layers[0].self_attn.A_log > -5).all()


def test_it_is_not_trained() -> None:
    model = random_quantized(small_config(), "int8", CPU, torch.float32)
    for part in (model, model.model):
        with pytest.raises(ValueError, match="int8 cannot be trained: load the network without"):
            part.train()
    assert not model.training


def test_what_there_is_no_quantization_for(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no quantization 'int3': choose int8 or int4"):
        load_model(folder, quantize="int3")
    with pytest.raises(CheckpointError, match=r"no quantization 'int3'"):
        random_quantized(small_config(), "int3", CPU, torch.float32)


def test_checkpoints_are_checked_as_ever(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.safetensors"
    whole = load_file(path)

    def refused(tensors: dict[str, Tensor], message: str) -> None:
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=message):
            load_model(folder, quantize="int8")

    name = "model.layers.0.mlp.up_proj.weight"
    refused({n: t for n, t in whole.items() if n != name}, f"missing tensors: {name}")
    refused({**whole, "extra": torch.ones(1)}, "unexpected tensors: extra")
    refused({**whole, name: torch.ones(3, 4)}, rf"{name} is \[3, 4\], expected \[72, 48\]")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="is not a Jet-Nemotron checkpoint"):
        load_model(folder, quantize="int8")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model("./nowhere", quantize="int8")


def test_generation_settings_come_along() -> None:
    plain, ours = load_model(STORY_MODEL), load_model(STORY_MODEL, quantize="int8")
    assert ours.generation_config.to_dict() == plain.generation_config.to_dict()
    assert ours.config.to_dict() == plain.config.to_dict()
    assert ours.name_or_path == plain.name_or_path
    assert ours.dtype == plain.dtype == torch.bfloat16
    story = ours.generate(torch.tensor([[0, 5, 9]]), max_new_tokens=5, do_sample=False)
    assert story.shape[1] <= 8


LOADING = """
import sys, threading, time, torch
from pathlib import Path
from jet import load_model
from jet.modeling.footprint import total_weight_bytes

torch.set_num_threads(1)
scheme, first, folder = sys.argv[1:]
most, done = 0, threading.Event()

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    global most
    while not done.wait(0.0005):
        most = max(most, anonymous())

load_model(first, quantize=scheme)  # what is imported and begun with the first load
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
model = load_model(folder, quantize=scheme)
done.set()
thread.join()
print(most - before, total_weight_bytes(model))
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_loading_takes_the_quantized_size_and_less_than_a_layer(scheme: str, tmp_path: Path) -> None:
    """Measure the peak of anonymous memory while a checkpoint is loaded in a process of its own."""
    sizes: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 4096, "vocab_size": 16384}
    model = small_model(num_attention_heads=8, num_hidden_layers=8, layer_types=["jet"] * 8, **sizes)
    model.bfloat16().save_pretrained(tmp_path)
    layer = sum(parameter.nbytes for parameter in model.model.layers[0].parameters())
    full = sum(parameter.nbytes for parameter in model.parameters())
    command = [sys.executable, "-c", LOADING, scheme, str(GOLDEN / "tiny-2b"), str(tmp_path)]
    # Freed memory goes back to the system at once, so that only memory in use is counted.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    most, weights = map(int, told.split())
    working = 24 * CHUNK
    print(f"{scheme}: {most / 1e6:.1f} MB for {weights / 1e6:.1f} MB, of {full / 1e6:.1f} MB")
    assert weights < most < weights + layer + working < full + weights / 2
