"""HostSampler: the next token of one request from its logits, in plain PyTorch, with every filter.

The sampler in `jet.ops.triton.fused_sampling` does most of this on the device and without the host. What it
leaves out, DRY and XTC, needs the story so far or is seldom asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from jet.api import SamplingParams, TokenLogprobs
from jet.engine.sequence import Sequence
from jet.engine.step_output import token_logprobs
from jet.ops.dry import dry_penalties
from jet.ops.logprobs import top_logprobs
from jet.ops.sampling import penalize_repetition, sample, uniform

_XTC_STREAM = 1  # its chance must not be that of the draw


class SpecialTokens:
    """What the choosers of all requests share: the tokens that are not like others.

    Attributes:
        stop_ids: ids `[N]` that end a text, which are never penalized.
        dry_breakers: for every token whether repetitions end at it for DRY, `[V]`; the stops are among them.
        xtc_special: the same on the device: XTC excludes none of them.
    """

    def __init__(
        self,
        vocabulary: int,
        stop_ids: Iterable[int],
        dry_sequence_breakers: Iterable[int],
        device: torch.device,
    ) -> None:
        self.stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.long, device=device)
        self.dry_breakers = np.zeros(vocabulary, dtype=bool)
        self.dry_breakers[[*stop_ids, *dry_sequence_breakers]] = True
        self.xtc_special = torch.from_numpy(self.dry_breakers).to(device)


class HostSampler:
    """Draws the tokens of one request and remembers what its penalties are about."""

    def __init__(self, sampling: SamplingParams, special_tokens: SpecialTokens, min_tokens: int = 0) -> None:
        """`min_tokens`: of the first so many tokens none ends the text."""
        assert sampling.seed is not None
        self._sampling, self._special_tokens, self._device = (
            sampling,
            special_tokens,
            special_tokens.xtc_special.device,
        )
        self._min_tokens = min_tokens
        self._token_mask = None
        if sampling.repetition_penalty != 1:
            self._token_mask = torch.zeros_like(special_tokens.xtc_special)[None]
        self._history: list[int] = []

    def append_prompt(self, ids: Tensor) -> None:
        """A piece of the prompt, `[T]`."""
        if self._token_mask is not None:
            # Not `_token_mask[0, ids] = True`, for which the host waits until the device has come so far.
            self._token_mask[0].index_fill_(0, ids, True)
            # Penalizing an end token for the one that a document started with would only make endings rare.
            self._token_mask[0].index_fill_(0, self._special_tokens.stop_ids, False)
        if self._sampling.dry_multiplier:
            self._history += ids.tolist()

    def sample(self, logits: Tensor, step: int) -> tuple[int, Tensor]:
        """The token that is drawn as number `step`, and the logits `[1, V]` after the penalties.

        Tokens that may not be drawn yet have their logits there all the same.

        Raises FloatingPointError if the logits are NaN.
        """
        sampling = self._sampling
        assert sampling.seed is not None
        logits = self._penalize(logits)
        allowed = logits
        if step < self._min_tokens:
            allowed = logits.index_fill(1, self._special_tokens.stop_ids, -math.inf)
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
                xtc_special=self._special_tokens.xtc_special,
            )
        )
        if self._token_mask is not None:
            self._token_mask[0, token] = True
        if sampling.dry_multiplier:
            self._history.append(token)
        return token, logits

    def _penalize(self, logits: Tensor) -> Tensor:
        sampling = self._sampling
        if self._token_mask is not None:
            logits = penalize_repetition(logits, self._token_mask, sampling.repetition_penalty)
        if sampling.dry_multiplier:
            ids, penalties = dry_penalties(
                np.array(self._history),
                self._special_tokens.dry_breakers,
                multiplier=sampling.dry_multiplier,
                base=sampling.dry_base,
                allowed_length=sampling.dry_allowed_length,
            )
            taken = torch.from_numpy(penalties).to(logits)
            logits = logits.index_add(1, torch.from_numpy(ids).to(self._device), -taken[None])
        return logits


def draw(sampler: HostSampler, logits: Tensor, sequence: Sequence) -> tuple[int, TokenLogprobs | None]:
    """Draw a sequence's next token from `logits` `[1, V]`; with log-probabilities if it requests them.

    Raises FloatingPointError if the logits are NaN.
    """
    token, logits = sampler.sample(logits, sequence.num_generated)
    if not sequence.top_logprobs:
        return token, None
    drawn = torch.tensor([token], device=logits.device)
    return token, token_logprobs(token, top_logprobs(logits, drawn, sequence.top_logprobs))
