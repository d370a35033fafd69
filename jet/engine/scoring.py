"""ScoringPrefill: prefills a prompt and keeps the log-probability of each of its tokens, for evaluations.

    hidden states [T, D] → slices [S, D] → logits [S, V] → log-probabilities of the next and the likeliest
    tokens

Logits of a whole chunk are never in memory at once: 4,096 tokens of a vocabulary of 152,000 would be 2.5 GB.
The network's own forward is used on every device, since graphs of chunks compute one row of logits only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jet.api import TokenLogprobs
from jet.cache.pinned import to_device
from jet.cache.state_pool import StatePool
from jet.engine.prefill import EagerPrefill
from jet.engine.step_output import token_logprobs
from jet.modeling import JetNemotronForCausalLM
from jet.ops.logprobs import top_logprobs
from jet.ops.sampling import NOT_A_NUMBER
from jet.token_ids import Tokens

SLICE = 64  # rows of logits in memory at once


class ScoringPrefill:
    """Prefills one chunk of a prompt and keeps its log-probabilities.

    Attributes:
        found: after `run`, the log-probabilities of each token in `following`.
    """

    kernels = EagerPrefill.kernels

    def __init__(self, model: JetNemotronForCausalLM, pool: StatePool, following: Tokens, count: int) -> None:
        """`following`: the token after each token of the chunk, except after the prompt's last token.

        `count`: how many of the likeliest tokens to keep at every position; may be 0.
        """
        self._model, self._pool = model, pool
        self._following, self._count = following, count
        self.found: list[TokenLogprobs] = []

    def run(self, slot: int, length: int, ids: Tensor) -> Tensor:
        """Prefill `ids` `[T]` after the `length` tokens of a slot; return the next token's logits `[1, V]`.

        Raises FloatingPointError if a log-probability is NaN or infinite.
        """
        assert len(ids) - 1 <= len(self._following) <= len(ids)
        cache = self._pool.cache(slot, length)
        states = self._model.model(input_ids=ids[None], past_key_values=cache, use_cache=True)
        hidden = states.last_hidden_state[0]
        following = to_device(self._following, torch.int64, ids.device)
        for tokens, rows in zip(following.split(SLICE), hidden.split(SLICE), strict=False):
            noted = top_logprobs(self._model.lm_head(rows[: len(tokens)]), tokens, self._count)
            logprobs, top_ids, top = (part.cpu() for part in noted)
            if not logprobs.isfinite().all():
                raise FloatingPointError(NOT_A_NUMBER)
            self.found += [
                token_logprobs(token, (logprobs, top_ids, top), row)
                for row, token in enumerate(tokens.tolist())
            ]
        logits: Tensor = self._model.lm_head(hidden[-1:])
        return logits
