"""Sequence, one request in the model runner, and Snapshot, a stored state with its logits."""

from __future__ import annotations

from array import array
from collections import abc
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from torch import Tensor

from jet.api import SamplingParams, TokenLogprobs
from jet.cache.host_pool import HostSnapshot
from jet.cache.prefix_cache import CacheEntry
from jet.engine.chain import SamplerStates
from jet.engine.row_samplers import RowSamplers, row_samplers
from jet.engine.step_output import StepFuture
from jet.engine.text.healing import Healing, HealingPath
from jet.engine.text.word_bias import BiasedSequence
from jet.token_ids import Tokens


class Snapshot(NamedTuple):
    """A stored state and its logits, both on the device or both in host memory.

    Attributes:
        location: the state's slot on the device, or its copy in host memory.
        logits: `[1, V]` of the next token; None if they were not stored.
    """

    location: int | HostSnapshot
    logits: Tensor | None


@dataclass(eq=False)
class Sequence:
    """One request in the model runner: its tokens, its place in the pools and its sampling options.

    Attributes:
        sampling: its parameters, with a seed.
        slot: its slot in the state pool; None once it has been freed.
        cache_salt: isolates its snapshots from other users; without one ("") no snapshots are taken.
        max_tokens: most tokens it may have, prompt included.
        token_ids: all tokens of the prompt so far and all drawn tokens.
        num_computed_tokens: the number of tokens in its state, the first ones of `token_ids`.
        num_generated: tokens drawn so far, the step of the next random number; tokens drawn by healing count
            only where they add text.
        logits: `[1, V]` after a prefill, to draw the next token from; None otherwise.
        in_flight: the future of the next token, if its step was launched ahead.
        top_logprobs: how many log-probabilities to keep for each token; 0 keeps none.
        logprobs: log-probabilities of the last token; None if `top_logprobs` is 0.
        last_snapshot: the number of tokens of its last snapshot; 0 before the first.
        cache_handle: the locked cache entry that it will start from, and that entry's pages; None if there is
            none, or once it has started.
        healing: the tokens at the end of its prompt that are still to be drawn again; None if there are none.
        healed_path: the tokens drawn in place of `healing`; None before that.
        min_tokens: no stop token is drawn before this many tokens.
        logit_bias: pairs of a token id and a number that is added to its logit before everything else.
        word_bias: token sequences and the numbers that are added to the logits of their tokens.
        raw_logprobs: whether `logprobs` come from the logits before bias and penalties.
        forbidden: token ids, and the number of first steps in which they are not drawn.
        has_generated: whether any token has been drawn.
        num_accepted: drawn tokens that the engine has received.
        sampler_states: states of samplers that have one (such as mirostat), from before each step.
        guarded: whether drawn tokens may be taken back, so that marks are set.
        marks: snapshots to roll back to, shortest first.
        mark_salt: cache salt of the marks, which no request has; "" before the first mark.
        barred: a position, and the token ids that were drawn there and taken back.
        waits: whether the next token may complete a banned phrase. Such a token must be known before the
            following step is launched.
    """

    sampling: SamplingParams
    slot: int | None
    cache_salt: str = ""
    max_tokens: int = 0
    token_ids: array[int] = field(default_factory=lambda: array("i"))
    num_computed_tokens: int = 0
    num_generated: int = 0
    logits: Tensor | None = None
    in_flight: StepFuture | None = None
    top_logprobs: int = 0
    logprobs: TokenLogprobs | None = None
    last_snapshot: int = 0
    cache_handle: tuple[CacheEntry[Snapshot], list[int]] | None = None
    healing: Healing | None = None
    healed_path: HealingPath | None = None
    min_tokens: int = 0
    logit_bias: abc.Sequence[tuple[int, float]] = ()
    word_bias: tuple[BiasedSequence, ...] = ()
    raw_logprobs: bool = False
    forbidden: tuple[abc.Sequence[int], int] = ((), 0)
    has_generated: bool = False
    num_accepted: int = 0
    sampler_states: SamplerStates = field(default_factory=dict)
    guarded: bool = False
    marks: list[CacheEntry[Snapshot]] = field(default_factory=list)
    mark_salt: str = ""
    barred: tuple[int, tuple[int, ...]] = (-1, ())
    waits: bool = False

    @cached_property
    def row_samplers(self) -> RowSamplers | None:
        """Return the samplers as settings of a `DecodeBatch` row; None if the host must draw."""
        return row_samplers(self.sampling)

    @cached_property
    def row_kernels(self) -> tuple[bool, bool, bool]:
        """Return whether the row uses top-k, shape samplers and final samplers, as three values.

        Shape samplers act before top-k and top-p, final ones after them. All are False if the host draws.
        """
        row = self.row_samplers
        return (False, False, False) if row is None else (row.top_k > 0, row.uses_shape, row.uses_final)

    @property
    def last_token(self) -> int | None:
        """Return the token drawn last; None before the first. It enters the state in the next step."""
        return self.token_ids[-1] if self.has_generated else None

    @property
    def samples_last_token(self) -> bool:
        """Return whether the next token is the last allowed one and a snapshot will be kept after it.

        No snapshots are kept without a cache salt.
        """
        return self.cache_salt != "" and self.num_generated + 1 == self.sampling.max_new_tokens

    @property
    def barred_now(self) -> tuple[int, ...]:
        """Return the tokens that must not be drawn next, one for each earlier attempt in this place."""
        position, tokens = self.barred
        return tokens if position == len(self.token_ids) else ()

    @property
    def stop_is_forbidden(self) -> bool:
        """Return whether `min_tokens` forbids a stop token now."""
        return self.num_generated < self.min_tokens

    @property
    def computed_tokens(self) -> Tokens:
        """Return a copy of the tokens in the sequence's state."""
        tokens: Tokens = np.frombuffer(self.token_ids, np.int32)[: self.num_computed_tokens].copy()
        return tokens
