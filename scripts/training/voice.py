"""The voice of a text that does not ask for one: weights moved from one kind of story towards another.

The mark before classics and picture books separates the voices where a text leaves no doubt. Where it leaves
some, as a first sentence of the reader's own mostly does, a small network still falls back on the classics.
What makes it do so can be found and taken away by arithmetic on weights (Ilharco et al., "Editing models with
task arithmetic", arXiv 2212.04089): train one copy for a few steps on texts that it shall lean to and another
on texts that it shall not, neither with a mark, and move the weights along the difference of the two changes.
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
    """How far and by what. The defaults are those of the shipped model.

    Attributes:
        strength: how far to go along the difference. Half of it costs 2 % of compression, all of it 6 %.
        steps: of either copy.
        rows, length: what one step reads, each row an opening behind an end-of-text.
        rate, warm_up, horizon: learning rate (AdamW). It rises in `warm_up` steps and falls in a line that
            would reach zero after `horizon`: the copies are stopped early, far from knowing their texts.
        body: share of the openings that stand behind title and headings; the others come from the midst.
        shortest: documents of fewer tokens are not read.
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
        """The learning rate of a step, counted from 0."""
        return self.rate * min(1.0, (step + 1) / self.warm_up) * max(0.0, 1 - step / self.horizon)


class Openings:
    """Endless openings without title, heading or mark."""

    def __init__(self, stories: StorySet, voice: Voice) -> None:
        """Raises ValueError if no document is long enough."""
        self._stories, self._voice = stories, voice
        self._rng = np.random.default_rng(voice.seed)
        self._documents = np.flatnonzero(~stories.tales(voice.shortest))
        if not len(self._documents):
            raise ValueError(f"No document has {voice.shortest} tokens.")

    def batch(self) -> Tensor:
        """`[rows, length + 1]`, an end-of-text first."""
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
    """By what a few steps on these openings change the weights, which are afterwards as before."""
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
