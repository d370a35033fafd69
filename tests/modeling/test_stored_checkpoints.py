"""Test our own loading of quantized checkpoints: the networks and the errors that transformers gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jet import JetNemotronForCausalLM, load_model
from jet.modeling import CheckpointError, loading
from jet.modeling.quantized_writing import write_quantized
from jet.modeling.tensor_reader import TensorReader
from jet.ops.quantization import SCHEMES
from tests.networks import GOLDEN, GOLDEN_NAMES


@pytest.fixture(params=SCHEMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_quantized(GOLDEN / "tiny-2b", request.param, tmp_path / "copy")


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_is_the_network_that_transformers_loads(name: str, scheme: str, tmp_path: Path) -> None:
    folder = write_quantized(GOLDEN / name, scheme, tmp_path / "copy")
    mine = load_model(folder, dtype=torch.float32)
    theirs = JetNemotronForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    here, there = mine.state_dict(), theirs.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(tensor, there[key]) for key, tensor in here.items())
    assert mine.quantization == theirs.quantization == scheme and not mine.training
    assert not any(parameter.requires_grad for parameter in mine.parameters())
    ids = torch.arange(1, 20)[None]
    assert torch.equal(mine(ids).logits, theirs(ids).logits)
    mine.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(again(ids).logits, mine(ids).logits)
    assert mine.generation_config.eos_token_id == theirs.generation_config.eos_token_id


@pytest.mark.parametrize("name", GOLDEN_NAMES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_large_checkpoint_is_the_network_that_transformers_loads(
    name: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = load_model(GOLDEN / name, dtype=dtype)
    monkeypatch.setattr(loading, "LARGE", 0)
    mine = load_model(GOLDEN / name, dtype=dtype)
    here, there = mine.state_dict(), theirs.state_dict()
    assert here.keys() == there.keys()
    assert all(
        torch.equal(tensor, there[key]) and tensor.dtype == there[key].dtype for key, tensor in here.items()
    )
    assert (mine.lm_head.weight is mine.model.embed_tokens.weight) == mine.config.tie_word_embeddings
    assert mine.dtype == theirs.dtype and not mine.training
    assert not any(parameter.requires_grad for parameter in mine.parameters())
    assert mine.config._attn_implementation == theirs.config._attn_implementation
    ids = torch.arange(1, 20)[None]
    assert torch.equal(mine(ids).logits, theirs(ids).logits)


def test_what_is_missing_or_of_another_shape_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    first = next(name for name in sorted(tensors) if name.endswith(".qweight"))
    other = {**tensors, "model.extra": torch.zeros(1), first: tensors[first][1:].clone()}
    lost = other.pop("model.norm.weight")
    assert lost is not None
    save_file(other, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing tensors: model\.norm\.weight") as caught:
        load_model(folder)
    assert first in str(caught.value) and "unexpected tensors: model.extra" in str(caught.value)


def test_a_reader_reads_what_was_saved(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8)
    tensors = {str(kind): torch.arange(35).reshape(7, 5).to(kind) for kind in kinds}
    tensors |= {"empty": torch.empty(0, 3), "one": torch.tensor(2.5)}
    save_file(tensors, tmp_path / "file.safetensors", {"format": "pt"})
    with TensorReader(tmp_path / "file.safetensors") as reader:
        assert sorted(reader.names()) == sorted(tensors)
        for name, tensor in tensors.items():
            whole = reader.whole(name)
            assert torch.equal(whole, tensor) and (whole.dtype, whole.shape) == (tensor.dtype, tensor.shape)
            assert (reader.dtype(name), reader.shape(name)) == (tensor.dtype, list(tensor.shape))
        assert torch.equal(reader.rows(str(torch.int8), 2, 6), tensors[str(torch.int8)][2:6])
