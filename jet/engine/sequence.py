"""Sequence: what the runner remembers of one request, and Kept, what restores its state."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from jet.api import SamplingParams
from jet.cache.host_pool import Saved
from jet.cache.prefix_cache import Resident
from jet.engine.step_output import Arriving, Detail
from jet.engine.text.healing import Healing, Way
from jet.token_ids import Tokens


class Kept(NamedTuple):
    """What restores a state: its slot, and the logits `[1, V]` of what comes next where they are known.

    Both are on the device, or both in the host's memory.
    """

    place: int | Saved
    logits: Tensor | None


@dataclass(eq=False)
class Sequence:
    """What the runner remembers of one request.

    Attributes:
        slot: its place in all states; None once it has been released.
        user: whose it is; states of the user "" are not kept.
        promise: most tokens that it may come to have.
        text: every token that has been read or drawn.
        length: tokens in its state, the first ones of `text`.
        steps: tokens drawn so far, which numbers their random numbers; those that healing drew only count
            where they have new text.
        logits: `[1, V]` of the next token, if it is to be drawn before anything else is read.
        ahead: the step that has been launched before anybody asked for its token.
        alternatives: how many to note for every token; 0 notes nothing.
        detail: what was noted of the last token.
        kept: the length at which its state was kept last.
        claim: the state it is going to start from, and the pages of that.
        healing: the end of its prompt, which is still to be drawn again.
        healed: what that has become.
        min_tokens: of the first so many tokens none may end the text.
        begun: whether any token has been drawn.
        known: how many of the drawn tokens the engine has been told of.
    """

    sampling: SamplingParams
    slot: int | None
    user: str = ""
    promise: int = 0
    text: array[int] = field(default_factory=lambda: array("i"))
    length: int = 0
    steps: int = 0
    logits: Tensor | None = None
    ahead: Arriving | None = None
    alternatives: int = 0
    detail: Detail | None = None
    kept: int = 0
    claim: tuple[Resident[Kept], list[int]] | None = None
    healing: Healing | None = None
    healed: Way | None = None
    min_tokens: int = 0
    begun: bool = False
    known: int = 0

    @property
    def last(self) -> int | None:
        """The token drawn last; None before the first. It is read when the next one is wanted."""
        return self.text[-1] if self.begun else None

    @property
    def draws_its_last(self) -> bool:
        """Whether the next token is the last that the request may have, and its state will be kept."""
        return self.user != "" and self.steps + 1 == self.sampling.max_new_tokens

    @property
    def end_is_barred(self) -> bool:
        """Whether the next token may not end the text."""
        return self.steps < self.min_tokens

    @property
    def tokens(self) -> Tokens:
        """Those in its state."""
        tokens: Tokens = np.frombuffer(self.text, np.int32)[: self.length].copy()
        return tokens
