"""From a folder or a hub id to a network on its device, ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jet.modeling import checkpoint
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantized_loading import load_quantized


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
        device: where the weights go.
        dtype: their type; None keeps the checkpoint's.
        attention: "eager", "sdpa" or "flash_attention_2"; None lets transformers choose.
        revision: of a hub repository.
        quantize: "int8" or "int4" holds the weights in that; such a network is for reading and writing only.
            A checkpoint that `python -m jet.quantize` has written needs no such word.
        variant: of the weights' files, as `save_pretrained(variant=…)` named them.

    Raises:
        CheckpointError: with what is wrong, if it is not a whole Jet-Nemotron checkpoint.
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
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if revision is not None:
        options["revision"] = revision
    if variant is not None:
        options["variant"] = variant
    if torch.device(device).type != "cpu":
        options["device_map"] = {"": device}  # from the file to the device, with no copy in between
    model = JetNemotronForCausalLM.from_pretrained(str(source), dtype=dtype or "auto", **options)
    return model.to(device).eval().requires_grad_(False)  # type: ignore[no-any-return]
