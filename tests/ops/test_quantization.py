"""Test int8 and int4: quantized values, scales, bytes and errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jet.ops import quantization
from jet.ops.quantization import GROUP_SIZE, SCHEMES, QuantizedTensor, quantize, row_ranges

CPU = torch.device("cpu")
# Columns: one, odd, less than a group, halves that end within one, whole groups.
SHAPES = [(3, 1), (5, 7), (4, 33), (2, 64), (3, 96), (7, 127), (6, 384)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def quantized_of(weight: Tensor, scheme: str, dtype: torch.dtype = torch.float32) -> QuantizedTensor:
    return quantize(lambda begin, end: weight[begin:end], tuple(weight.shape), scheme, dtype, CPU)


def by_definition(made: QuantizedTensor) -> Tensor:
    """Dequantize every weight by itself."""
    numbers = torch.empty(made.shape, dtype=torch.float64)
    groups = made.scales.shape[-1] // 2
    for row in range(len(made)):
        for column in range(made.columns):
            if made.scheme == "int8":
                numbers[row, column] = made.qweight[row, column].double() * made.scales[row].double()
                continue
            half, place = divmod(column, made.row_bytes)
            code = (int(made.qweight[row, place]) >> (4 * half)) % 16 - 8
            numbers[row, column] = code * made.scales[row, half * groups + place // GROUP_SIZE].double()
    return numbers


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_codes_times_scales(shape: tuple[int, int], scheme: str) -> None:
    made = quantized_of(torch.randn(shape), scheme)
    assert made.shape == shape and made.numel() == shape[0] * shape[1] and len(made) == shape[0]
    expected = by_definition(made)
    assert torch.equal(made.float(), expected.float())
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        out = torch.full(shape, torch.nan, dtype=dtype)
        assert made.dequantize(out=out) is out
        assert torch.equal(out, made.dequantize(dtype))
        torch.testing.assert_close(
            out.double(), expected, rtol=2 * max(torch.finfo(dtype).eps, 1e-7), atol=1e-7
        )
    assert made.dequantize().dtype == torch.float32


@pytest.mark.parametrize(("scheme", "bits"), [("int8", 8), ("int4", 4.25)])
def test_bytes_are_those_of_codes_and_scales(scheme: str, bits: float) -> None:
    made = quantized_of(torch.randn(16, 768), scheme)
    assert made.nbytes == made.numel() * bits / 8 + (16 * 4 if scheme == "int8" else 0)


@pytest.mark.parametrize(("scheme", "most"), [("int8", 0.01), ("int4", 0.11)])
def test_normal_weights_come_near(scheme: str, most: float) -> None:
    weight = torch.randn(64, 768)
    error = (quantized_of(weight, scheme).float() - weight).norm() / weight.norm()
    assert most / 2 < error < most


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_int4_is_nearer_than_the_largest_weight_at_the_largest_code(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    made = quantized_of(weight, "int4")
    plain = torch.empty(shape)
    for half in (slice(0, made.row_bytes), slice(made.row_bytes, shape[1])):
        for columns in torch.arange(shape[1])[half].split(GROUP_SIZE):
            part = weight[:, columns]
            scale = (part.abs().amax(1, keepdim=True) / 7).half().float()
            plain[:, columns] = (part / scale).round().clamp(-8, 7) * scale
    ours, theirs = ((one - weight).square().sum() for one in (made.float(), plain))
    assert ours <= theirs * 1.001  # scales are rounded to float16


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_that_have_codes_come_back(scheme: str) -> None:
    made = quantized_of(torch.randn(5, 96), scheme)
    again = quantized_of(made.float(), scheme)
    torch.testing.assert_close(again.float(), made.float(), rtol=2e-3, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pieces_make_no_difference(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(37, 96)
    whole = quantized_of(weight, scheme)
    monkeypatch.setattr(quantization, "CHUNK", 5 * 96 + 1)
    spans = []

    def read(begin: int, end: int) -> Tensor:
        spans.append(end - begin)
        return weight[begin:end]

    parts = quantize(read, (37, 96), scheme, torch.float32, CPU)
    assert max(spans) == 5
    assert torch.equal(whole.qweight, parts.qweight) and torch.equal(whole.scales, parts.scales)


def test_a_row_longer_than_a_piece_is_a_piece() -> None:
    assert list(row_ranges((3, 10), 4)) == [(0, 1), (1, 2), (2, 3)]
    assert list(row_ranges((5, 2), 4)) == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_and_what_is_not_finite_shows(scheme: str) -> None:
    weight = torch.randn(4, 96)
    weight[0] = 0
    weight[1, 40] = torch.nan
    weight[2, 3] = torch.inf
    numbers = quantized_of(weight, scheme).float()
    assert not numbers[0].any()
    assert not numbers[1, 40].isfinite() and not numbers[2, 3].isfinite()
    assert numbers[3].isfinite().all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rows_can_be_had_by_themselves(scheme: str) -> None:
    made = quantized_of(torch.randn(9, 66), scheme)
    numbers = made.float()
    some = made[2:5]
    assert torch.equal(some.float(), numbers[2:5])
    assert some.data_ptr() == made.qweight[2:].data_ptr(), "a slice is a view"
    chosen = torch.tensor([8, 0, 0, 3])
    assert torch.equal(made[chosen].float(), numbers[chosen])
