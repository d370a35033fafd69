"""Test weights in blocks: the same matrices, in another order in memory."""

from __future__ import annotations

import pytest
import torch

from jet.ops.blocked import BlockedTensor, _lay_out, in_blocks, in_rows, joined
from jet.ops.numba.block_layout import lay_out
from jet.ops.quantization import SCHEMES, QuantizedTensor, quantize

SHAPES = [(16, 128), (1, 1), (17, 33), (40, 90), (5, 1025), (33, 64)]


def coded(shape: tuple[int, int], scheme: str) -> QuantizedTensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return quantize(lambda begin, end: weight[begin:end], shape, scheme, torch.float32, weight.device)


def same(one: QuantizedTensor, other: QuantizedTensor) -> bool:
    return torch.equal(one.qweight, other.qweight) and torch.equal(one.scales, other.scales)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_hold_the_same_matrix(
    shape: tuple[int, int], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jet.ops.blocked._AT_ONCE", 2000)
    weight = coded(shape, scheme)
    blocked = in_blocks(weight)
    assert same(in_rows(blocked), weight) and in_blocks(blocked) is blocked
    assert (blocked.shape, blocked.scheme, blocked.row_bytes) == (weight.shape, scheme, weight.row_bytes)
    assert (len(blocked), blocked.numel(), blocked.dtype) == (len(weight), weight.numel(), weight.dtype)
    assert blocked.padded_row_bytes % 64 == 0 and blocked.qweight.shape[0] == -(-shape[0] // 16)
    assert torch.equal(blocked.dequantize(), weight.dequantize())
    # Of four columns the first row's come first.
    assert torch.equal(blocked.qweight[0, 0, 0, : weight.row_bytes], weight.qweight[0, :4])


@pytest.mark.parametrize("sizes", [(16,), (3, 40, 21), (31, 1, 1, 32)], ids=str)
@pytest.mark.parametrize("row_bytes", [4, 64, 132])
def test_the_compiled_layout_is_that_of_torch(sizes: tuple[int, ...], row_bytes: int) -> None:
    codes = [torch.randint(0, 256, (rows, row_bytes), dtype=torch.uint8) for rows in sizes]
    shape = -(-sum(sizes) // 16), -(-row_bytes // 64) * 16, 16, 4
    found, wanted = (torch.full(shape, 7, dtype=torch.uint8) for _ in range(2))
    lay_out(codes, found)
    _lay_out(codes, wanted)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_of_blocks_are_those_of_the_matrix(scheme: str) -> None:
    weight = coded((50, 70), scheme)
    blocked, ids = in_blocks(weight), torch.tensor([49, 0, 17, 17])
    assert same(blocked[ids], weight[ids])
    part = blocked[5:43]
    assert isinstance(part, BlockedTensor) and part.qweight is blocked.qweight
    assert same(part[10:20].plain(), weight[15:25]) if isinstance(part[10:20], BlockedTensor) else False
    assert same(part[torch.tensor([3])], weight[8:9])
    assert same(part[0:10:3], weight[5:15:3])
    assert len(blocked[60:]) == 0


def test_neighbours_are_joined_and_nothing_else() -> None:
    blocked = in_blocks(coded((50, 70), "int4"))
    parts = blocked[3:10], blocked[10:11], blocked[11:40]
    whole = joined(parts)
    assert whole is not None and (whole.first, whole.rows) == (3, 37) and whole.qweight is blocked.qweight
    assert joined([blocked[3:10], blocked[11:12]]) is None
    assert joined([blocked[3:10], in_blocks(coded((50, 70), "int4"))[10:12]]) is None
    assert joined([coded((4, 8), "int8")]) is None


def test_nothing_is_written_into_blocks() -> None:
    with pytest.raises(TypeError, match="cannot be written"):
        in_blocks(coded((3, 5), "int8")).quantize_rows(0, torch.zeros(1, 5))
