"""Compare samplers on the device with `jet.ops.sampler_chain`: tokens kept, and the scale."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from jet.ops.decode_batch import DecodeBatch
from jet.ops.sampler_chain import ChainSettings, heat, top_n_sigma, typical
from jet.ops.triton.shape_logits import ShapeBuffers, shape_logits
from tests.ops.test_sampler_chain import rows

pytestmark = pytest.mark.thorough

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter takes a few hundredths of a second for a row.
ROWS = 2000 if torch.cuda.is_available() else 24
SETTINGS = [
    (0.0, 1.0, 0.0, 1.0),
    (1.0, 1.0, 0.0, 1.0),
    (0.0, 0.8, 0.0, 1.0),
    (0.0, 1.0, 0.7, 1.5),
    (1.5, 0.5, 0.4, 1.0),
]
NEAR = 1e-4  # a token may be kept or not where its measure is so near to the edge


def expected(row: torch.Tensor, setting: tuple[float, ...], temperature: float) -> torch.Tensor:
    sigmas, mass, spread, exponent = setting
    chain = ChainSettings(temperature, spread, exponent)
    return typical(heat(top_n_sigma(row, sigmas), chain), mass)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_rows_are_shaped_as_they_are_defined(setting: tuple[float, float, float, float]) -> None:
    given = torch.from_numpy(np.stack(list(rows(ROWS)))).float()
    batch = DecodeBatch.make(len(given), DEVICE)
    batch.active.fill_(1)
    batch.temperature.fill_(0.8)
    buffers = ShapeBuffers.make(len(given), given.shape[1], DEVICE)
    buffers.logits.fill_(torch.nan)
    buffers.write([setting] * len(given))
    shape_logits(given.to(DEVICE), batch, buffers)
    shaped = buffers.logits.cpu().double() / buffers.temperature.cpu().double()[:, None]
    unsettled = 0
    for row, got in zip(given.double(), shaped, strict=True):
        wanted = expected(row, setting, 0.8)
        if not torch.equal(got.isfinite(), wanted.isfinite()):
            # Float32 decides near ties otherwise: then a little more or less is kept.
            either = [
                expected(row, (setting[0] * scale, min(1.0, setting[1] * scale), *setting[2:]), 0.8)
                for scale in (1 - NEAR, 1 + NEAR)
            ]
            assert any(torch.equal(got.isfinite(), one.isfinite()) for one in either)
            unsettled += 1
            continue
        torch.testing.assert_close(got.softmax(-1), wanted.softmax(-1), rtol=1e-4, atol=1e-6)
    assert unsettled <= len(given) // 100 + 1


def test_rows_without_samplers_greedy_and_broken_ones_are_copied() -> None:
    given = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    given[3, 7] = torch.nan
    batch = DecodeBatch.make(5, DEVICE)
    batch.active.fill_(1)
    batch.active[4] = 0
    batch.temperature.copy_(torch.tensor([0.7, 0.0, 0.7, 0.7, 0.7]))
    buffers = ShapeBuffers.make(5, 300, DEVICE)
    buffers.logits.fill_(-9.0)
    buffers.write([(0.0, 1.0, 0.0, 1.0), *[(1.0, 0.5, 0.0, 1.0)] * 4])
    shape_logits(given.to(DEVICE), batch, buffers)
    shaped = buffers.logits.cpu()
    assert torch.equal(shaped[:2], given[:2]) and torch.equal(shaped[3].isnan(), given[3].isnan())
    assert not torch.equal(shaped[2], given[2]) and bool((shaped[4] == -9).all())
    assert buffers.temperature.tolist()[:4] == pytest.approx([0.7, 0.0, 1.0, 0.7])


def test_buffers_must_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        shape_logits(
            torch.zeros(2, 8, device=DEVICE), DecodeBatch.make(2, DEVICE), ShapeBuffers.make(1, 8, DEVICE)
        )
