"""An exponential moving average of the weights, which validates better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The moving average of a network's parameters, in float32."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the parameters as they are; `decay` is the share of the average that a step keeps."""
        self._parameters = list(model.parameters())
        self.decay, self.steps = decay, 0
        self.weights: list[Tensor] = [p.detach().float().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the average after a step; early steps weigh more, because there are few of them yet."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.weights, [p.detach().float() for p in self._parameters], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the network inside the block, and restore the network's weights after it."""
        kept = [p.detach().clone() for p in self._parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, values in zip(self._parameters, kept, strict=True):
                    parameter.copy_(values)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the network's weights by the average."""
        for parameter, values in zip(self._parameters, self.weights, strict=True):
            parameter.copy_(values)

    def state_dict(self) -> dict[str, object]:
        """Return the state, for a checkpoint."""
        return {"weights": self.weights, "steps": self.steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load a state that `state_dict()` returned."""
        weights, steps = state["weights"], state["steps"]
        assert isinstance(weights, list) and isinstance(steps, int)
        for own, values in zip(self.weights, weights, strict=True):
            own.copy_(values)
        self.steps = steps
