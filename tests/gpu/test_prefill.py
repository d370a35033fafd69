"""Prompts read by graphs against the forward, and both against the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM
from jet.engine.prefill import SIZES, GraphPrefill, PlainPrefill, make_prefill
from jet.modeling.slots import SlotPool

pytestmark = pytest.mark.gpu

CUDA = "cuda"
STORY_MODEL = Path(__file__).parents[2] / "assets" / "story-model"
PIECES = [(1,), (5,), (SIZES[0],), (SIZES[0] + 1,), (300, 7, 64), (SIZES[-1], 1, 500), (SIZES[-1] + 1,)]


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.bfloat16).to(CUDA).eval()


@pytest.fixture(scope="module")
def exact() -> JetNemotronForCausalLM:
    return JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.float64).to(CUDA).eval()


def states(pool: SlotPool, slot: int) -> list[Tensor]:
    return [memory.recurrent[slot].double() for memory in pool.layers if hasattr(memory, "recurrent")]


@torch.inference_mode()
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_graphs_are_as_near_the_truth_as_the_forward(
    model: JetNemotronForCausalLM, exact: JetNemotronForCausalLM, pieces: tuple[int, ...]
) -> None:
    pytest.importorskip("fla")
    pool = SlotPool(model.config, 3, 4 * 2048, model.dtype, CUDA)
    plain = PlainPrefill(model, pool)
    graphs = make_prefill(model, pool)
    assert isinstance(graphs, GraphPrefill)
    total = sum(pieces)
    ids = torch.randint(2, 4000, (total,), generator=torch.Generator().manual_seed(total)).to(CUDA)
    # Somebody else's story stands in another slot, and must not notice.
    other = pool.open()
    pool.reserve(other, 100)
    graphs.read(other, 0, ids[:50].repeat(2)[:100])
    untouched = [state.clone() for state in states(pool, other)]
    results = []
    for reader in (graphs, plain):
        slot = pool.open()
        length = 0
        for piece in pieces:
            pool.reserve(slot, length + piece)
            logits = reader.read(slot, length, ids[length : length + piece])
            length += piece
        results.append((logits[0].double(), states(pool, slot)))
    cache = HybridCache(exact.config)
    truth = exact(ids[None], past_key_values=cache).logits[0, -1]
    kept = [layer.recurrent_state[0] for layer in cache.layers if hasattr(layer, "recurrent_state")]
    (ours, our_states), (theirs, their_states) = results
    assert error(ours, truth) <= 1.3 * error(theirs, truth) + 2e-3
    for one, another, right in zip(our_states, their_states, kept, strict=True):
        assert error(one, right) <= 1.3 * error(another, right) + 2e-3
    assert all(map(torch.equal, untouched, states(pool, other)))


def error(value: Tensor, truth: Tensor) -> float:
    return float((value - truth).norm() / truth.norm())
