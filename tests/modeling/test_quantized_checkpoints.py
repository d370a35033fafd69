"""Test quantized checkpoints: written matrix by matrix, loaded by transformers and by us, saved unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from jet.modeling import CheckpointError, JetNemotronForCausalLM, JetQuantizationConfig, load_model
from jet.modeling.quantization import count_parameters, is_tied
from jet.modeling.quantized_writing import write_quantized
from jet.modeling.quantizer import storable
from jet.modeling.tensor_writer import TensorWriter
from jet.ops.quantization import SCHEMES
from jet.quantize import main
from tests.networks import GOLDEN, GOLDEN_NAMES, random_ids

TIED, UNTIED = GOLDEN / "tiny-2b", GOLDEN / "tiny-4b"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that writes a golden checkpoint in a scheme, once, and returns its folder."""
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, scheme: str) -> Path:
        if (name, scheme) not in made:
            out = tmp_path_factory.mktemp("quantized") / f"{name}-{scheme}"
            made[name, scheme] = write_quantized(GOLDEN / name, scheme, out)
        return made[name, scheme]

    return get


def stored(folder: Path) -> dict[str, Tensor]:
    found = dict[str, Tensor]()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    alike = one.keys() == other.keys() and all(one[name].dtype == other[name].dtype for name in one)
    return alike and all(torch.equal(one[name], other[name]) for name in one)


@torch.inference_mode()
def logits(model: JetNemotronForCausalLM) -> Tensor:
    found: Tensor = model(random_ids(model, 1, 7)).logits
    return found.float()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_a_quantized_checkpoint_is_the_network_quantized_while_loading(
    name: str, scheme: str, quantized: Any
) -> None:
    folder = quantized(name, scheme)
    fresh, loaded = load_model(GOLDEN / name, quantize=scheme), load_model(folder)
    assert same(storable(fresh), storable(loaded)) and same(storable(loaded), stored(folder))
    assert (loaded.quantization, loaded.model.quantization) == (scheme, scheme)
    assert loaded.dtype == fresh.dtype and is_tied(loaded) == is_tied(fresh) and not loaded.training
    assert count_parameters(loaded) == count_parameters(fresh)
    assert torch.equal(logits(loaded), logits(fresh))
    auto = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(auto, JetNemotronForCausalLM) and torch.equal(logits(auto), logits(fresh))
    assert not any(parameter.requires_grad for parameter in auto.parameters())
    size = (folder / "model.safetensors").stat().st_size
    assert size < sum(file.stat().st_size for file in (GOLDEN / name).glob("*.safetensors"))


@pytest.mark.parametrize("folder", [TIED, UNTIED], ids=lambda folder: folder.name)
def test_other_types_and_devices_are_transformers_affair(folder: Path, quantized: Any) -> None:
    source = quantized(folder.name, "int4")
    expected = storable(load_model(source))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, device_map="auto")
        assert model.dtype == dtype == model.model.layers[0].mlp.gate_proj.weight.dtype
        assert logits(model).isfinite().all()
        held = storable(model)
        for name, tensor in expected.items():
            kept = name.endswith((".qweight", ".scales"))
            assert held[name].dtype == (tensor.dtype if kept else dtype)
            assert not kept or torch.equal(held[name], tensor)


@pytest.mark.parametrize("name", [TIED.name, UNTIED.name])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_saving_writes_the_same_checkpoint(name: str, scheme: str, quantized: Any, tmp_path: Path) -> None:
    folder = quantized(name, scheme)
    made = load_model(GOLDEN / name, quantize=scheme)
    for number, model in enumerate((load_model(folder), made)):
        before = logits(model)  # the network's own weights are in blocks after that on a CPU
        whole, sharded = tmp_path / f"whole-{number}", tmp_path / f"sharded-{number}"
        model.save_pretrained(whole)
        model.save_pretrained(sharded, max_shard_size="60KB")
        assert len(list(sharded.glob("*.safetensors"))) > 1
        for saved in (whole, sharded):
            assert same(stored(saved), stored(folder))
            values = json.loads((saved / "config.json").read_text())
            assert (
                values["quantization_config"]
                == json.loads((folder / "config.json").read_text())["quantization_config"]
            )
            assert torch.equal(logits(load_model(saved)), before)


@pytest.mark.parametrize("name", [TIED.name, UNTIED.name])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_dequantized_it_is_a_plain_network_with_the_values_of_its_codes(
    name: str, scheme: str, quantized: Any, tmp_path: Path
) -> None:
    folder = quantized(name, scheme)
    codes = load_model(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).dequantize(torch.float32)
    plain = load_model(GOLDEN / name).float()
    shapes = [{n: p.shape for n, p in network.named_parameters()} for network in (model, plain)]
    assert shapes[0] == shapes[1]
    assert model.quantization is None and is_tied(model) == is_tied(plain)
    up = "model.layers.0.mlp.up_proj"
    expected = codes.get_submodule(up).weight.dequantize(torch.float32)
    assert torch.equal(model.get_submodule(up).weight, expected)
    model.train()
    model(random_ids(model, 1, 7)).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval().save_pretrained(tmp_path / "plain")
    again = load_model(tmp_path / "plain", dtype=torch.float32)
    assert torch.equal(logits(again), logits(model)) and is_tied(again) == is_tied(plain)


def test_what_is_beside_the_weights_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(TIED, source)
    (source / "LICENSE.txt").write_text("terms")
    (source / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.5}')
    out = write_quantized(source, "int8", tmp_path / "deep" / "out")
    assert (out / "LICENSE.txt").read_text() == "terms"
    assert load_model(out).generation_config.temperature == 0.5
    assert not list(out.parent.glob("out-*"))


def test_the_command_writes_and_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(TIED), str(out), "--to", "int4"]) == 0
    assert "in int4" in capsys.readouterr().out
    assert load_model(out, quantize="int4").quantization == "int4"
    wrong = {
        (str(TIED), str(out)): "exists already",
        (str(out), str(tmp_path / "again")): "quantized already",
        (str(tmp_path / "nowhere"), str(tmp_path / "other")): "does not exist",
    }
    for (source, target), said in wrong.items():
        assert main([source, target, "--to", "int8"]) == 2
        assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "jet.modeling.quantized_writing.shutil.disk_usage", lambda _: SimpleNamespace(free=1000)
    )
    with pytest.raises(CheckpointError, match="make room"):
        write_quantized(TIED, "int8", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": config["quantization_config"] | values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"scheme": "int3"}, "only int8 and int4"),
        ({"version": 2}, "newer"),
        ({"group_size": 32}, "only int8 and int4"),
        ({"quant_method": "gptq"}, "'gptq', which is not read here"),
    ],
)
def test_what_is_not_known_is_refused(
    values: dict[str, Any], said: str, quantized: Any, tmp_path: Path
) -> None:
    shutil.copytree(quantized(TIED.name, "int4"), tmp_path / "changed")
    change_config(tmp_path / "changed", **values)
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path / "changed")


def test_codes_without_scales_and_another_scheme_are_refused(quantized: Any, tmp_path: Path) -> None:
    folder = quantized(TIED.name, "int8")
    with pytest.raises(CheckpointError, match="holds its weights in int8"):
        load_model(folder, quantize="int4")
    shutil.copytree(folder, tmp_path / "changed")
    tensors = stored(folder)
    lost = next(name for name in tensors if name.endswith("gate_proj.scales"))
    del tensors[lost]
    layouts = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(tmp_path / "changed" / "model.safetensors", layouts) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    with pytest.raises(CheckpointError, match=r"gate_proj.qweight without its scales"):
        load_model(tmp_path / "changed")
    with pytest.raises(CheckpointError, match=r"jet\.quantize"):
        JetNemotronForCausalLM.from_pretrained(
            TIED, quantization_config=JetQuantizationConfig(quant_method="jet", scheme="int8", version=1)
        )


def test_a_file_is_whole_or_an_error(tmp_path: Path) -> None:
    layouts = {"a": (torch.int8, (3,)), "b": (torch.float32, (2, 2)), "c": (torch.bfloat16, ())}
    with TensorWriter(tmp_path / "whole", layouts) as writer:
        writer.write("b", torch.arange(4.0).view(2, 2).T)
        writer.write("a", torch.tensor([1, -2, 3], dtype=torch.int8))
        with pytest.raises(ValueError, match="c is"):
            writer.write("c", torch.zeros(1, dtype=torch.bfloat16))
        writer.write("c", torch.tensor(1.5, dtype=torch.bfloat16))
    with safe_open(tmp_path / "whole", framework="pt") as file:
        assert file.get_tensor("b").tolist() == [[0, 2], [1, 3]]
        assert (file.get_tensor("a").tolist(), file.get_tensor("c").item()) == ([1, -2, 3], 1.5)
    with (
        pytest.raises(ValueError, match="not written: b, c"),
        TensorWriter(tmp_path / "part", layouts) as writer,
    ):
        writer.write("a", torch.tensor([1, -2, 3], dtype=torch.int8))
