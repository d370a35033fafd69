"""Test the network on CUDA against golden expectations, the CPU in the same dtype, and other paths."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM
from jet.ops import gated_delta_rule
from tests.networks import GOLDEN_NAMES, GOLDEN_PROMPTS, golden_expectations, golden_model, small_model
from tests.ops.test_gated_delta_rule import inputs

pytestmark = pytest.mark.gpu

CUDA = "cuda"
STORY_MODEL = Path(__file__).parents[2] / "assets" / "story-model"
ATTENTIONS = ["eager", "sdpa"] + ["flash_attention_2"] * (importlib.util.find_spec("flash_attn") is not None)
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("fla") is None, reason="needs flash-linear-attention"
)


def on_cuda(name: str, dtype: torch.dtype, attention: str = "sdpa") -> JetNemotronForCausalLM:
    model = JetNemotronForCausalLM.from_pretrained(
        golden_model(name).config.name_or_path, dtype=dtype, attn_implementation=attention
    )
    return model.to(CUDA).eval()


def error(model: torch.nn.Module, name: str) -> float:
    """Return the relative distance from the golden logits, over all prompts of a checkpoint together."""
    expected = golden_expectations(name)
    wrong = right = 0.0
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        with torch.no_grad():
            logits = model(expected[f"{prompt}.input_ids"][None].to(model.device)).logits[0].double().cpu()
        truth = expected[f"{prompt}.logits"].double()
        wrong, right = wrong + (logits - truth).square().sum().item(), right + truth.square().sum().item()
    return (wrong / right) ** 0.5


@pytest.mark.parametrize("attention", ATTENTIONS[:2])
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_float32_reaches_the_golden_logits(name: str, attention: str) -> None:
    model = on_cuda(name, torch.float32, attention)
    expected = golden_expectations(name)
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        with torch.no_grad():
            logits = model(expected[f"{prompt}.input_ids"][None].to(CUDA)).logits[0].cpu()
        truth = expected[f"{prompt}.logits"]
        assert (logits - truth).norm() / truth.norm() < 1e-3


@pytest.mark.parametrize(("name", "prompt"), GOLDEN_PROMPTS)
def test_float32_greedy_ids_are_golden(name: str, prompt: int) -> None:
    expected = golden_expectations(name)
    ids = expected[f"{prompt}.input_ids"][None].to(CUDA)
    out = on_cuda(name, torch.float32).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert out[0, ids.shape[1] :].tolist() == expected[f"{prompt}.greedy_ids"].tolist()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_half_precision_is_as_good_as_on_the_cpu(name: str, dtype: torch.dtype, attention: str) -> None:
    ours, plain = error(on_cuda(name, dtype, attention), name), error(golden_model(name, dtype), name)
    print(f"{name} {dtype} {attention}: {ours:.4f} on CUDA, {plain:.4f} on the CPU")
    assert ours <= 1.3 * plain


@needs_library
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("keys", "values"), [(96, 256), (128, 256), (64, 128), (12, 32)])
def test_library_kernels_agree_with_the_recurrence(dtype: torch.dtype, keys: int, values: int) -> None:
    """Compare 8,192 tokens through the chunk kernels with the recurrence token by token in float64."""
    given = inputs((1, 8192, 2, keys, values))
    given[3] = given[3] * 0.05
    half = [x.to(CUDA, dtype) for x in given[:3]]
    rest = [x.to(CUDA) for x in given[3:]]
    truth, truth_state = gated_delta_rule.naive_recurrent_gated_delta_rule(*(x.double() for x in half), *rest)
    out, state = gated_delta_rule.fla_gated_delta_rule(*half, *(x.float() for x in rest))
    assert out.dtype == dtype
    assert state.dtype == torch.float32
    limit = 8e-3 if dtype == torch.bfloat16 else 2e-3
    assert (out.double() - truth).norm() / truth.norm() < limit
    assert (state.double() - truth_state).norm() / truth_state.norm() < limit


@needs_library
@pytest.mark.parametrize("length", [63, 300])
def test_library_gradients_agree_with_torch(length: int) -> None:
    given = [x.to(CUDA) for x in inputs((2, length, 2, 64, 128))]
    given[3] = given[3] * 0.2
    # A sum of random multiples. The square of the state, say, has a gradient nearly along the keys, of which
    # their normalization leaves a tenth, and all of the rounding errors.
    chance = torch.Generator().manual_seed(length)
    weights, state_weights = (
        torch.randn(x.shape, generator=chance, dtype=torch.float64).to(CUDA) for x in (given[2], given[5])
    )

    def gradients(rule: object, dtype: torch.dtype) -> list[Tensor]:
        leaves = [
            x.to(dtype if i < 3 else torch.promote_types(dtype, torch.float32)) for i, x in enumerate(given)
        ]
        leaves = [x.detach().requires_grad_() for x in leaves]
        out, state = rule(*leaves)
        ((out.double() * weights).sum() + (state.double() * state_weights).sum()).backward()
        return [leaf.grad.double() for leaf in leaves]

    truth = gradients(gated_delta_rule.naive_recurrent_gated_delta_rule, torch.float64)
    ours = gradients(gated_delta_rule.fla_gated_delta_rule, torch.bfloat16)
    for name, one, other in zip(("q", "k", "v", "g", "beta", "state"), ours, truth, strict=True):
        assert _distance(one, other) < 1e-2, f"gradient of {name}"


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prefill_of_8192_tokens_agrees_with_the_recurrence(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare prefill in chunks and prefill token by token, each with float64.

    In half precision the library's kernels also round the interactions within a chunk. These errors are
    independent of those that both ways share, so their squares add up. The kernels' own errors are measured
    on the inputs that each layer gave them. The error in chunks may be at most 1.3 times the combined error.
    """
    model = small_model(initializer_range=0.05, max_position_embeddings=16384).to(CUDA, dtype)
    ids = torch.randint(1, 61, (1, 8192), generator=torch.Generator().manual_seed(0)).to(CUDA)
    given: list[tuple[Tensor | None, ...]] = []

    def noting(*arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        given.append(arguments)
        return gated_delta_rule.gated_delta_rule(*arguments)

    monkeypatch.setattr("jet.modeling.jet_block.gated_delta_rule", noting)
    chunked = _logits_and_states(model, ids)
    monkeypatch.setattr(
        "jet.modeling.jet_block.gated_delta_rule", gated_delta_rule.naive_recurrent_gated_delta_rule
    )
    recurrent = _logits_and_states(model, ids)
    own = _errors_of_the_rule(given)
    truth = _logits_and_states(model.double(), ids)
    # Each layer hands its outputs' errors on, to the states of later ones and to the logits.
    outs = [out for out, _ in own]
    extras = [math.hypot(*outs)] + [math.hypot(state, *outs[:i]) for i, (_, state) in enumerate(own)]
    for ours, plain, exact, extra in zip(chunked, recurrent, truth, extras, strict=True):
        error, usual = _distance(ours, exact), _distance(plain, exact)
        print(f"{dtype}: {error:.2e} in chunks, {usual:.2e} token by token, {extra:.2e} by the kernels")
        assert error < 1.3 * math.hypot(usual, extra) + 1e-5


def _errors_of_the_rule(given: list[tuple[Tensor | None, ...]]) -> list[tuple[float, float]]:
    """Return the relative errors of outputs and last state, for each call of the rule in `given`."""
    errors = []
    for arguments in given:
        exact = gated_delta_rule.naive_recurrent_gated_delta_rule(
            *(None if x is None else x.double() for x in arguments)
        )
        ours = gated_delta_rule.gated_delta_rule(*arguments)
        errors.append((_distance(ours[0], exact[0]), _distance(ours[1], exact[1])))
    return errors


def _distance(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def _logits_and_states(model: JetNemotronForCausalLM, ids: Tensor) -> list[Tensor]:
    out = model(ids)
    layers = out.past_key_values.layers
    return [out.logits] + [layer.recurrent_state for layer in layers if hasattr(layer, "recurrent_state")]


@torch.no_grad()
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("sizes", [(1,), (3, 64, 2), (150,)], ids=str)
def test_pieces_and_padding_change_nothing_but_rounding(attention: str, sizes: tuple[int, ...]) -> None:
    """Compare a left-padded batch, read in chunks, with each of its rows read alone as a whole.

    flash_attention_2 works only in half precision, and the golden checkpoints' random weights amplify its
    rounding. It is therefore tested on the story model.
    """
    half = attention == "flash_attention_2"
    if half:
        model = JetNemotronForCausalLM.from_pretrained(
            STORY_MODEL, dtype=torch.bfloat16, attn_implementation=attention
        ).to(CUDA)
        rows = [_story_ids()[0, :length] for length in (1, 3, 40, 97, 150)]
    else:
        model = on_cuda("tiny-2b", torch.float32, attention)
        rows = [golden_expectations("tiny-2b")[f"{i}.input_ids"].to(CUDA) for i in range(5)]
    ids = torch.full((5, 150), 7, device=CUDA)
    mask = torch.zeros(5, 150, dtype=torch.long, device=CUDA)
    for index, row in enumerate(rows):
        ids[index, 150 - len(row) :], mask[index, 150 - len(row) :] = row, 1
    cache, logits, start, turn = HybridCache(model.config), [], 0, 0
    while start < 150:
        end = min(start + sizes[turn % len(sizes)], 150)
        logits.append(model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache).logits)
        start, turn = end, turn + 1
    together = torch.cat(logits, dim=1)
    for index, row in enumerate(rows):
        alone = model(row[None]).logits[0].float()
        distance = (together[index, -len(row) :].float() - alone).norm() / alone.norm()
        assert distance < (3e-2 if half else 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("attention", ATTENTIONS[1:])
def test_attention_implementations_agree_on_the_story_model(attention: str) -> None:
    if not STORY_MODEL.is_dir():
        pytest.skip("no story model")
    ids = _story_ids()
    eager, other = (
        JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.bfloat16, attn_implementation=name)
        .to(CUDA)(ids)
        .logits.float()
        for name in ("eager", attention)
    )
    assert (eager - other).norm() / eager.norm() < 2e-2


@torch.no_grad()
def test_bfloat16_names_the_same_next_token_on_the_story_model() -> None:
    """Test that the top token in bfloat16 on CUDA is that of float64 at 97 % of the positions."""
    if not STORY_MODEL.is_dir():
        pytest.skip("no story model")
    ids = _story_ids()
    truth = JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.float64).to(CUDA)(ids).logits
    for dtype in (torch.bfloat16, torch.float16):
        half = JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=dtype).to(CUDA)(ids).logits
        share = (half.argmax(-1) == truth.argmax(-1)).float().mean().item()
        print(f"{dtype}: {share:.4f} of {ids.shape[1]} positions")
        assert share >= 0.97


@cache
def _story_ids() -> Tensor:
    """Return a story that the model generates, about as long as its training context."""
    model = JetNemotronForCausalLM.from_pretrained(STORY_MODEL, dtype=torch.float32).to(CUDA)
    torch.manual_seed(0)
    start = torch.tensor([[model.config.bos_token_id]], device=CUDA)
    return model.generate(start, max_new_tokens=800, do_sample=True, eos_token_id=None, top_p=0.95)
