"""Write a quantized copy of a checkpoint, one matrix at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn

from jet.modeling import checkpoint
from jet.modeling.layers import Linear
from jet.modeling.quantization import check_scheme, is_tied, scheme_of
from jet.modeling.quantized_format import CODES, SCALES, describe_scheme
from jet.modeling.quantized_loading import StoredTensors, outline_network, read_dtype
from jet.modeling.tensor_writer import Layout, TensorWriter
from jet.ops.quantization import QuantizedTensor, quantize

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "NOTICE*"]
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")
_SPARE = 2**26  # bytes of a disk that are left free
_CPU = torch.device("cpu")

Progress = Callable[[int, int], None]  # matrices done, and in all


def write_quantized(
    source: str | Path,
    scheme: str,
    out: str | Path,
    revision: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Write the checkpoint `source`, a folder or a hub id, with its weights in "int8" or "int4".

    Memory holds only the quantized values of one matrix and a part of its weights. The folder `out`, which is
    returned, appears once it is complete. `progress(done, total)` is called with numbers of matrices.

    Raises:
        CheckpointError: the source is incomplete or already quantized, `out` exists and is not an empty
            folder, or the disk is too full.
    """
    check_scheme(scheme)
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise checkpoint.CheckpointError(f"{target} exists already: remove it, or name another folder.")
    with checkpoint.explain_load_errors(str(source), {"revision": revision}), ExitStack() as stack:
        folder = Path(source)
        if not folder.exists():
            folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=_FILES))
            checkpoint.check_folder(folder)
        config = checkpoint.read_config(folder)
        stored = checkpoint.stored_scheme(folder)
        if stored is not None:
            raise checkpoint.CheckpointError(
                f"{source} is quantized already, to {stored}: take the checkpoint that it was made from."
            )
        tensors = StoredTensors(folder, stack)
        model = outline_network(config, read_dtype(config, tensors), None)
        checkpoint.require_complete(source, tensors.compare(model))
        tied, layouts, matrices = is_tied(model), dict[str, Layout](), list[tuple[str, tuple[int, int]]]()
        for name, module in model.named_modules():
            if isinstance(module, (Linear, nn.Embedding)) and not (name == "lm_head" and tied):
                rows, columns = module.weight.shape
                matrices.append((name, (rows, columns)))
                held = QuantizedTensor.empty(
                    (rows, columns), scheme_of(scheme, name), model.dtype, torch.device("meta")
                )
                layouts[name + CODES] = held.qweight.dtype, tuple(held.qweight.shape)
                layouts[name + SCALES] = held.scales.dtype, tuple(held.scales.shape)
        replaced = {f"{name}.weight" for name, _ in matrices} | ({"lm_head.weight"} if tied else set())
        others = [name for name, _ in model.named_parameters() if name not in replaced]
        for name in others:
            whole = tensors.whole(name)
            layouts[name] = whole.dtype, tuple(whole.shape)
        target.parent.mkdir(parents=True, exist_ok=True)
        size = sum(torch.Size(shape).numel() * dtype.itemsize for dtype, shape in layouts.values())
        _check_space(target, size)
        made = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent))
        )
        _copy_rest(folder, made)
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values["quantization_config"] = describe_scheme(scheme)
        (made / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        with TensorWriter(made / checkpoint.SINGLE, layouts) as writer:
            for name in others:
                writer.write(name, tensors.whole(name))
            for number, (name, shape) in enumerate(matrices):
                progress(number, len(matrices))
                read = tensors.rows(f"{name}.weight")
                weight = quantize(read, shape, scheme_of(scheme, name), model.dtype, _CPU)
                writer.write(name + CODES, weight.qweight)
                writer.write(name + SCALES, weight.scales)
        progress(len(matrices), len(matrices))
        if target.exists():
            target.rmdir()
        shutil.copystat(folder, made)
        made.rename(target)
        made.mkdir()  # for the context to remove
    return target


def _check_space(target: Path, size: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < size + _SPARE:
        raise checkpoint.CheckpointError(
            f"{target} would take {size / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free: make room, "
            "or name a folder on another disk."
        )


def _copy_rest(folder: Path, made: Path) -> None:
    """Copy the other files of a checkpoint: tokenizer, generation settings, license."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHTS) and not path.name.startswith("."):
            shutil.copyfile(path, made / path.name)
