"""Compare `sdpa` without a mask with the definition, for every relation of new to cached tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from jet.modeling.sdpa import sdpa


@pytest.mark.parametrize("window", [None, 1, 4, 7, 100])
@pytest.mark.parametrize(("new", "before"), [(1, 0), (5, 0), (1, 6), (3, 6), (8, 6), (20, 3)])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_equals_the_definition(new: int, before: int, window: int | None, kv_heads: int) -> None:
    torch.manual_seed(0)
    kept = before if window is None else min(before, window - 1)  # what the cache of a window keeps
    query = torch.randn(2, 6, new, 8, dtype=torch.float64)
    key, value = (torch.randn(2, kv_heads, kept + new, 8, dtype=torch.float64) for _ in range(2))
    behind = torch.arange(kept, kept + new)[:, None] - torch.arange(kept + new)
    sees = (behind >= 0) & (behind < (window or 10**6))
    keys, values = (x.repeat_interleave(6 // kv_heads, dim=1) for x in (key, value))
    scores = (query @ keys.mT * 0.3).masked_fill(~sees, -torch.inf)
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    torch.testing.assert_close(sdpa(query, key, value, 0.3, window), expected)


@pytest.mark.parametrize(("new", "seen", "window"), [(5, 5, None), (1, 9, None), (4, 9, 6)])
def test_no_plan_is_made_for_every_length(
    new: int, seen: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    enabled = []
    plain = F.scaled_dot_product_attention

    def attend(*args: Any, **kwargs: Any) -> torch.Tensor:
        enabled.append(torch.backends.cuda.cudnn_sdp_enabled())
        return plain(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    sdpa(torch.ones(1, 4, new, 8), torch.ones(1, 2, seen, 8), torch.ones(1, 2, seen, 8), 1.0, window)
    assert enabled and not any(enabled)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
