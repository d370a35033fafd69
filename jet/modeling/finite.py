"""Find NaN or infinite weights, and explain NaN or infinite logits."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from jet.modeling.checkpoint import CheckpointError


class NotFiniteError(CheckpointError):
    """Raised for a checkpoint with NaN or infinite weights."""


def require_finite(model: nn.Module, name: str) -> None:
    """Raise `NotFiniteError` naming the tensors of a network that contain NaN or infinity."""
    bad = _not_finite_tensors(model)
    if bad:
        raise NotFiniteError(_describe(model, name, bad))


def explain_not_finite(model: nn.Module, name: str) -> str:
    """Return a message that says why a network gave NaN or infinite logits, and what to do."""
    bad = _not_finite_tensors(model)
    if bad:
        return _describe(model, name, bad)
    dtype = _dtype(model)
    said = f"{name} gives no numbers in {dtype} (NaN or infinite logits), though its weights are numbers"
    if dtype == "float16":
        return f"{said}: what it computes is too large for float16. Choose the dtype bfloat16 or float32."
    return f"{said}: the checkpoint may be damaged. Download it again, or choose the dtype float32."


def _describe(model: nn.Module, name: str, bad: list[str]) -> str:
    shown = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    advice = "Download the checkpoint again"
    if any("infinite" in one for one in bad) and (scheme := getattr(model, "quantization", None)):
        advice += f", or load it without {scheme} if its weights are too large for the scales of that"
    elif any("infinite" in one for one in bad):
        advice += ", or choose the dtype bfloat16 or float32 if they are too large for float16"
    return f"{name} holds weights that are not numbers: {shown}. {advice}."


def _not_finite_tensors(model: nn.Module) -> list[str]:
    return [
        f"{name} ({what})"
        for name, tensor in _tensors(model)
        if (what := _find_not_finite(tensor)) is not None
    ]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        yield (
            name.replace(".quantized_weight.scales", ".weight"),
            buffer,
        )  # NaN in a weight makes its scale NaN


def _find_not_finite(tensor: Tensor) -> str | None:
    """Return "NaN" or "infinite" if the tensor contains such a value, else None; checks its extremes only."""
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return None
    low, high = (float(x) for x in torch.aminmax(tensor.detach()))
    if math.isnan(low) or math.isnan(high):
        return "NaN"
    return "infinite" if math.isinf(low) or math.isinf(high) else None


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
