"""Test that weights are read completely, from the right files, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jet
from jet import CheckpointError, JetNemotronForCausalLM
from tests.networks import GOLDEN, golden_model, random_ids

INDEX = "model.safetensors.index.json"


def copied(name: str, folder: Path) -> Path:
    shutil.copytree(GOLDEN / name, folder)
    return folder


@pytest.mark.parametrize("shard", ["50GB", "200KB"])
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_variant_that_was_saved_is_read(shard: str, quantize: str | None, tmp_path: Path) -> None:
    model = golden_model("tiny-4b")
    model.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard)
    ids = random_ids(model, 1, 9)
    again = JetNemotronForCausalLM.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(again(ids).logits, model(ids).logits)
    loaded = jet.load_model(tmp_path, variant="fp16", quantize=quantize)
    logits = jet.load_model(GOLDEN / "tiny-4b", quantize=quantize)(ids).logits
    assert torch.equal(loaded(ids).logits, logits)
    with pytest.raises(CheckpointError, match="has the variants fp16:"):
        jet.load_model(tmp_path, quantize=quantize)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        there = load_file(folder / "model.safetensors")
        change(there)
        save_file(there, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def in_type(name: str, dtype: torch.dtype) -> Callable[[Path], None]:
    return tensors(lambda there: there.update({name: there[name].to(dtype)}))


def index(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / INDEX).read_text())
        change(values["weight_map"])
        (folder / INDEX).write_text(json.dumps(values))

    return damage


def both_sets(folder: Path) -> None:
    single = sorted(folder.glob("model-*.safetensors"))[0]
    shutil.copy(single, folder / "model.safetensors")


def in_two_files(folder: Path) -> None:
    first, second = sorted(folder.glob("model-*.safetensors"))
    there = load_file(first)
    name = next(iter(load_file(second)))
    save_file({**there, name: load_file(second)[name] + 1}, first, metadata={"format": "pt"})


def another_head(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))


def emptied(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


DOWN = "model.layers.1.mlp.down_proj.weight"
DAMAGES = {
    "int8": ("tiny-4b", in_type(DOWN, torch.int8), rf"{DOWN} has the type I8.*scales"),
    "uint8": ("tiny-4b", in_type(DOWN, torch.uint8), rf"{DOWN} has the type U8"),
    "int32": ("tiny-4b", in_type("lm_head.weight", torch.int32), "lm_head.weight has the type I32"),
    "float8": ("tiny-4b", in_type(DOWN, torch.float8_e4m3fn), rf"{DOWN} has the type F8_E4M3"),
    "bool": ("tiny-4b", in_type("model.norm.weight", torch.bool), "model.norm.weight has the type BOOL"),
    "an empty file": ("tiny-4b", emptied, "truncated or damaged"),
    "a head that is not the embedding": ("tiny-4b", another_head, "lm_head.weight is not model.embed_tokens"),
    "two sets of weights": ("tiny-2b", both_sets, "two sets of weights"),
    "a tensor in two files": ("tiny-2b", in_two_files, "both in model-0000"),
    "a tensor that no file has": (
        "tiny-2b",
        index(lambda m: m.update(spare="model-00001-of-00002.safetensors")),
        "spare",
    ),
    "a file elsewhere": (
        "tiny-2b",
        index(lambda m: m.update(spare="../model.safetensors")),
        "no file of this folder",
    ),
    "no file name": ("tiny-2b", index(lambda m: m.update(spare=3)), "spare is in 3"),
}


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("name", DAMAGES)
def test_weights_that_are_not_the_network_are_refused_by_name(
    name: str, quantize: str | None, tmp_path: Path
) -> None:
    checkpoint, damage, message = DAMAGES[name]
    folder = copied(checkpoint, tmp_path / "checkpoint")
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        jet.load_model(folder, quantize=quantize)
