"""Compare the convolution kernel with its torch twin."""

# ruff: noqa: E402 (Triton decides when it is imported whether it compiles or interprets)

from __future__ import annotations

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from jet.ops import dynamic_conv as twin
from jet.ops.triton.prefill_conv import CHANNELS, TOKENS, convolve

pytestmark = pytest.mark.thorough

SIZES = [
    (1, 2, 5, 4),
    (2, 3, 7, 4),
    (1, TOKENS, CHANNELS, 4),
    (3, TOKENS + 1, CHANNELS + 3, 2),
    (1, 40, 9, 5),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_it_equals_its_twin(sizes: tuple[int, int, int, int], dtype: torch.dtype, monkeypatch) -> None:
    batch, length, channels, width = sizes
    torch.manual_seed(length)
    x = torch.randn(batch, length, channels).to(DEVICE, dtype)
    kernels = torch.randn(batch, length, channels, width).to(DEVICE, dtype)
    state = torch.randn(batch, channels, width).to(DEVICE, dtype)
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, torch.nan))
    ours = convolve(x, kernels, state)
    monkeypatch.setattr(twin, "_kernel_applies", lambda *_: False)
    expected, _ = twin.dynamic_conv(x, kernels, state)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("length", [2, 3, 4, 9])
def test_the_state_it_leaves_is_the_twin_s(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernels, state = (
        torch.randn(2, *size, device=DEVICE) for size in ((length, 6), (length, 6, 4), (6, 4))
    )
    monkeypatch.setattr(twin, "_kernel_applies", lambda *_: True)
    ours = twin.dynamic_conv(x, kernels, state)
    monkeypatch.setattr(twin, "_kernel_applies", lambda *_: False)
    for one, other in zip(ours, twin.dynamic_conv(x, kernels, state), strict=True):
        torch.testing.assert_close(one, other)


def test_sizes_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(1, 3, 4, device=DEVICE)
    with pytest.raises(ValueError, match="kernels"):
        convolve(x, torch.zeros(1, 2, 4, 4, device=DEVICE), torch.zeros(1, 4, 4, device=DEVICE))


def test_gradients_take_the_plain_way() -> None:
    x = torch.zeros(1, 3, 4, device=DEVICE, requires_grad=True)
    assert not twin._kernel_applies(x, torch.zeros(1, 3, 4, 4, device=DEVICE))
