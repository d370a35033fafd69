"""Test prefill by CUDA graphs against the forward, and both against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM
from jet.cache.state_pool import StatePool
from jet.engine.prefill import SIZES, CudaGraphPrefill, EagerPrefill, Part, make_prefill
from jet.modeling.quantization import quantize_network
from jet.ops.chunk_meta import Segment, make_chunk_meta
from jet.ops.gated_delta_rule import naive_recurrent_gated_delta_rule
from jet.ops.prefill_backends import triton_prefill_backend
from jet.ops.reference import JetSizes
from tests.networks import GOLDEN, GOLDEN_PROMPTS, golden_expectations

pytestmark = pytest.mark.gpu

CUDA = "cuda"
STORY_MODEL = Path(__file__).parents[2] / "assets" / "story-model"
PIECES = [
    (1,),
    (5,),
    (SIZES[0],),
    (SIZES[0] + 1,),
    (300, 7, 64),
    (1024, 1, 500),
    (1025,),
    (SIZES[-1],),
    (3000, 1000),
]


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.bfloat16).to(CUDA).eval()


@pytest.fixture(scope="module")
def exact() -> JetNemotronForCausalLM:
    return JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.float64).to(CUDA).eval()


def states(pool: StatePool, slot: int) -> list[Tensor]:
    return [memory.recurrent[slot].double() for memory in pool.layers if hasattr(memory, "recurrent")]


@torch.inference_mode()
@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_graphs_are_as_near_the_truth_as_the_forward(
    model: JetNemotronForCausalLM, exact: JetNemotronForCausalLM, pieces: tuple[int, ...]
) -> None:
    pool = StatePool(model.config, 3, 4 * 4096, model.dtype, CUDA)
    plain = EagerPrefill(model, pool)
    graphs = make_prefill(model, pool)
    assert isinstance(graphs, CudaGraphPrefill)
    total = sum(pieces)
    ids = torch.randint(2, 4000, (total,), generator=torch.Generator().manual_seed(total)).to(CUDA)
    # Another user's story is in another slot, and must not change.
    other = pool.allocate()
    pool.reserve(other, 100)
    graphs.run(other, 0, ids[:50].repeat(2)[:100])
    untouched = [state.clone() for state in states(pool, other)]
    results = []
    for reader in (graphs, plain):
        slot = pool.allocate()
        length = 0
        for piece in pieces:
            pool.reserve(slot, length + piece)
            logits = reader.run(slot, length, ids[length : length + piece])
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


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_golden_logits_are_no_further_than_by_the_plain_forward(name: str, dtype: torch.dtype) -> None:
    """Compare errors over all prompts together, because the rounding of a single one varies by chance."""
    half = JetNemotronForCausalLM.from_pretrained(GOLDEN / name, dtype=dtype).to(CUDA).eval()
    pool = StatePool(half.config, 3, 4096, dtype, CUDA)
    graphs = make_prefill(half, pool)
    assert isinstance(graphs, CudaGraphPrefill)
    plain, expected = EagerPrefill(half, pool), golden_expectations(name)
    squares = [0.0, 0.0, 0.0]
    for prompt in [i for other, i in GOLDEN_PROMPTS if other == name]:
        ids, truth = expected[f"{prompt}.input_ids"].to(CUDA), expected[f"{prompt}.logits"][-1].double()
        for index, reader in enumerate((graphs, plain)):
            slot = pool.allocate()
            pool.reserve(slot, len(ids))
            squares[index] += float((reader.run(slot, 0, ids)[0].double().cpu() - truth).square().sum())
            pool.free(slot)
        squares[2] += float(truth.square().sum())
    ours, theirs = ((part / squares[2]) ** 0.5 for part in squares[:2])
    print(f"{name}, {dtype}: {ours:.4f} in chunks, {theirs:.4f} by the forward")
    assert ours <= 1.3 * theirs + 2e-3


@torch.inference_mode()
def test_a_prompt_packed_beside_others_is_the_prompt_alone(model: JetNemotronForCausalLM) -> None:
    """Compare logits and states of a prompt that is packed with various others.

    They are equal bit for bit in chunks of one size, and nearly equal in a smaller chunk.
    """
    pool = StatePool(model.config, 12, 12 * 2048, model.dtype, CUDA)
    graphs = make_prefill(model, pool)
    assert isinstance(graphs, CudaGraphPrefill)
    while graphs.capture_next():
        pass
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> npt.NDArray[np.int32]:
        return torch.randint(2, 4000, (count,), generator=generator).numpy().astype(np.int32)

    begun, text, slots = ids(70), ids(200), []
    results = []
    for others in ([], [64, 65, 1], [3, 300, 1, 2, 40]):
        slot = pool.allocate()
        slots.append(slot)
        parts = [Part(slot, len(begun), text), *(Part(pool.allocate(), 0, ids(count)) for count in others)]
        for part in parts:
            pool.reserve(part.slot, part.length + len(part.token_ids))
        graphs.run(slot, 0, torch.from_numpy(begun).long().to(CUDA))
        graphs._sizes = (1024,)  # one size, so that products are cut alike
        results.append((graphs.run_packed(parts[::-1])[-1], *states(pool, slot)))
        graphs._sizes = SIZES
        for part in parts[1:]:
            pool.free(part.slot)
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results[0], other, strict=True))
    slot = pool.allocate()
    pool.reserve(slot, len(begun) + len(text))
    graphs.run(slot, 0, torch.from_numpy(begun).long().to(CUDA))
    alone = graphs.run(slot, len(begun), torch.from_numpy(text).long().to(CUDA))[0]
    assert error(results[0][0].double(), alone.double()) < 2e-2
    for ours, theirs in zip(results[0][1:], states(pool, slot), strict=True):
        assert error(ours, theirs) < 2e-2


@torch.inference_mode()
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantized_weights_are_read_by_graphs(scheme: str) -> None:
    half = JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.bfloat16).to(CUDA).eval()
    quantize_network(half, scheme)
    pool = StatePool(half.config, 3, 4096, half.dtype, CUDA)
    graphs, plain = make_prefill(half, pool), EagerPrefill(half, pool)
    assert isinstance(graphs, CudaGraphPrefill)
    ids = torch.randint(2, 4000, (300,), generator=torch.Generator().manual_seed(0)).to(CUDA)
    logits = []
    for reader in (graphs, plain):
        slot = pool.allocate()
        pool.reserve(slot, 300)
        logits.append(reader.run(slot, 0, ids)[0].double())
    assert error(*logits) < 2e-2


@torch.inference_mode()
def test_64k_tokens_in_chunks_are_as_near_the_truth_as_one_block() -> None:
    """Test that rounding does not add up over sixteen chunks."""
    sizes, chunk, length = JetSizes(1, 96, 256, 64, 4), 4096, 65536
    generator = torch.Generator(CUDA).manual_seed(0)
    projected = torch.randn(length, sum(sizes.split_sizes), generator=generator, device=CUDA).bfloat16()
    projected[:, -2] -= 4.0  # so that much is remembered
    values = torch.randn(length, 256, generator=generator, device=CUDA).bfloat16()
    decays = torch.zeros(1, device=CUDA), torch.zeros(1, device=CUDA)
    states = torch.zeros(1, 256, 4, device=CUDA).bfloat16(), torch.zeros(1, 1, 96, 256, device=CUDA)
    out = torch.full((length, 256), torch.nan, device=CUDA, dtype=torch.bfloat16)
    read = triton_prefill_backend(chunk, sizes, torch.bfloat16, torch.device(CUDA)).chunk_delta
    for begin in range(0, length, chunk):
        part = slice(begin, begin + chunk)
        chunk_meta = make_chunk_meta([Segment(0, begin, chunk, 0)], chunk, CUDA)
        read(projected[part], values[part], decays, chunk_meta, states, out[part], sizes)
    q, k, _, _, _, a, b = projected.double().split(sizes.split_sizes, dim=1)
    heads = [torch.nn.functional.silu(x)[None, :, None] for x in (q, k)]
    g = -torch.nn.functional.softplus(a)[None]
    truth, state = naive_recurrent_gated_delta_rule(
        *heads, values.double()[None, :, None], g, b.sigmoid()[None]
    )
    print(f"{error(out.double(), truth[0, :, 0]):.2e}, {error(states[1][0], state[0]):.2e}")
    assert error(out[:4096].double(), truth[0, :4096, 0]) < 8e-3
    assert error(out[-4096:].double(), truth[0, -4096:, 0]) < 8e-3
    assert error(states[1][0].double(), state[0]) < 8e-3
