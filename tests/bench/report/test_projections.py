"""Test projections against an independent computation of the same figures."""

from __future__ import annotations

import pytest
import torch

from jet import JetNemotronConfig
from jet.bench.bytes_moved import decode_bytes_moved
from jet.bench.networks import random_network
from jet.bench.report.gpu_specs import GPU_SPECS
from jet.bench.report.projections import OFFICIAL_2B as OFFICIAL_BYTES
from jet.bench.report.projections import project
from tests.bench.test_bytes_moved import OFFICIAL_2B


def test_the_official_2b_moves_what_its_tensors_say() -> None:
    model = random_network(JetNemotronConfig(**OFFICIAL_2B), "meta", torch.bfloat16)
    assert pytest.approx(decode_bytes_moved(model, 512, 2).total, rel=2e-3) == OFFICIAL_BYTES


def test_a_card_moves_its_bandwidth() -> None:
    found = project(2 * 10**9, 0.5)
    by_name = {row["card"]: row for row in found["rows"]}
    assert set(by_name) == {card.name for card in GPU_SPECS}
    assert by_name["RTX 3060 Laptop"]["ceiling"] == 168.0
    assert by_name["RTX 3060 Laptop"]["projected"] == 84.0
    assert all(row["fits"] for row in by_name.values())


def test_what_does_not_fit_is_said_not_to() -> None:
    fits = {row["card"]: row["fits"] for row in project(10**10, None)["rows"]}
    assert not fits["RTX 3060 Laptop"] and fits["H100 SXM"]


def test_without_a_share_there_is_only_the_ceiling() -> None:
    assert {row["projected"] for row in project(10**9, None)["rows"]} == {None}
