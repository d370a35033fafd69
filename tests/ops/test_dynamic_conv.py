"""Compare the dynamic convolution with its definition: whole, in chunks, and with padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jet.ops.dynamic_conv import dynamic_conv


def by_definition(x: Tensor, kernels: Tensor, state: Tensor) -> Tensor:
    history = torch.cat([state.transpose(1, 2), x], dim=1)
    width, out = kernels.shape[-1], torch.zeros_like(x)
    for t in range(x.shape[1]):
        for tap in range(width):
            out[:, t] += history[:, state.shape[-1] + t - (width - 1) + tap] * kernels[:, t, :, tap]
    return out * out.sigmoid()


def inputs(batch: int, length: int, channels: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    return (
        torch.randn(batch, length, channels, generator=generator),
        torch.randn(batch, length, channels, width, generator=generator),
        torch.randn(batch, channels, width, generator=generator),
    )


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("width", [1, 2, 4, 5])
def test_definition_and_state(length: int, width: int) -> None:
    x, kernels, state = inputs(2, length, 6, width)
    out, new_state = dynamic_conv(x, kernels, state)
    torch.testing.assert_close(out, by_definition(x, kernels, state))
    assert torch.equal(new_state, torch.cat([state, x.transpose(1, 2)], dim=-1)[..., -width:])
    fresh, _ = dynamic_conv(x, kernels)
    torch.testing.assert_close(fresh, by_definition(x, kernels, torch.zeros_like(state)))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_equal_the_whole(size: int) -> None:
    x, kernels, state = inputs(2, 11, 6, 4)
    whole, end = dynamic_conv(x, kernels, state)
    pieces = []
    for start in range(0, 11, size):
        out, state = dynamic_conv(x[:, start : start + size], kernels[:, start : start + size], state)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert torch.equal(state, end)


@pytest.mark.parametrize("seed", range(8))
def test_padding_anywhere_is_skipped(seed: int) -> None:
    x, kernels, state = inputs(1, 10, 3, 4)
    mask = torch.rand(1, 10, generator=torch.Generator().manual_seed(seed)) > 0.5
    out, end = dynamic_conv(x, kernels, state, mask)
    alone, expected_end = dynamic_conv(x[mask][None], kernels[mask][None], state)
    torch.testing.assert_close(out[mask], alone[0])
    assert torch.equal(end, expected_end)


def test_one_padded_token_changes_nothing() -> None:
    x, kernels, state = inputs(2, 1, 3, 4)
    _, end = dynamic_conv(x, kernels, state, torch.tensor([[True], [False]]))
    assert torch.equal(end[1], state[1])
    assert torch.equal(end[0], torch.cat([state[0, :, 1:], x[0].T], dim=-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    x, kernels, state = (part.to(dtype) for part in inputs(1, 9, 5, 4))
    out, _ = dynamic_conv(x, kernels, state)
    expected = by_definition(x.float(), kernels.float(), state.float())
    assert out.dtype == dtype
    assert (
        torch.equal(out, expected.to(dtype))
        or (out.float() - expected).abs().max() < 1e-2 * expected.abs().max()
    )
    step, _ = dynamic_conv(x[:, :1], kernels[:, :1], state)
    assert torch.equal(step, out[:, :1])


@pytest.mark.parametrize("count", [0, 1, 3, 9, 10])
def test_trailing_padding_needs_nothing_moved(count: int) -> None:
    x, kernels, state = inputs(2, 10, 3, 4)
    mask = (torch.arange(10) < count).expand(2, -1)
    out, end = dynamic_conv(x, kernels, state, mask, trailing=True)
    expected, expected_end = dynamic_conv(x, kernels, state, mask)
    torch.testing.assert_close(out[:, :count], expected[:, :count])
    assert torch.equal(end, expected_end)
