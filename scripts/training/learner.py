"""Forward and backward passes over rows of tokens: the losses of training and of validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from scripts.training.network import UNLEARNT, token_losses, training_losses
from scripts.training.recipe import Recipe
from scripts.training.rows import STRESS, TOKEN
from scripts.training.rows import UNLEARNT as UNLEARNT_FLAG

Rows = npt.NDArray[np.uint16]


class Learner:
    """Computes losses and gradients of a network that `make_trainable` has prepared."""

    def __init__(self, model: PreTrainedModel, recipe: Recipe, compiled: bool = False) -> None:
        self.model, self.recipe = model, recipe
        self.device = next(model.parameters()).device
        self._losses: Callable[..., Tensor] = torch.compile(training_losses) if compiled else training_losses

    def learn(self, rows: Rows, progress: float) -> Tensor:
        """Add up the gradients of a step's flagged rows `[batch, length + 1]`.

        Returns the weighted mean loss of the learned tokens in nats, as a tensor on the device. Stressed
        tokens weigh more.
        """
        self.model.train()
        future = torch.tensor(self.recipe.future * (1 - progress), device=self.device)
        parts = len(rows) // self.recipe.micro_batch
        total = torch.zeros((), device=self.device)
        for part in np.split(rows, parts):
            flagged = self._to_device(part)
            tokens, flags = flagged & int(TOKEN), flagged[:, 1:]
            learnt = flags < int(UNLEARNT_FLAG)
            targets = tokens[:, 1:].masked_fill(~learnt, UNLEARNT)
            losses = self._row_losses(tokens, targets, self._losses, future)
            weights = learnt * torch.where(flags & int(STRESS) > 0, self.recipe.stress, 1.0)
            loss = (losses * weights).sum() / weights.sum().clamp(min=1) / parts
            loss.backward()
            total += loss.detach()
        return total

    @torch.no_grad()
    def nats(self, rows: Rows, counts: npt.NDArray[np.int64]) -> float:
        """Return the loss in nats over all rows; of row i only the first `counts[i]` targets count."""
        self.model.eval()
        size, total = self.recipe.micro_batch, 0.0
        for begin in range(0, len(rows), size):
            part, wanted = rows[begin : begin + size], torch.from_numpy(counts[begin : begin + size])
            tokens = self._to_device(np.pad(part, ((0, size - len(part)), (0, 0))))
            losses = self._row_losses(tokens, tokens[:, 1:], token_losses)[: len(part)]
            real = torch.arange(losses.shape[1], device=self.device) < wanted.to(self.device)[:, None]
            total += float((losses.double() * real).sum())
        return total

    def _row_losses(
        self, tokens: Tensor, targets: Tensor, losses: Callable[..., Tensor], *more: Any
    ) -> Tensor:
        """Return the loss of every target in nats, `[rows, length]`, as the function `losses` computes it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            hidden = self.model.model(tokens[:, :-1], use_cache=False).last_hidden_state
            return losses(hidden, self.model.lm_head.weight, targets, *more)

    def _to_device(self, rows: Rows) -> Tensor:
        tokens = torch.from_numpy(rows.astype(np.int64))
        if self.device.type == "cuda":
            tokens = tokens.pin_memory().to(self.device, non_blocking=True)
        return tokens
