"""Muon for the matrices inside the network, AdamW for embeddings and vectors, as one optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scripts.training.recipe import Recipe

SMALLEST_SIDE = 16  # AdamW updates matrices with a smaller side
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan et al., 2024, "Muon"
ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Approximate the nearest semi-orthogonal matrices, `[N, rows, columns]`: singular values move towards 1.

    Newton-Schulz iterations, in bfloat16 on a GPU; all matrices of one shape are processed together.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized, with decoupled weight decay.

    Matrices of one shape are stacked, so that a step is a few dozen large operations instead of thousands of
    small ones.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.shape].append(parameter)
            for parameters in same_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        averages = [self._average(parameter) for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov
        updates = orthogonalize(torch.stack(list(ahead)))
        rows, columns = parameters[0].shape
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        scale = max(1.0, rows / columns) ** 0.5
        torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * scale)

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "average" not in state:
            state["average"] = torch.zeros_like(parameter)
        average: Tensor = state["average"]
        return average


class StoryOptimizer:
    """Both optimizers behind one `step`, with the learning rates of the recipe."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        matrices, embeddings, vectors = [], [], []
        for name, parameter in model.named_parameters():  # yields tied weights once
            if "embed_tokens" in name or "lm_head" in name:
                embeddings.append(parameter)
            elif parameter.ndim == 2 and min(parameter.shape) >= SMALLEST_SIDE:
                matrices.append(parameter)
            else:
                vectors.append(parameter)
        self.muon = Muon(matrices, recipe.matrix_rate, recipe.matrix_decay)
        self.adam = torch.optim.AdamW(
            [
                {"params": embeddings, "weight_decay": recipe.vector_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=recipe.vector_rate,
            betas=(0.9, 0.95),
            fused=True,
        )

    def step(self, progress: float) -> None:
        """Apply the gradients at the learning rates of this part of the run, and clear them."""
        share = self.recipe.rate(progress)
        for group in self.muon.param_groups:
            group["lr"] = self.recipe.matrix_rate * share
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.vector_rate * share
        self.muon.step()
        self.adam.step()
        self.muon.zero_grad()
        self.adam.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return both states, for a checkpoint."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the states that `state_dict()` returned."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
