"""Chooser: the next token of one request from its logits, in plain PyTorch, with all that can be asked for.

The sampler in `jet.ops.triton.fused_sampling` does most of this on the device and without the host. What it
leaves out, DRY and XTC, needs the story so far or is seldom asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from jet.api import SamplingParams
from jet.engine.sequence import Sequence
from jet.engine.step_output import _Token, detail_of
from jet.ops.dry import dry_penalties
from jet.ops.logprobs import top_logprobs
from jet.ops.sampling import penalize_repetition, sample, uniform

_XTC_STREAM = 1  # its chance must not be that of the draw


class Special:
    """What the choosers of all requests share: the tokens that are not like others.

    Attributes:
        stops: ids `[N]` that end a text, which are never penalised.
        breaks: for every token whether repetitions end at it for DRY, `[V]`; the stops are among them.
        spared: the same on the device: XTC excludes none of them.
    """

    def __init__(
        self, vocabulary: int, stop_ids: Iterable[int], breakers: Iterable[int], device: torch.device
    ) -> None:
        self.stops = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
        self.breaks = np.zeros(vocabulary, dtype=bool)
        self.breaks[[*stop_ids, *breakers]] = True
        self.spared = torch.from_numpy(self.breaks).to(device)


class Chooser:
    """Draws the tokens of one request and remembers what its penalties are about."""

    def __init__(self, sampling: SamplingParams, special: Special, min_tokens: int = 0) -> None:
        """`min_tokens`: of the first so many tokens none ends the text."""
        assert sampling.seed is not None
        self._sampling, self._special, self._device = sampling, special, special.spared.device
        self._min_tokens = min_tokens
        self._seen = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros_like(special.spared)[None]
        self._history: list[int] = []

    def have_read(self, ids: Tensor) -> None:
        """A piece of the prompt, `[T]`."""
        if self._seen is not None:
            # Not `self._seen[0, ids] = True`, for which the host waits until the device has come so far.
            self._seen[0].index_fill_(0, ids, True)
            # Penalising an end token for the one that a document started with would only make endings rare.
            self._seen[0].index_fill_(0, self._special.stops, False)
        if self._sampling.dry_multiplier:
            self._history += ids.tolist()

    def choose(self, logits: Tensor, step: int) -> tuple[int, Tensor]:
        """The token that is drawn as number `step`, and the logits `[1, V]` after the penalties.

        Tokens that may not be drawn yet have their logits there all the same.

        Raises FloatingPointError if the logits are NaN.
        """
        sampling = self._sampling
        assert sampling.seed is not None
        logits = self._penalise(logits)
        allowed = logits
        if step < self._min_tokens:
            allowed = logits.index_fill(1, self._special.stops, -math.inf)
        excludes = uniform(sampling.seed, step, _XTC_STREAM) < sampling.xtc_probability
        chance = torch.tensor([uniform(sampling.seed, step)], dtype=torch.float64).to(self._device)
        token = int(
            sample(
                allowed,
                chance,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                xtc_threshold=sampling.xtc_threshold if excludes else None,
                xtc_special=self._special.spared,
            )
        )
        if self._seen is not None:
            self._seen[0, token] = True
        if sampling.dry_multiplier:
            self._history.append(token)
        return token, logits

    def _penalise(self, logits: Tensor) -> Tensor:
        sampling = self._sampling
        if self._seen is not None:
            logits = penalize_repetition(logits, self._seen, sampling.repetition_penalty)
        if sampling.dry_multiplier:
            ids, penalties = dry_penalties(
                np.array(self._history),
                self._special.breaks,
                multiplier=sampling.dry_multiplier,
                base=sampling.dry_base,
                allowed_length=sampling.dry_allowed_length,
            )
            taken = torch.from_numpy(penalties).to(logits)
            logits = logits.index_add(1, torch.from_numpy(ids).to(self._device), -taken[None])
        return logits


def draw(chooser: Chooser, logits: Tensor, sequence: Sequence) -> _Token:
    """The next token of a sequence, and of it what was asked for."""
    token, logits = chooser.choose(logits, sequence.steps)
    if not sequence.alternatives:
        return _Token(token, None)
    drawn = torch.tensor([token], device=logits.device)
    return _Token(token, detail_of(top_logprobs(logits, drawn, sequence.alternatives)))
