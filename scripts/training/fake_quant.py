"""Train on weights that are rounded as `jet.quantize` rounds them, with a straight-through gradient.

Inside `FakeQuantizer.applied()`, each matrix that `jet.quantize` would quantize holds exactly the values that
its quantized checkpoint will give. The gradients found there are applied to the unrounded weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jet.modeling.layers import Linear
from jet.modeling.quantization import scheme_of
from jet.ops.quantization import INT4, QuantizedTensor

MOST = 2**24  # weights that are rounded at once; about 60 bytes each


@torch.no_grad()
def fake_quantize(weights: Tensor, scheme: str) -> Tensor:
    """Round float32 weights `[rows, columns]` as a checkpoint does: to bfloat16, then by `scheme`."""
    held = QuantizedTensor.empty((weights.shape[0], weights.shape[1]), scheme, torch.bfloat16, weights.device)
    step = max(1, MOST // weights.shape[1])
    for begin in range(0, len(weights), step):
        held.quantize_rows(begin, weights[begin : begin + step].bfloat16())
    return held.float()


def shipped_bytes(model: nn.Module, scheme: str = INT4) -> int:
    """Count the bytes of the tensors that `jet.quantize` writes for a network, also on the device "meta"."""
    rounded = {id(weight): (name, weight) for name, weight in _matrices(model)}
    others = sum(2 * p.numel() for p in model.parameters() if id(p) not in rounded)
    meta = torch.device("meta")
    return others + sum(
        QuantizedTensor.empty((len(w), w.shape[1]), scheme_of(scheme, name), torch.bfloat16, meta).nbytes
        for name, w in rounded.values()
    )


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield module names and matrices that are quantized, tied ones once."""
    seen = set[int]()
    for name, module in model.named_modules():
        if isinstance(module, (Linear, nn.Embedding)) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            yield name, module.weight


class FakeQuantizer:
    """Exchanges a network's matrices for their rounded values, and back."""

    def __init__(self, model: nn.Module, scheme: str = INT4) -> None:
        """Group the matrices by scheme and width.

        Each row is rounded by itself, so all matrices of a group can be rounded as one.
        """
        self._groups: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
        for name, weight in _matrices(model):
            self._groups[scheme_of(scheme, name), weight.shape[1]].append(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the rounded values into the network inside the block; restore the unrounded ones after it."""
        kept = list[tuple[Tensor, Tensor]]()
        with torch.no_grad():
            for (scheme, _), parameters in self._groups.items():
                rounded = fake_quantize(torch.cat([p.detach() for p in parameters]), scheme)
                for parameter, values in zip(
                    parameters, rounded.split(list(map(len, parameters))), strict=True
                ):
                    kept.append((parameter, parameter.detach().clone()))
                    parameter.copy_(values)
        try:
            yield
        finally:
            with torch.no_grad():
                for held, unrounded in kept:
                    held.copy_(unrounded)
