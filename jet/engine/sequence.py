"""Sequence: what the runner remembers of one request, and Snapshot, what restores its state."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from jet.api import SamplingParams, TokenLogprobs
from jet.cache.host_pool import HostSnapshot
from jet.cache.prefix_cache import CacheEntry
from jet.engine.step_output import StepFuture
from jet.engine.text.healing import Healing, HealingPath
from jet.token_ids import Tokens


class Snapshot(NamedTuple):
    """What restores a state: its slot, and the logits `[1, V]` of what comes next where they are known.

    Both are on the device, or both in the host's memory.
    """

    location: int | HostSnapshot
    logits: Tensor | None


@dataclass(eq=False)
class Sequence:
    """What the runner remembers of one request.

    Attributes:
        slot: its place in all states; None once it has been released.
        cache_salt: whose it is; states of the user "" are not kept.
        max_tokens: most tokens that it may come to have.
        token_ids: every token that has been read or drawn.
        num_computed_tokens: tokens in its state, the first ones of `token_ids`.
        num_generated: tokens drawn so far, which numbers their random numbers; those that healing drew only
            count where they have new text.
        logits: `[1, V]` of the next token, if it is to be drawn before anything else is read.
        in_flight: the step that has been launched before anybody asked for its token.
        top_logprobs: how many to note for every token; 0 notes nothing.
        logprobs: what was noted of the last token.
        last_snapshot: the length at which its state was kept last.
        cache_handle: the state it is going to start from, and the pages of that.
        healing: the end of its prompt, which is still to be drawn again.
        healed_path: what that has become.
        min_tokens: of the first so many tokens none may end the text.
        has_generated: whether any token has been drawn.
        num_accepted: how many of the drawn tokens the engine has been told of.
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
    has_generated: bool = False
    num_accepted: int = 0

    @property
    def last_token(self) -> int | None:
        """The token drawn last; None before the first. It is read when the next one is wanted."""
        return self.token_ids[-1] if self.has_generated else None

    @property
    def samples_last_token(self) -> bool:
        """Whether the next token is the last that the request may have, and its state will be kept."""
        return self.cache_salt != "" and self.num_generated + 1 == self.sampling.max_new_tokens

    @property
    def stop_is_forbidden(self) -> bool:
        """Whether the next token may not end the text."""
        return self.num_generated < self.min_tokens

    @property
    def computed_tokens(self) -> Tokens:
        """Those in its state."""
        tokens: Tokens = np.frombuffer(self.token_ids, np.int32)[: self.num_computed_tokens].copy()
        return tokens
