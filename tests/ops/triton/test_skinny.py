"""Compare products of a few dozen rows on tensor cores with plain PyTorch."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from jet.ops.triton import skinny
from jet.ops.triton.skinny import GemmConfig, SplitKWorkspace
from tests.ops.triton.test_decode_kernels import DEVICE, empty, normal, weights

pytestmark = pytest.mark.thorough

# The interpreter multiplies the bits of bfloat16 matrices.
TYPES = [torch.float16, torch.bfloat16] if DEVICE == "cuda" else [torch.float16]
CUTS = [None, GemmConfig(16, 32), GemmConfig(32, 16, split_k=3), GemmConfig(64, 64, split_k=2)]
SHAPES = [(5, 48), (70, 129), (64, 192)]


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("config", CUTS, ids=str)
@pytest.mark.parametrize("rows", [9, 32])
@pytest.mark.parametrize(("n", "c"), SHAPES)
def test_products(n: int, c: int, rows: int, config: GemmConfig | None, dtype: torch.dtype) -> None:
    weight, given, split_k_workspace = weights(n, c, dtype), normal(rows, c).to(dtype), SplitKWorkspace()
    expected = given.float() @ weight.float().T
    for _ in range(2):  # the second time finds the counters as the first has left them
        out = empty(rows, n)
        skinny.matmul(given, weight, out, False, split_k_workspace, config)()
        agree(out, expected)
    skinny.matmul(given, weight, out, True, split_k_workspace, config)()
    agree(out, 2 * expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("config", CUTS, ids=str)
@pytest.mark.parametrize(("n", "c"), SHAPES)
def test_swiglu(n: int, c: int, config: GemmConfig | None, dtype: torch.dtype) -> None:
    rows = 11
    gate_up, given = weights(2 * n, c, dtype), normal(rows, c).to(dtype)
    gate, up = (given.float() @ gate_up.float().T).chunk(2, 1)
    out = empty(rows, n).to(dtype)
    skinny.swiglu(given, gate_up, out, SplitKWorkspace(), config)()
    torch.testing.assert_close(out, (torch.nn.functional.silu(gate) * up).to(dtype), rtol=2e-3, atol=2e-3)


def test_what_does_not_fit_is_refused() -> None:
    weight, given = weights(4, 16, torch.float16), normal(9, 16).half()
    with pytest.raises(ValueError, match="must fit"):
        skinny.matmul(given, weight, empty(9, 5), False, SplitKWorkspace())


@pytest.mark.parametrize(
    ("n", "c", "parts"), [(17920, 1536, 1), (1536, 8960, 5), (8856, 1536, 1), (1536, 3072, 4), (64, 100, 1)]
)
def test_columns_are_shared_where_rows_are_few(n: int, c: int, parts: int) -> None:
    assert skinny.default_gemm_config(n, c, 132).split_k == parts
