"""Log-probabilities of drawn tokens and of the likeliest alternatives to each."""

from __future__ import annotations

import torch
from torch import Tensor


def top_logprobs(logits: Tensor, token: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-probabilities of drawn tokens, and the likeliest tokens with their log-probabilities.

    All are computed from the given logits, without temperature and filters. The computation runs on the
    logits' device, without waiting for it.

    Args:
        logits: `[B, V]`, any floating dtype.
        token: `[B]` int32 or int64, the drawn tokens.
        count: how many of the likeliest tokens to return; may be 0, or more than V.

    Returns:
        The log-probability of each token `[B]`, the ids `[B, N]` (int64) of the N likeliest tokens, likeliest
            first, and their log-probabilities `[B, N]`. N is the smaller of `count` and V. All
            log-probabilities are float32.
    """
    logits = logits.float()
    log_normalizer = logits.logsumexp(dim=-1, keepdim=True)
    chosen = logits.gather(-1, token.long()[:, None]) - log_normalizer
    top, ids = torch.topk(logits, min(count, logits.shape[-1]), dim=-1)
    return chosen[:, 0], ids, top - log_normalizer
