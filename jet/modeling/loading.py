"""Load a network from a folder or a hub id onto its device, ready for inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jet.lazy_imports import deferred_here
from jet.modeling import checkpoint
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantized_loading import load_large, load_quantized, load_stored

LARGE = 2**31  # bytes of a checkpoint whose files are not mapped on a CPU


def load_model(
    source: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    revision: str | None = None,
    quantize: str | None = None,
    variant: str | None = None,
) -> JetNemotronForCausalLM:
    """Load a checkpoint for inference.

    Args:
        source: a folder in transformers' format, or a hub id.
        device: the device of the weights.
        dtype: the type of the weights; None keeps the checkpoint's.
        attention: "eager", "sdpa" or "flash_attention_2"; None lets transformers choose.
        revision: branch, tag or commit of a hub repository.
        quantize: "int8" or "int4" quantizes the weights; the network is then for inference only. Leave it out
            for a checkpoint that `python -m jet.quantize` has written.
        variant: names the weight files, as `save_pretrained(variant=…)` does.

    Raises:
        CheckpointError: `source` is not a complete Jet-Nemotron checkpoint; the message says what is wrong.
    """
    folder = Path(source)
    stored = checkpoint.stored_scheme(folder) if (folder / "config.json").is_file() else None
    if None not in (stored, quantize) and stored != quantize:
        raise checkpoint.CheckpointError(
            f"{source} holds its weights in {stored}: leave {quantize} out, or take the checkpoint that it "
            "was made from."
        )
    if quantize is not None and stored is None:
        return load_quantized(
            str(source), quantize, torch.device(device), dtype, attention, revision, variant
        )
    if stored is not None and torch.device(device).type == "cpu":
        return load_stored(str(source), stored, dtype, attention, variant)
    if torch.device(device).type == "cpu" and _is_large(folder, variant):
        return load_large(str(source), dtype, attention, variant)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if revision is not None:
        options["revision"] = revision
    if variant is not None:
        options["variant"] = variant
    if torch.device(device).type != "cpu":
        options["device_map"] = {"": device}  # straight from the file to the device
    with deferred_here(["torch.distributed.tensor"]):  # transformers only checks for its types
        model = JetNemotronForCausalLM.from_pretrained(str(source), dtype=dtype or "auto", **options)
    return model.to(device).eval().requires_grad_(False)  # type: ignore[no-any-return]


def _is_large(folder: Path, variant: str | None) -> bool:
    """Return whether a folder's weight files exceed `LARGE` bytes; False if it has none."""
    try:
        return sum(path.stat().st_size for path in checkpoint.weight_files(folder, variant)) > LARGE
    except (checkpoint.CheckpointError, OSError):  # loading says what is wrong
        return False
