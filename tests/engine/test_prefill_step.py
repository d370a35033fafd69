"""Compare chunked prefill with few operations with the golden logits and the network's forward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.prefill_step import PrefillStep, jet_sizes
from jet.modeling.quantization import quantize_network
from jet.ops.chunk_meta import Segment, make_chunk_meta, place_segments
from jet.ops.prefill_backends import PrefillBackend, reference_prefill_backend, triton_prefill_backend
from tests.networks import GOLDEN_PROMPTS, golden_expectations, golden_model, random_ids, small_model

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["torch", pytest.param("triton", marks=pytest.mark.thorough)]


class Reader:
    """Reads chunks into a slot of a pool; pool and buffers were filled with NaN before."""

    def __init__(self, model: JetNemotronForCausalLM, tokens: int, backend: str = "torch") -> None:
        self.model = model
        self.pool = StatePool(model.config, 3, 8 * PAGE_SIZE, model.dtype, DEVICE)
        for memory in self.pool.layers:
            for tensor in vars(memory).values():
                tensor[:-1] = torch.nan
        self.chunk = PrefillStep(model, self.pool, self._backend(backend, tokens), tokens)
        for name in ("_x", "_normed", "_wide", "_narrow", "_lane", "logits"):
            if hasattr(self.chunk, name):
                getattr(self.chunk, name).fill_(torch.nan)
        self.other = self.pool.allocate()
        self.slot = self.pool.allocate()
        self.length = 0

    def _backend(self, name: str, tokens: int) -> PrefillBackend:
        if name == "torch":
            return reference_prefill_backend()
        pytest.importorskip("triton")
        return triton_prefill_backend(
            tokens, jet_sizes(self.model.config), self.model.dtype, self.model.device
        )

    def read(self, ids: Tensor, size: int | None = None) -> Tensor:
        """Read one more chunk, padded to `size` tokens; return the logits `[V]` of its last token."""
        count = len(ids)
        self.pool.reserve(self.slot, self.length + count, self.length)
        self.chunk.ids[:count] = ids
        segments = [Segment(self.slot, self.length, count, 0)]
        self.chunk.chunk_meta.copy_(make_chunk_meta(segments, self.chunk.tokens, DEVICE))
        self.chunk.run(size or self.chunk.tokens)
        self.length += count
        return self.chunk.logits[0].clone()


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
@pytest.mark.parametrize("sizes", [(256,), (1, 2, 30), (64, 7)], ids=str)
@torch.inference_mode()
def test_chunks_of_any_size_give_golden_logits_and_states(
    name: str, prompt: int, sizes: tuple[int, ...]
) -> None:
    expected = golden_expectations(name)
    model = copy.deepcopy(golden_model(name)).to(DEVICE)
    ids = expected[f"{prompt}.input_ids"].to(DEVICE)
    reader, turn = Reader(model, 256), 0
    while reader.length < len(ids):
        chunk = ids[reader.length : reader.length + sizes[turn % len(sizes)]]
        logits = reader.read(chunk, size=max(len(chunk), (37, 256)[turn % 2]))
        wanted = expected[f"{prompt}.logits"][reader.length - 1]
        torch.testing.assert_close(logits.cpu(), wanted, atol=4e-4, rtol=1e-4)
        turn += 1
    for index, memory in enumerate(reader.pool.layers):
        if f"{prompt}.recurrent_state.{index}" in expected:
            for kind, state in (("recurrent", memory.recurrent), ("conv", memory.conv)):
                wanted = expected[f"{prompt}.{kind}_state.{index}"]
                torch.testing.assert_close(state[reader.slot].cpu(), wanted, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layers", ["jsja", "ssaa"])
@torch.inference_mode()
def test_chunks_equal_the_forward(layers: str, backend: str) -> None:
    """Compare past the convolution's start, the window, a delta-rule block and, on fast backends, a page."""
    slow = backend == "triton"
    if slow and DEVICE == "cuda":
        pytest.skip("a GPU multiplies float32 in ten bits; tests/gpu reads in half precision")
    names = {"j": "jet", "s": "swa", "a": "attn"}
    model = small_model(layer_types=[names[letter] for letter in layers]).to(DEVICE)
    reference, cache = copy.deepcopy(model).double(), HybridCache(model.config)
    reader = Reader(model, 128, backend)
    ids = random_ids(model, 500).to(DEVICE)
    for count in (2, 1, 70) if slow else (2, 1, 9, 70, 128, 65, 64, 100):
        chunk = ids[reader.length : reader.length + count]
        wanted = reference(chunk[None], past_key_values=cache).logits[0, -1]
        torch.testing.assert_close(reader.read(chunk).double(), wanted, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_packed_sequences_equal_each_alone(backend: str) -> None:
    """Pack two sequences that go on and a new one, in an order that is not that of their slots."""
    if backend == "triton" and DEVICE == "cuda":
        pytest.skip("a GPU multiplies float32 in ten bits; tests/gpu packs in half precision")
    model = small_model(num_hidden_layers=3, layer_types=["jet", "swa", "attn"]).to(DEVICE)
    reference = copy.deepcopy(model).double()
    reader = Reader(model, 256, backend)
    slots = [reader.slot, reader.other, reader.pool.allocate()]
    texts = [random_ids(model, length, seed=length).to(DEVICE) for length in (70, 63, 33)]
    lengths, wanted = [5, 0, 30], [reference(text[None]).logits[0, -1] for text in texts]
    for slot, text, length in zip(slots, texts, lengths, strict=True):
        reader.slot, reader.length = slot, 0
        if length:
            reader.read(text[:length], size=64)
    sizes = [len(text) - length for text, length in zip(texts, lengths, strict=True)]
    segments = place_segments(list(zip(slots, lengths, sizes, strict=True)))
    for segment, text in zip(segments, texts, strict=True):
        reader.pool.reserve(segment.slot, len(text), segment.start)
        reader.chunk.ids[segment.offset : segment.offset + segment.size] = text[segment.start :]
    reader.chunk.chunk_meta.copy_(make_chunk_meta(segments, reader.chunk.tokens, DEVICE))
    reader.chunk.run(reader.chunk.tokens)
    for row, logits in enumerate(wanted):
        torch.testing.assert_close(reader.chunk.logits[row].double(), logits, atol=3e-4, rtol=3e-4)


def test_more_than_a_chunk_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        make_chunk_meta(place_segments([(0, 0, 60), (1, 0, 10)]), 70, "cpu")
    with pytest.raises(ValueError, match="do not fit"):
        make_chunk_meta(place_segments([(slot, 0, 1) for slot in range(17)]), 4096, "cpu")


@torch.inference_mode()
def test_somebody_else_s_memory_stays_as_it_is() -> None:
    model = small_model().to(DEVICE)
    reader = Reader(model, 64)
    reader.read(random_ids(model, 64).to(DEVICE))
    for memory in reader.pool.layers:
        for name in ("recurrent", "conv", "keys", "values"):
            if hasattr(memory, name):
                state = getattr(memory, name)[reader.other]
                untouched = state.isnan() if name in ("keys", "values") else state == 0
                assert untouched.all()


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@torch.inference_mode()
def test_quantized_weights_read_as_the_forward_does(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jet.engine.prefill_step.MAX_DEQUANTIZED", 1000)  # a part after the other
    monkeypatch.setattr("jet.ops.activations.compiled_linear", lambda x: None)  # forward dequantizes, too
    model = quantize_network(small_model().to(DEVICE), scheme)
    cache = HybridCache(model.config)
    reader = Reader(model, 64)
    for chunk in random_ids(model, 90).to(DEVICE).split(40):
        wanted = model(chunk[None], past_key_values=cache).logits[0, -1]
        torch.testing.assert_close(reader.read(chunk), wanted, atol=3e-4, rtol=3e-4)
