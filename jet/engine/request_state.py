"""RequestState: one request inside the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from jet.api import Request
from jet.engine.banned import BannedGuard
from jet.engine.stream import Channel
from jet.engine.text.detokenizer import Detokenizer
from jet.engine.text.ending import Ending
from jet.engine.text.healing import Healing
from jet.engine.text.word_bias import BiasedSequence
from jet.telemetry import DecodeMeter, Throttle
from jet.token_ids import Tokens

# Reading memory figures takes longer than a token may, and the page shows no more of them than this.
MEMORY_INTERVAL_S = 0.1
_SHARED_PREFIX = 128  # tokens; prompts that begin alike are not packed into one chunk


class RequestState:
    """One request inside the engine. Once submitted, only the device thread modifies it."""

    def __init__(
        self,
        request: Request,
        prompt: Tokens,
        healing: Healing | None,
        detokenizer: Detokenizer,
        submitted: float,
    ) -> None:
        """Copy the request's settings.

        Args:
            request: the request.
            prompt: the tokens to prefill.
            healing: the tokens after `prompt` that are drawn again; None if there are none.
            detokenizer: converts the answer's tokens to text.
            submitted: the time of submission in seconds.
        """
        # Every token of a scored prompt is computed, and its state is not cached.
        self.cache_salt = request.cache_salt if request.prompt_logprobs is None else ""
        self.min_tokens = request.min_tokens
        self.logit_bias, self.raw_logprobs = request.logit_bias, request.raw_logprobs
        self.stop_token_ids = frozenset(request.stop_token_ids)
        self.stop_token_ids_after = request.stop_token_ids_after
        self.word_bias: tuple[BiasedSequence, ...] = ()
        self.prompt_logprobs = request.prompt_logprobs  # None once all have been sent
        self.healing = healing  # None once it has been drawn
        self.healed_end = healing  # the same, for good
        self.guard: BannedGuard | None = None  # of banned phrases
        self.prompt_tokens = len(prompt) + (0 if healing is None else len(healing.tokens))
        self.sampling = request.sampling.with_seed()
        self.top_logprobs = request.top_logprobs
        self.prompt_ids = prompt
        self.detokenizer = detokenizer
        self.meter = DecodeMeter(submitted)
        self.throttle = Throttle(MEMORY_INTERVAL_S)
        self.channel: Channel
        self.phase = "queued"
        self.queue_position = 0
        self.sequence: Any = None
        # The tokens to prefill: the prompt, or after a lost state prompt and output.
        self.input_ids = self.prompt_ids
        self.num_prefilled: int | None = None  # tokens of `input_ids`; None before the first chunk
        self.cached_tokens = 0  # tokens of the prompt restored from the prefix cache
        self.output_ids: list[int] = []
        self.isolated_steps = 0  # steps to run alone, since a batch with it has failed
        self.max_new_tokens, self.length_reason = self.sampling.max_new_tokens, "length"
        self.ending: Ending | None = None
        self.overrun = 0  # most tokens past `max_new_tokens`, to end a sentence
        self.state_bytes: dict[str, int] = {}

    def begins_like(self, other: RequestState) -> bool:
        """Return whether this request and `other` are of one user and their first tokens are the same.

        Up to `_SHARED_PREFIX` tokens are compared. If they are the same, this request can start from a
        snapshot that `other` will leave.
        """
        length = min(_SHARED_PREFIX, len(self.input_ids), len(other.input_ids))
        same_user = bool(self.cache_salt) and self.cache_salt == other.cache_salt
        return same_user and np.array_equal(self.input_ids[:length], other.input_ids[:length])
