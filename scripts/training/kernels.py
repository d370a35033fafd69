"""Check the fast kernels before a training run."""

from __future__ import annotations

import torch
from torch import Tensor

from jet.ops import fla_backward
from jet.ops.gated_delta_rule import chunk_gated_delta_rule, gated_delta_rule, prefill_implementation
from scripts.training.delta_rule import trainable_gated_delta_rule

TOLERANCE = 0.03  # relative error of a gradient; rounding to bfloat16 alone makes 0.005


def check_gradients(form: str, heads: int, key: int, value: int, device: torch.device) -> dict[str, float]:
    """Return the relative errors of the rule's gradients on this device against float32, by input.

    Raises RuntimeError if one is wrong, because a miscompiled kernel would silently train a bad model.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": key, "k": key, "v": value, "g": 0, "beta": 0}
    inputs = [
        torch.randn(2, 200, heads, *([size] if size else []), generator=generator) for size in sizes.values()
    ]
    inputs[3] = -torch.nn.functional.softplus(inputs[3])
    inputs[4] = inputs[4].sigmoid()
    inputs = [x.to(device) for x in inputs]
    inputs[:3] = [x.bfloat16().float() for x in inputs[:3]]
    weights = torch.randn(2, 200, heads, value, generator=generator).to(device).bfloat16().float()

    def gradients(half: bool) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        arguments = [x.bfloat16() for x in leaves[:3]] + leaves[3:] if half else leaves
        fast = gated_delta_rule if form == "library" else trainable_gated_delta_rule
        out, _ = (fast if half else chunk_gated_delta_rule)(*arguments)
        return list(torch.autograd.grad((out.float() * weights).sum(), leaves))

    errors = {}
    for name, got, expected in zip(sizes, gradients(True), gradients(False), strict=True):
        errors[name] = float((got - expected).norm() / expected.norm())
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE}
    if wrong:
        raise RuntimeError(f"The gradients of the gated delta rule are wrong on this machine: {wrong}.")
    return errors


def prepare_kernels(form: str, heads: int, key: int, value: int, device: torch.device) -> None:
    """Check the gradients of the rule in this form on a GPU; do nothing on other devices.

    For the form "library", first replace the gradient that is known to be miscompiled. Raises RuntimeError if
    a gradient is wrong or the library is not installed.
    """
    if device.type != "cuda":
        return
    if form == "library" and prefill_implementation(device, torch.bfloat16) == "torch":
        raise RuntimeError("flash-linear-attention is not installed: train with --rule plain, or install it.")
    replaced = form == "library" and fla_backward.install()
    errors = check_gradients(form, heads, key, value, device)
    print(f"gradients of the delta rule ({form}): relative errors {errors}, replaced: {replaced}", flush=True)
