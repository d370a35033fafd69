"""Test which float32 products accumulate in float64, and which do not."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from jet.ops.precision import linear, upcast


def test_prompts_in_float32_are_as_good_as_float64_rounded_once() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 9, 700), torch.randn(50, 700), torch.randn(50)
    exact = F.linear(x.double(), weight.double(), bias.double()).float()
    assert torch.equal(linear(x, weight, bias), exact)
    assert not torch.equal(F.linear(x, weight, bias), exact), "plain products round on the way"


def test_single_tokens_other_types_and_autocast_are_plain() -> None:
    torch.manual_seed(0)
    x, weight, large = torch.randn(2, 9, 300), torch.randn(50, 300), torch.randn(500, 300)
    assert torch.equal(linear(x[:, :1], large), F.linear(x[:, :1], large))
    assert torch.equal(linear(x[:, :1], weight), F.linear(x[:, :1].double(), weight.double()).float())
    assert torch.equal(linear(x.bfloat16(), weight.bfloat16()), F.linear(x.bfloat16(), weight.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


def test_wide_raises_half_precision_only() -> None:
    assert upcast(torch.ones(1, dtype=torch.float16)).dtype == torch.float32
    assert upcast(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert upcast(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
