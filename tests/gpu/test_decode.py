"""Test decoding on CUDA: CUDA graphs against the network, eager launches, and float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jet import HybridCache, JetNemotronForCausalLM, load_model
from jet.api import Request, SamplingParams
from jet.cache.state_pool import StatePool
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import engine_info
from jet.engine.model_runner import ModelRunner
from tests.engine.test_local_story import IdTokenizer, ids
from tests.networks import GOLDEN, GOLDEN_PROMPTS, golden_expectations

pytestmark = pytest.mark.gpu

CUDA = "cuda"
STORY_MODEL = Path(__file__).parents[2] / "assets" / "story-model"
GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=24, seed=0)
SAMPLED = SamplingParams(temperature=1.0, top_p=0.9, top_k=50, max_new_tokens=60, seed=7)


def load(source: Path, dtype: torch.dtype) -> JetNemotronForCausalLM:
    return JetNemotronForCausalLM.from_pretrained(source, dtype=dtype).to(CUDA).eval()


def serve(model: JetNemotronForCausalLM, stop: int | None = None) -> LocalEngine:
    stops = frozenset() if stop is None else frozenset({stop})
    tokenizer = IdTokenizer()
    tokenizer.stop_ids = stops
    runner = ModelRunner(model, stops, slots=4, tokens=4 * 2048)
    return LocalEngine(
        runner, tokenizer, engine_info("tiny", model, load_s=0.0), EngineOptions(max_running_requests=4)
    )


def prompt_of(tokens: Tensor) -> str:
    return " ".join(map(str, tokens.tolist()))


@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_float32_greedy_stories_are_golden(name: str) -> None:
    engine = serve(load(GOLDEN / name, torch.float32))
    expected = golden_expectations(name)
    for prompt in [i for n, i in GOLDEN_PROMPTS if n == name]:
        chunks = list(engine.submit(Request(prompt_of(expected[f"{prompt}.input_ids"]), GREEDY)))
        assert ids(chunks) == expected[f"{prompt}.greedy_ids"].tolist()
    engine.close()


def decode(runner: ModelRunner, prompt: list[int], sampling: SamplingParams) -> tuple[list[int], Tensor]:
    """Decode `max_new_tokens` tokens after a prompt; return them, and the logits of the last step."""
    sequence = runner.allocate(sampling)
    runner.prefill(sequence, prompt)
    tokens = [runner.decode_one(sequence) for _ in range(sampling.max_new_tokens)]
    torch.cuda.synchronize()
    logits = runner._decoder.step.logits.clone()  # type: ignore[attr-defined]
    runner.free(sequence)
    return tokens, logits


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_graphs_equal_eager_launches_bit_for_bit(
    dtype: torch.dtype, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = ModelRunner(load(GOLDEN / "tiny-2b", dtype), frozenset(), slots=2, tokens=2048)
    tokens, logits = decode(runner, [1, 2, 3], sampling)
    graphs = runner._decoder._graphs[1]  # type: ignore[attr-defined]

    class Eager:
        def replay(self) -> None:
            graphs._decode_and_sample(plan)

    from jet.engine.cuda_graphs import sampler_flags  # needs Triton

    plan = sampler_flags([runner.allocate(sampling)])
    monkeypatch.setitem(graphs._graphs, plan, Eager())
    again, eager = decode(runner, [1, 2, 3], sampling)
    assert again == tokens
    assert torch.equal(eager, logits)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_near_the_truth_as_the_plain_network(dtype: torch.dtype) -> None:
    """Compare errors against float64 over 512 tokens, which are fed to all networks."""
    plain, exact = load(STORY_MODEL, dtype), load(STORY_MODEL, torch.float64)
    runner = ModelRunner(load(STORY_MODEL, dtype), frozenset(), slots=1, tokens=1024)
    # So few tokens that no step is launched ahead of the news: the logits are those of the last one.
    sequence = runner.allocate(SamplingParams(seed=1, repetition_penalty=1.0, max_new_tokens=1))
    runner.prefill(sequence, [0])
    read, wrong = [0], torch.zeros(2, dtype=torch.float64, device=CUDA)
    caches = HybridCache(plain.config), HybridCache(exact.config)
    for _ in range(513):
        token = runner.decode_one(sequence)
        fed = torch.tensor([read[-1:]], device=CUDA)
        usual, truth = (
            network(fed, past_key_values=cache).logits[0, -1].double()
            for network, cache in zip((plain, exact), caches, strict=True)
        )
        ours = runner._decoder.step.logits[0].double()  # type: ignore[attr-defined]
        if len(read) > 1:  # the first ones come from the prompt
            wrong += torch.stack([(x - truth).square().sum() for x in (ours, usual)])
        read.append(token)
    error, allowed = wrong.sqrt().tolist()
    print(f"{dtype}: {error / allowed:.3f} of the plain network's error")
    assert error <= 1.2 * allowed


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantized_steps_are_the_forward_of_their_codes(scheme: str, rows: int) -> None:
    """Test graphs in float32; few rows multiply by quantized weights, many by dequantized ones."""
    model = load_model(STORY_MODEL, CUDA, torch.float32, quantize=scheme)
    sampling = replace(GREEDY, max_new_tokens=1)
    runner = ModelRunner(model, frozenset(), slots=rows, tokens=rows * 1024)
    prompts = [[7 * row + 3, 11, 200 + row] for row in range(rows)]
    sequences = [runner.allocate(sampling) for _ in prompts]
    for sequence, prompt in zip(sequences, prompts, strict=True):
        runner.prefill(sequence, prompt)
    for _ in range(4):
        runner.decode(sequences)
    torch.cuda.synchronize()
    for sequence, prompt in zip(sequences, prompts, strict=True):
        read = list(sequence.token_ids)
        story = model.generate(
            torch.tensor([prompt], device=CUDA),
            max_new_tokens=4,
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=None,
        )
        assert read[: len(prompt)] == prompt
        assert story[0].tolist()[: len(read)] == read
    for sequence in sequences:
        runner.free(sequence)


def test_the_same_seed_gives_the_same_story_in_any_company() -> None:
    # In half precision a near tie may fall otherwise: attention is shared out by the size of the batch.
    engine = serve(load(GOLDEN / "tiny-2b", torch.float32))
    requests = [
        Request(f"{n} 2 3", SamplingParams(seed=n, top_k=10 * (n % 2), max_new_tokens=40))
        for n in range(1, 7)
    ]
    alone = [ids(list(engine.submit(request))) for request in requests]
    together = [engine.submit(request) for request in requests]
    assert [ids(list(stream)) for stream in together] == alone
    assert len({tuple(story) for story in alone}) == len(alone)
    engine.close()


def test_alternatives_are_those_of_the_step() -> None:
    engine = serve(load(GOLDEN / "tiny-2b", torch.float32))
    chunks = list(engine.submit(Request("1 2 3", GREEDY, top_logprobs=4)))
    details = [detail for chunk in chunks for detail in chunk.logprobs]
    assert [detail.sampled.token_id for detail in details] == ids(chunks)
    assert all(detail.top_logprobs[0] == detail.sampled for detail in details)
    assert ids(list(engine.submit(Request("1 2 3", GREEDY)))) == ids(chunks)
    engine.close()


def test_dry_is_drawn_by_the_host_and_the_next_request_by_the_graph_again() -> None:
    engine = serve(load(GOLDEN / "tiny-2b", torch.float32))
    plain = ids(list(engine.submit(Request("1 2 3", GREEDY))))
    neutral = replace(GREEDY, presence_penalty=1e-9)  # too small to matter
    assert ids(list(engine.submit(Request("1 2 3", neutral)))) == plain
    assert ids(list(engine.submit(Request("1 2 3", replace(GREEDY, dry_multiplier=50.0))))) != plain or len(
        set(plain)
    ) == len(plain)
    assert ids(list(engine.submit(Request("1 2 3", GREEDY)))) == plain
    engine.close()


def test_a_token_that_ends_the_text_is_not_read_into_the_state() -> None:
    """Test that the step already launched writes to the null slot."""
    model = load(GOLDEN / "tiny-2b", torch.float32)
    engine = serve(model)
    story = ids(list(engine.submit(Request("1 2 3", SAMPLED))))
    engine.close()
    place = next(i for i in range(1, 20) if story[i] not in story[:i])
    runner = ModelRunner(model, frozenset({story[place]}), slots=2, tokens=2048)
    sequence = runner.allocate(SAMPLED)
    runner.prefill(sequence, [1, 2, 3])
    for _ in range(place):
        runner.decode_one(sequence)
    torch.cuda.synchronize()
    before = state_of(runner._pool, sequence.slot or 0)
    assert runner.decode_one(sequence) == story[place]
    torch.cuda.synchronize()
    assert all(
        torch.equal(a, b) for a, b in zip(before, state_of(runner._pool, sequence.slot or 0), strict=True)
    )


def state_of(pool: StatePool, slot: int) -> list[Tensor]:
    return [memory.recurrent[slot].clone() for memory in pool.layers if hasattr(memory, "recurrent")]


def test_a_network_that_gives_no_numbers_fails_its_request_and_the_next_one_works() -> None:
    model = load(GOLDEN / "tiny-4b", torch.float32)  # its head is not tied
    with torch.no_grad():
        model.model.embed_tokens.weight[13] = torch.nan
    engine = serve(model)
    bad, good = (list(engine.submit(Request(prompt, GREEDY)))[-1].stats for prompt in ("1 13", "1 2 3"))
    assert bad.error == "The network's output is not a number (NaN or infinite logits)."
    assert good.finish_reason == "length"
    engine.close()


def test_the_pool_is_what_the_allocator_says() -> None:
    model = load(GOLDEN / "tiny-2b", torch.bfloat16)
    torch.cuda.empty_cache()  # of which a tensor would have all where it leaves little
    before = torch.cuda.memory_allocated()
    pool = StatePool(model.config, 64, 64 * 4096, torch.bfloat16, CUDA)
    taken = torch.cuda.memory_allocated() - before
    assert taken == pytest.approx(pool.nbytes() + pool.page_table.nbytes, rel=0.02)
