"""Compare the fused step and its slots with the network's forward, token by token, for all layer types."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.decode_step import DecodeStep
from jet.ops.backends import OpBackend, numba_backend, reference_backend, triton_backend
from jet.ops.decode_batch import DecodeBatch
from tests.networks import GOLDEN, GOLDEN_PROMPTS, golden_expectations, golden_model, random_ids, small_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["torch", pytest.param("triton", marks=pytest.mark.thorough), "cpu"]
SLOW = DEVICE == "cpu"  # the interpreter


def backend_called(name: str, model: JetNemotronForCausalLM, rows: int) -> OpBackend:
    """Return the operations of this name; skip the test if they are not available.

    Without a GPU, Triton runs in the interpreter.
    """
    if name == "torch":
        return reference_backend()
    if name == "cpu":
        if DEVICE != "cpu" or importlib.util.find_spec("numba") is None:
            pytest.skip("needs numba, on a CPU")
        return numba_backend()
    pytest.importorskip("triton")
    config = model.config
    sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    return triton_backend(model.device, rows, *sizes)


class Stepped:
    """A network that reads through slots of a pool whose memory was filled with NaN before."""

    def __init__(
        self, model: JetNemotronForCausalLM, backend: str = "torch", rows: int = 1, slots: int = 3
    ) -> None:
        self.model = model
        self.pool = StatePool(model.config, slots, max(4, slots) * PAGE_SIZE, model.dtype, DEVICE)
        for memory in self.pool.layers:
            for tensor in vars(memory).values():
                tensor[:-1] = torch.nan
        self.rows = DecodeBatch.make(rows, DEVICE, null_slot=self.pool.null_slot)
        self.step = DecodeStep(model, self.pool, self.rows, backend_called(backend, model, rows))
        self.slots = [self.pool.allocate() for _ in range(rows)]
        self.rows.slot.copy_(torch.tensor(self.slots))

    def prefill(self, row: int, ids: Tensor) -> Tensor:
        """Read tokens by the network's forward; return their logits `[T, vocabulary]`."""
        start = int(self.rows.position[row])
        self.pool.reserve(self.slots[row], start + len(ids))
        logits = self.model(ids[None], past_key_values=self.pool.cache(self.slots[row], start)).logits[0]
        self.rows.position[row] += len(ids)
        return logits

    def read(self, *tokens: int) -> Tensor:
        """Decode one more token in each row; return the logits `[B, vocabulary]`."""
        for row, token in enumerate(tokens):
            self.pool.reserve(self.slots[row], int(self.rows.position[row]) + 1)
            self.rows.token[row] = token
        self.step.run()
        self.rows.position.add_(1)
        return self.step.logits.clone()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layers", ["jsja", "jjjj", "aaaa", "ssss"])
@torch.inference_mode()
def test_steps_equal_forwards(layers: str, backend: str) -> None:
    """Compare past the convolution's start and the window and, on fast backends, into a second page."""
    if backend == "triton" and SLOW and layers != "jsja":
        pytest.skip("the interpreter is slow")
    names = {"j": "jet", "s": "swa", "a": "attn"}
    model = small_model(layer_types=[names[letter] for letter in layers]).to(DEVICE)
    reference = copy.deepcopy(model).double()
    stepped, expected = Stepped(model, backend), HybridCache(model.config)
    ids = random_ids(model, 4 if backend == "triton" and SLOW else 300).to(DEVICE)
    stepped.prefill(0, ids[:2])
    reference(ids[None, :2], past_key_values=expected)
    for token in ids[2:]:
        ours = stepped.read(int(token))
        theirs = reference(token.view(1, 1), past_key_values=expected).logits[:, -1]
        torch.testing.assert_close(ours.double(), theirs, atol=2e-4, rtol=2e-4)
    assert stepped.pool.state_bytes(300).keys() == expected.memory().keys()


@pytest.mark.parametrize("cuts", [(1, 2, 3, 5), (64, 65), (6, 1, 8), (200,)], ids=str)
@torch.inference_mode()
def test_prefill_in_pieces_into_a_slot_equals_a_whole_forward(cuts: tuple[int, ...]) -> None:
    model = small_model().to(DEVICE)
    stepped = Stepped(model)
    ids = random_ids(model, sum(cuts)).to(DEVICE)
    pieces = [stepped.prefill(0, piece) for piece in ids.split(list(cuts))]
    torch.testing.assert_close(torch.cat(pieces), model(ids[None]).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [3, 9])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_rows_do_not_notice_each_other(backend: str, rows: int) -> None:
    """Test rows of different lengths in different slots; few and many rows take different paths."""
    if backend == "triton" and SLOW:
        pytest.skip("the interpreter is slow")
    model = small_model().to(DEVICE)
    ids = random_ids(model, rows, 16).to(DEVICE)
    alone = []
    for row in range(rows):
        single = Stepped(model)
        single.prefill(0, ids[row, : 4 + row])
        alone.append([single.read(int(token))[0] for token in ids[row, 13:]])
    together = Stepped(model, backend, rows, slots=rows)
    for row in range(rows):
        together.prefill(row, ids[row, : 4 + row])
    for number, tokens in enumerate(ids[:, 13:].T.tolist()):
        logits = together.read(*tokens)
        for row in range(rows):
            torch.testing.assert_close(logits[row], alone[row][number], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
@torch.inference_mode()
def test_greedy_ids_and_logits_are_golden(name: str, prompt: int, backend: str) -> None:
    """Allow a few times the forward's rounding, as sums are not in float64; logits reach 27."""
    if backend == "triton" and SLOW:
        pytest.skip("the interpreter is slow")
    expected = golden_expectations(name)
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / name).to(DEVICE).eval()
    stepped = Stepped(model, backend)
    logits = stepped.prefill(0, expected[f"{prompt}.input_ids"].to(DEVICE))[-1:]
    for step, token in enumerate(expected[f"{prompt}.greedy_ids"].tolist()):
        truth = expected[f"{prompt}.greedy_logits"][step]
        torch.testing.assert_close(logits[0].cpu(), truth, atol=1e-3, rtol=0)
        assert logits.argmax().item() == token
        logits = stepped.read(token)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
@torch.inference_mode()
def test_half_precision_is_nearer_the_truth_than_the_forward(name: str, dtype: torch.dtype) -> None:
    """Compare over all prompts, token by token; only weights, keys and values are in half precision."""
    model, plain = (
        JetNemotronForCausalLM.from_pretrained(GOLDEN / name, dtype=dtype).eval(),
        golden_model(name, dtype),
    )
    ours = theirs = 0.0
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        ids, truth = (golden_expectations(name)[f"{prompt}.{key}"] for key in ("input_ids", "logits"))
        stepped, usual = Stepped(model), HybridCache(model.config)
        steps = [stepped.read(int(token))[0] for token in ids]
        forwards = [plain(token.view(1, 1), past_key_values=usual).logits[0, 0] for token in ids]
        ours += (torch.stack(steps) - truth).square().sum().item()
        theirs += (torch.stack(forwards).float() - truth).square().sum().item()
    assert ours**0.5 <= theirs**0.5


@torch.inference_mode()
def test_float32_weights_that_are_bfloat16_numbers_are_read_as_such() -> None:
    """Check that float32 weights with bfloat16 values take half the bytes, without loss in the logits."""
    pytest.importorskip("numba")
    short = small_model().bfloat16().float()
    ids = random_ids(short, 12)
    expected = copy.deepcopy(short)(ids[None]).logits[0, -1]
    stepped = Stepped(short, "cpu")
    matrices = [p for n, p in short.named_parameters() if p.ndim == 2 and "embed" not in n]
    assert stepped.step.saved_bytes == sum(p.nbytes for p in [*matrices, short.lm_head.weight]) // 2
    stepped.prefill(0, ids[:-1])
    torch.testing.assert_close(stepped.read(int(ids[-1]))[0], expected, atol=1e-4, rtol=1e-4)
    assert Stepped(small_model(), "cpu").step.saved_bytes == 0


def test_every_weight_but_the_first_is_fetched_while_the_part_before_runs() -> None:
    model = small_model(layer_types=["jet", "swa", "attn", "jet"])
    fetched: list[tuple[object, Tensor]] = []

    def note(step: object, weight: Tensor) -> object:
        fetched.append((step, weight))
        return step

    backend = dataclasses.replace(reference_backend(), with_prefetch=note)
    pool, rows = StatePool(model.config, 1, PAGE_SIZE, model.dtype, DEVICE), DecodeBatch.make(1, DEVICE)
    parts = DecodeStep(model, pool, rows, backend).ops
    places = {id(part.run): number for number, part in enumerate(parts)}
    weights = [part.weight for part in parts if part.weight is not None]
    assert len(weights) == 4 * 5 + 1 - 2  # attention itself has none
    ahead = {places[id(step)]: weight for step, weight in fetched}
    for number, part in enumerate(parts[:-1]):
        following = [other.weight for other in parts[number + 1 :] if other.weight is not None]
        assert ahead.get(number) is (following[0] if part.weight is not None else following[1])
    assert {id(weight) for weight in weights[1:]} == {id(weight) for weight in ahead.values()}


@torch.inference_mode()
def test_weights_are_shared_not_copied_and_unchanged() -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stepped = Stepped(model)
    mlp = model.model.layers[0].mlp
    storages = {part.weight.untyped_storage().data_ptr() for part in (mlp.gate_proj, mlp.up_proj)}
    assert len(storages) == 1
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ids = random_ids(model, 9)
    stepped.prefill(0, ids)
    expected = model(torch.cat([ids, torch.tensor([3])])[None]).logits[0, -1]
    torch.testing.assert_close(stepped.read(3)[0], expected, atol=1e-4, rtol=1e-4)


def test_slots_and_pages_are_handed_out_and_taken_back() -> None:
    pool = StatePool(small_model().config, 2, 3 * PAGE_SIZE, torch.float32, "cpu")
    first, second = pool.allocate(), pool.allocate()
    with pytest.raises(MemoryError, match="slots are in use"):
        pool.allocate()
    pool.reserve(first, PAGE_SIZE + 1)
    pool.reserve(first, PAGE_SIZE + 2)
    assert pool.free_tokens == PAGE_SIZE
    with pytest.raises(MemoryError, match=f"memory for {PAGE_SIZE} tokens"):
        pool.reserve(second, PAGE_SIZE + 1)
    pool.reserve(second, PAGE_SIZE)
    pages = [*pool.page_table[first, :2].tolist(), int(pool.page_table[second, 0])]
    assert sorted(pages) == [1, 2, 3]
    pool.free(first)
    assert pool.free_tokens == 2 * PAGE_SIZE
    third = pool.allocate()
    assert third == first
    assert all(not memory.recurrent[third].any() for memory in pool.layers if hasattr(memory, "recurrent"))


def test_a_sequence_cannot_be_longer_than_the_table() -> None:
    pool = StatePool(small_model().config, 1, 9 * PAGE_SIZE, torch.float32, "cpu")
    with pytest.raises(MemoryError, match="512 tokens"):
        pool.reserve(pool.allocate(), 513)


def test_memory_is_counted_over_real_tensors() -> None:
    model = small_model()
    stepped, usual = Stepped(model), HybridCache(model.config)
    ids = random_ids(model, 5)
    with torch.inference_mode():
        stepped.prefill(0, ids)
        model(ids[None], past_key_values=usual)
    assert stepped.pool.state_bytes(5) == usual.memory()
    sizes = [tensor.nbytes for memory in stepped.pool.layers for tensor in vars(memory).values()]
    assert stepped.pool.nbytes() == sum(sizes)
