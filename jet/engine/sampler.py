"""HostSampler: draws the next token of one request from its logits, in plain PyTorch, with every sampler.

`jet.ops.triton.fused_sampling` and `final_samplers` draw on a GPU instead. They lack DRY, which needs the
whole text, the penalties by counts, and all but two orders of samplers. On a CPU, the compiled code of
`jet.ops.numba.token_draw` draws where it can.
"""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from jet.api import SamplingParams, TokenLogprobs
from jet.engine.chain import Chain, SamplerStates
from jet.engine.sequence import Sequence
from jet.engine.step_output import token_logprobs
from jet.engine.text.word_bias import BiasedSequence, biases_now
from jet.ops.backends import make_token_drawer
from jet.ops.dry import dry_penalties
from jet.ops.logprobs import top_logprobs
from jet.ops.sampling import (
    XTC_STREAM,
    Drawer,
    penalize_counts,
    penalize_repetition,
    sample,
    uniform,
)


def attempt_stream(attempt: int) -> int:
    """Return the number of the random stream for an attempt (counted from 0) to draw a token.

    XTC uses the stream with the next number.
    """
    return 2 * attempt


class SpecialTokens:
    """The tokens that samplers treat specially, shared by all requests.

    Attributes:
        stop_ids: ids `[N]` that end a text; never penalized.
        dry_breakers: bool `[V]`, the tokens at which DRY ends a repetition, stop tokens included.
        xtc_special: `dry_breakers` on the device; XTC excludes none of these tokens.
        drawer: the compiled twin of `jet.ops.sampling.sample`; None on a GPU, or without numba.
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
        self.drawer = make_token_drawer(vocabulary) if device.type == "cpu" else None


class HostSampler:
    """Draws the tokens of one request and keeps the history that its penalties need."""

    def __init__(
        self,
        sampling: SamplingParams,
        special_tokens: SpecialTokens,
        min_tokens: int = 0,
        logit_bias: abc.Sequence[tuple[int, float]] = (),
        raw: bool = False,
        forbidden: tuple[abc.Sequence[int], int] = ((), 0),
        states: SamplerStates | None = None,
        word_bias: tuple[BiasedSequence, ...] = (),
    ) -> None:
        """Prepare the samplers of one request.

        Args:
            sampling: the request's parameters.
            special_tokens: the tokens that samplers treat specially.
            min_tokens: no stop token is drawn before this many tokens.
            logit_bias: pairs of a token id and a number that is added to its logit before everything else.
            raw: whether `sample` returns the logits from before bias and penalties, instead of those after.
            forbidden: token ids, and the number of first steps in which they are not drawn.
            states: states of samplers that have one, by step; they outlast this object.
            word_bias: token sequences and the numbers that are added to their tokens' logits.
        """
        assert sampling.seed is not None
        self._sampling, self._special_tokens, self._device = (
            sampling,
            special_tokens,
            special_tokens.xtc_special.device,
        )
        self._min_tokens, self._raw = min_tokens, raw
        self._forbidden = torch.tensor(forbidden[0], dtype=torch.long, device=self._device)
        self._forbidden_steps = forbidden[1]
        self._biased = torch.tensor([token for token, _ in logit_bias], dtype=torch.long, device=self._device)
        self._bias = torch.tensor([bias for _, bias in logit_bias], dtype=torch.float32, device=self._device)
        self._word_bias = word_bias
        self._token_mask = None
        if sampling.repetition_penalty != 1:
            self._token_mask = torch.zeros_like(special_tokens.xtc_special)[None]
        self._counts: Tensor | None = None  # float32 `[1, V]`, of the answer's tokens
        self._history: list[int] = []
        self._chain = Chain(sampling, special_tokens.xtc_special, states) if sampling.uses_chain else None

    @property
    def token_mask(self) -> Tensor | None:
        """Return a bool mask `[1, V]` of the tokens that the repetition penalty applies to.

        Returns None if there is no repetition penalty.
        """
        return self._token_mask

    def append_prompt(self, ids: Tensor) -> None:
        """Add prefilled tokens `[T]` to the history."""
        if self._token_mask is not None:
            # Not `_token_mask[0, ids] = True`, which would synchronize.
            self._token_mask[0].index_fill_(0, ids, True)
            # Documents may start with the stop token: penalizing it for that would only make endings rare.
            self._token_mask[0].index_fill_(0, self._special_tokens.stop_ids, False)
        if self._keeps_history:
            self._history += ids.tolist()

    def sample(self, logits: Tensor, step: int, barred: tuple[int, ...] = ()) -> tuple[int, Tensor]:
        """Draw token number `step`; return it and the logits `[1, V]` after bias and penalties.

        With `raw`, the returned logits are those from before bias and penalties. The tokens in `barred`,
        which earlier attempts at this step have drawn, cannot be drawn; every attempt has its own random
        numbers. The returned logits still have the values of these tokens, and of stop tokens that
        `min_tokens` forbids.

        Raises FloatingPointError if the logits are NaN.
        """
        sampling = self._sampling
        assert sampling.seed is not None
        given, logits = logits, self._penalize(self._add_bias(logits), step)
        chance, excludes = self._chances(step, barred)
        allowed = self._without_forbidden(logits, step, barred)
        if self._chain is not None and sampling.temperature > 0:
            token = self._chain.draw(allowed[0].double(), chance, step, excludes)
        else:
            token = self._draw_plainly(allowed, chance, excludes)
        self._append(token)
        return token, given if self._raw else logits

    def draw(self, logits: Tensor, step: int, barred: tuple[int, ...] = ()) -> int:
        """Draw and return the same token as `sample`, without the logits.

        On a CPU this takes a quarter of the time of `sample`.
        """
        chance, excludes = self._chances(step, barred)
        if self._special_tokens.drawer is None or self._chain is not None or excludes:
            return self.sample(logits, step, barred)[0]
        logits, seen = self._add_bias(logits), self._token_mask
        if self._sampling.dry_multiplier or self._uses_counts:  # which follow the repetition penalty
            logits, seen = self._penalize(logits, step), None
        allowed = self._without_forbidden(logits, step, barred)
        token = self._draw_compiled(self._special_tokens.drawer, allowed, chance, seen)
        self._append(token)
        return token

    def _chances(self, step: int, barred: tuple[int, ...]) -> tuple[float, bool]:
        """Return the uniform random number of a draw, and whether XTC excludes the top choices."""
        sampling, stream = self._sampling, attempt_stream(len(barred))
        assert sampling.seed is not None
        excludes = uniform(sampling.seed, step, stream + XTC_STREAM) < sampling.xtc_probability
        return uniform(sampling.seed, step, stream), excludes

    def _without_forbidden(self, logits: Tensor, step: int, barred: tuple[int, ...]) -> Tensor:
        """Return the logits with minus infinity for all tokens that must not be drawn in this step."""
        if step < self._min_tokens:
            logits = logits.index_fill(1, self._special_tokens.stop_ids, -math.inf)
        if step < self._forbidden_steps:
            logits = logits.index_fill(1, self._forbidden, -math.inf)
        if barred:
            ids = torch.tensor(barred, dtype=torch.long, device=self._device)
            logits = logits.index_fill(1, ids, -math.inf)
        return logits

    def _append(self, token: int) -> None:
        """Add a drawn token to the history."""
        if self._token_mask is not None:
            self._token_mask[0, token] = True
        if self._counts is not None:
            self._counts[0, token] += 1
        if self._keeps_history:
            self._history.append(token)

    def _draw_plainly(self, logits: Tensor, chance: float, excludes: bool) -> int:
        sampling, drawer = self._sampling, self._special_tokens.drawer
        if drawer is not None and not excludes:
            return self._draw_compiled(drawer, logits, chance, None)
        return int(
            sample(
                logits,
                torch.tensor([chance], dtype=torch.float64).to(self._device),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                min_p=sampling.min_p,
                xtc_threshold=sampling.xtc_threshold if excludes else None,
                xtc_special=self._special_tokens.xtc_special,
            )
        )

    def _draw_compiled(self, drawer: Drawer, logits: Tensor, chance: float, seen: Tensor | None) -> int:
        sampling = self._sampling
        return drawer.draw(
            logits[0].float(),
            None if seen is None else seen[0],
            chance,
            penalty=sampling.repetition_penalty,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )

    def _add_bias(self, logits: Tensor) -> Tensor:
        if now := biases_now(self._word_bias, self._history):
            ids = torch.tensor(list(now), dtype=torch.long, device=self._device)
            logits = logits.index_add(1, ids, torch.tensor([list(now.values())]).to(logits))
        if not len(self._biased):
            return logits
        return logits.index_add(1, self._biased, self._bias.to(logits)[None])

    @property
    def _uses_counts(self) -> bool:
        return bool(self._sampling.presence_penalty or self._sampling.frequency_penalty)

    @property
    def _keeps_history(self) -> bool:
        return bool(self._sampling.dry_multiplier or self._word_bias) or self._uses_counts

    def _count_answer(self, step: int) -> Tensor:
        """Return how often each token occurs in the answer, the last `step` tokens, as float32 `[1, V]`."""
        if self._counts is None:
            answer = torch.tensor(self._history[len(self._history) - step :], dtype=torch.long)
            counts = torch.bincount(answer, minlength=self._special_tokens.xtc_special.shape[0])
            self._counts = counts[None].to(self._device, torch.float32)
        return self._counts

    def _penalize(self, logits: Tensor, step: int) -> Tensor:
        sampling = self._sampling
        if self._token_mask is not None:
            logits = penalize_repetition(logits, self._token_mask, sampling.repetition_penalty)
        if self._uses_counts:
            presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
            logits = penalize_counts(logits, self._count_answer(step), presence, frequency)
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


def make_host_sampler(sequence: Sequence, special_tokens: SpecialTokens) -> HostSampler:
    """Make the host sampler of a sequence with everything that its request asks for."""
    return HostSampler(
        sequence.sampling,
        special_tokens,
        sequence.min_tokens,
        sequence.logit_bias,
        sequence.raw_logprobs,
        sequence.forbidden,
        sequence.sampler_states,
        sequence.word_bias,
    )


def draw(sampler: HostSampler, logits: Tensor, sequence: Sequence) -> tuple[int, TokenLogprobs | None]:
    """Draw a sequence's next token from `logits` `[1, V]`.

    Returns the token and its log-probabilities; None in place of these if the request wants none. Raises
    FloatingPointError if the logits are NaN.
    """
    if not sequence.top_logprobs:
        return sampler.draw(logits, sequence.num_generated, sequence.barred_now), None
    token, logits = sampler.sample(logits, sequence.num_generated, sequence.barred_now)
    drawn = torch.tensor([token], device=logits.device)
    return token, token_logprobs(token, top_logprobs(logits, drawn, sequence.top_logprobs))
