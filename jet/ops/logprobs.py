"""How likely a token was and what else might have stood there, for requests that ask for it."""

from __future__ import annotations

import torch
from torch import Tensor


def top_logprobs(logits: Tensor, token: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities under the network's own distribution: no temperature, no filters.

    A penalty already written into `logits` counts, so ask before it is applied if it should not. All is
    computed on the device, without waiting for it.

    Args:
        logits: `[B, V]`, any floating dtype.
        token: `[B]` int32 or int64, the tokens that were drawn.
        count: how many alternatives, from 0 on; at most V are given.

    Returns:
        The log-probability of each token `[B]`, the ids `[B, N]` (int64) of the N likeliest tokens, likeliest
        first, and their log-probabilities `[B, N]`, with N the smaller of `count` and V; float32.
    """
    logits = logits.float()
    log_normalizer = logits.logsumexp(dim=-1, keepdim=True)
    chosen = logits.gather(-1, token.long()[:, None]) - log_normalizer
    top, ids = torch.topk(logits, min(count, logits.shape[-1]), dim=-1)
    return chosen[:, 0], ids, top - log_normalizer
