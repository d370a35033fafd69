"""Test prefill by the decode step's CPU kernels: the same states and logits as token by token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("numba")

from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.cpu_prefill import CHUNK, CpuPrefill
from jet.engine.decode_step import DecodeStep
from jet.engine.prefill import EagerPrefill, make_prefill
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.quantized_loading import random_quantized
from jet.ops.backends import numba_backend
from jet.ops.decode_batch import DecodeBatch
from jet.ops.quantization import SCHEMES
from tests.networks import random_ids, small_config, small_model

CPU = torch.device("cpu")
pytestmark = pytest.mark.timeout(300)


def network(scheme: str) -> JetNemotronForCausalLM:
    config = small_config(layer_types=["jet", "swa", "attn", "jet"], num_hidden_layers=4)
    return random_quantized(config, scheme, CPU, torch.float32)


def full_pool(model: JetNemotronForCausalLM, tokens: int) -> StatePool:
    """Return a pool whose memory is filled with NaN, as if it had held something else before."""
    pool = StatePool(model.config, 3, 3 * PAGE_SIZE + 3 * tokens, model.dtype, "cpu")
    for memory in pool.layers:
        for tensor in vars(memory).values():
            tensor[:-1] = torch.nan
    return pool


def read(model: JetNemotronForCausalLM, ids: Tensor, cuts: list[int], threads: int = 2) -> Tensor:
    pool = full_pool(model, len(ids))
    prefill, slot, length = CpuPrefill(model, pool, threads), pool.allocate(), 0
    pool.reserve(slot, len(ids))
    for piece in ids.split(cuts):
        logits = prefill.run(slot, length, piece)
        length += len(piece)
    return logits


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.inference_mode()
def test_chunks_are_the_whole_and_decode_steps_bit_for_bit(scheme: str) -> None:
    model = network(scheme)
    ids = random_ids(model, CHUNK + 45)
    whole = read(model, ids, [len(ids)])
    assert whole.isfinite().all()
    for cuts in ([1, 2, 3, len(ids) - 6], [CHUNK, 45], [CHUNK - 1, 46], [len(ids) - 1, 1]):
        assert torch.equal(read(model, ids, cuts), whole), cuts
    assert torch.equal(read(model, ids, [len(ids)], threads=1), whole)

    pool, rows = full_pool(model, len(ids)), DecodeBatch.make(1, "cpu", null_slot=0)
    step = DecodeStep(model, pool, rows, numba_backend(1))
    slot = pool.allocate()
    pool.reserve(slot, len(ids))
    rows.slot.fill_(slot)
    for position, token in enumerate(ids.tolist()):
        rows.position.fill_(position)
        rows.token.fill_(token)
        step.run()
    assert torch.equal(step.logits, whole)


@pytest.mark.parametrize("scheme", SCHEMES)
@torch.inference_mode()
def test_prompts_are_read_as_forward_reads_them(scheme: str) -> None:
    model = network(scheme)
    ids = random_ids(model, 20)
    errors = []
    for count in (1, 2, 5, 9, 20):
        ours = read(model, ids[:count], [count])
        errors.append((ours - model(ids[None, :count]).logits[:, -1]).abs().max().item())
    # Now and then a last bit decides which of two codes is the nearest, and a random network amplifies that.
    assert sorted(errors)[2] < 2e-3 and max(errors) < 0.5


@torch.inference_mode()
def test_stories_do_not_notice_each_other() -> None:
    model = network("int8")
    pool, ids = full_pool(model, 60), random_ids(model, 2, 40)
    prefill = make_prefill(model, pool)
    assert isinstance(prefill, CpuPrefill)
    slots = [pool.allocate(), pool.allocate()]
    for slot in slots:
        pool.reserve(slot, 40)
    for begin in (0, 25):
        end = 25 if begin == 0 else 40
        found = [prefill.run(slot, begin, row[begin:end]) for slot, row in zip(slots, ids, strict=True)]
    for row, logits in zip(ids, found, strict=True):
        assert torch.equal(logits, read(model, row, [40]))


def test_networks_of_numbers_are_read_by_forward() -> None:
    model = small_model()
    assert isinstance(make_prefill(model, full_pool(model, 9)), EagerPrefill)
