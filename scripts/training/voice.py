"""Set the default voice of a story model, by moving its weights from one kind of story towards another.

The mark before classics and picture books separates the voices for texts of clear style. For others, such as
a user's first sentence, a small network falls back on the classics. Arithmetic on weights removes this
tendency (Ilharco et al., "Editing models with task arithmetic", arXiv 2212.04089): train one copy for a few
steps on the wanted kind of text and another on the unwanted kind, both without mark, and move the weights
along the difference of the two changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from scripts.training.data import END_OF_TEXT, StorySet, Tokens

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Voice:
    """Settings of the change of voice. The defaults are those of the shipped model.

    Attributes:
        strength: multiple of the difference to add. 0.5 costs 2 % of compression, 1.0 costs 6 %.
        steps: training steps of each copy.
        rows, length: shape of a batch; each row is an opening after an end-of-text.
        rate, warm_up, horizon: learning rate (AdamW). It rises in `warm_up` steps, then falls linearly to
            reach zero after `horizon`. Training stops earlier, long before the copies memorize their texts.
        body: share of openings taken after title and headings; the others start at a later paragraph.
        shortest: tokens of a document at least; shorter ones are skipped.
    """

    strength: float = 0.5
    steps: int = 20
    rows: int = 8
    length: int = 384
    rate: float = 2e-4
    warm_up: int = 5
    horizon: int = 100
    body: float = 0.6
    shortest: int = 1200
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.rate * min(1.0, (step + 1) / self.warm_up) * max(0.0, 1 - step / self.horizon)


class Openings:
    """Endless openings without title, heading or mark."""

    def __init__(self, stories: StorySet, voice: Voice) -> None:
        """Index the documents. Raises ValueError if none is long enough."""
        self._stories, self._voice = stories, voice
        self._rng = np.random.default_rng(voice.seed)
        self._documents = np.flatnonzero(~stories.tales(voice.shortest))
        if not len(self._documents):
            raise ValueError(f"No document has {voice.shortest} tokens.")

    def batch(self) -> Tensor:
        """Return a batch `[rows, length + 1]`; every row begins with end-of-text."""
        rows = [self._row() for _ in range(self._voice.rows)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _row(self) -> Tokens:
        stories, length = self._stories, self._voice.length
        while True:
            index = int(self._rng.choice(self._documents))
            plain = self._rng.random() < self._voice.body
            begin = int(stories.bodies[index]) if plain else stories.middle(index, self._rng)
            text = stories.tokens[begin : stories.starts[index + 1]][:length]
            if len(text) == length:
                return np.concatenate([[END_OF_TEXT], text]).astype(np.uint16)


def settle(model: PreTrainedModel, wanted: StorySet, unwanted: StorySet, voice: Voice) -> None:
    """Move the weights, in place, towards `wanted` and away from `unwanted`."""
    towards, away = (_change(model, Openings(stories, voice), voice) for stories in (wanted, unwanted))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(towards[name] - away[name], alpha=voice.strength)


def _change(model: PreTrainedModel, openings: Openings, voice: Voice) -> Weights:
    """Train a few steps on these openings; return the change of the weights, and restore them."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), voice.rate, betas=(0.9, 0.95), weight_decay=0)
    model.train()
    for step in (bar := tqdm(range(voice.steps), unit="step")):
        optimizer.param_groups[0]["lr"] = voice.rate_at(step)
        rows = openings.batch().to(model.device)
        loss = model(rows, labels=rows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix_str(f"loss {loss.item():.3f}")
    model.eval()
    changes = {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            changes[name] = weight - before[name]
            weight.copy_(before[name])
    return changes
