"""Test rollback on CUDA: states bit for bit, graphs beside eager steps, batched beside alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from jet.api import SamplingParams
from jet.engine.cuda_graphs import CudaGraphDecoder
from jet.engine.engine import LocalEngine
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from tests.engine.test_banned_stories import finish, submit, tempting
from tests.engine.text.test_banned_phrases import begins

pytestmark = pytest.mark.gpu

SAMPLED = SamplingParams(max_new_tokens=40, seed=3)
SAMPLINGS = [
    SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=40, seed=0),
    SAMPLED,
    replace(SAMPLED, repetition_penalty=1.5, top_k=5),
    replace(SAMPLED, dry_multiplier=3.0, dry_allowed_length=1, xtc_probability=0.5),
]
PROMPTS = [
    "The old lighth",
    "The old lighthouse keeper opened the door and ",
    "She sat down by the oc",
    "The dragon was much smaller than Til",
    "On the third day the fog lifted",
    "No",
]


def start(runner: ModelRunner, sampling: SamplingParams, prompt: list[int]) -> Sequence:
    sequence = runner.allocate(sampling, 0, prompt, len(prompt) + 100)
    runner.guard(sequence)
    runner.set_min_tokens(sequence, 100)
    runner.restore_prefix(sequence, prompt)
    runner.prefill(sequence, prompt)
    return sequence


def state_of(runner: ModelRunner, sequence: Sequence) -> list[torch.Tensor]:
    """Return clones of a sequence's states up to its length, its token mask and its logits."""
    pool, slot, length = runner._pool, sequence.slot, sequence.num_computed_tokens
    assert slot is not None and sequence.logits is not None
    views = pool.state_views(slot)
    window = views[2].shape[-2]
    kept = [position % window for position in range(max(0, length - window), length)]
    pages = torch.cat([pool.page_view(page) for page in pool.pages(slot)], dim=-2)[..., :length, :]
    decoder = runner._decoder
    assert isinstance(decoder, CudaGraphDecoder)
    parts = [*views[:2], *(view[..., kept, :] for view in views[2:]), pages, decoder._token_mask[slot]]
    return [part.clone() for part in (*parts, sequence.logits)]


@pytest.mark.parametrize("sampling", SAMPLINGS[1:3])
@pytest.mark.parametrize("kept", [0, 1, 4, 13])
def test_the_state_after_a_rollback_is_that_of_the_same_tokens_bit_for_bit(
    engine: LocalEngine, sampling: SamplingParams, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute the tokens by graphs of one row both times; roll back while a step is in flight."""
    runner = engine._runner
    decoder = runner._decoder
    monkeypatch.setattr(decoder, "_fastest_graphs", lambda size, flags: decoder._graphs_of_size(size))
    sampling = replace(sampling, max_new_tokens=60)
    prompt = engine._tokenizer.encode(PROMPTS[1].strip(), 100).tolist()
    sequence = start(runner, sampling, prompt)
    tokens = []
    for number in range(kept + 6):
        tokens.append(runner.decode_one(sequence))
        runner.mark(sequence, len(prompt) + min(number + 1, kept))
    assert sequence.in_flight is not None
    assert runner.roll_back(sequence, len(prompt) + kept, kept, (tokens[kept],))
    fresh = start(runner, sampling, prompt)
    with torch.inference_mode():
        for token in tokens[:kept]:
            fresh.has_generated = True
            fresh.token_ids.append(token)
            assert runner._reserve_next(fresh) is None
            fresh.logits = runner._decoder.compute_logits(fresh)
            fresh.num_computed_tokens += 1
        runner._decoder.append_prompt(fresh, torch.tensor(tokens[:kept], device="cuda", dtype=torch.int64))
    for here, there in zip(state_of(runner, sequence), state_of(runner, fresh), strict=True):
        assert torch.equal(here, there)
    assert runner.decode_one(sequence) != tokens[kept]
    runner.free(sequence)
    runner.free(fresh)


def test_no_phrase_appears_and_together_is_as_alone_and_as_eager(
    engine: LocalEngine, eager: LocalEngine
) -> None:
    found = []
    for number, prompt in enumerate(PROMPTS):
        sampling = replace(SAMPLINGS[number % 4], seed=number)
        found.append((prompt, sampling, tempting(engine, prompt, sampling)))
    streams = [submit(engine, *one) for one in found]
    plain = [submit(engine, prompt, sampling) for prompt, sampling, _ in found[:2]]
    stories = [finish(stream) for stream in streams]
    neighbors = [finish(stream) for stream in plain]
    for one, story in zip(found, stories, strict=True):
        prompt, sampling, phrases = one
        assert begins(list(phrases), story[0], engine.normalize_prompt(prompt)) is None
        assert story == finish(submit(engine, *one)), "alone"
        assert story != finish(submit(engine, prompt, sampling)), "the phrases would have come"
        if sampling.temperature == 0:
            assert story == finish(submit(eager, *one))
    assert neighbors == [finish(submit(engine, prompt, sampling)) for prompt, sampling, _ in found[:2]]


@pytest.mark.parametrize(
    "sampling",
    [
        replace(SAMPLED, mirostat=2, mirostat_tau=4.0, mirostat_eta=0.3),
        replace(SAMPLED, adaptive_target=0.3, adaptive_decay=0.8),
        replace(SAMPLED, xtc_probability=0.5, xtc_threshold=0.05),
    ],
    ids=["mirostat", "adaptive-p", "XTC"],
)
def test_samplers_behind_the_filters_go_back_too(engine: LocalEngine, sampling: SamplingParams) -> None:
    """No phrase appears, the same story comes again, alone and together, and neighbors keep theirs."""
    plain = finish(submit(engine, PROMPTS[1], sampling))
    assert finish(submit(engine, PROMPTS[1], sampling, ("never to be seen",))) == plain
    phrases = tempting(engine, PROMPTS[1], sampling)
    changed = finish(submit(engine, PROMPTS[1], sampling, phrases))
    assert changed != plain
    assert begins(list(phrases), changed[0], engine.normalize_prompt(PROMPTS[1])) is None
    banned = [submit(engine, PROMPTS[1], sampling, phrases) for _ in range(2)]
    beside = submit(engine, PROMPTS[1], sampling)
    assert [finish(stream) for stream in banned] == [changed, changed] and finish(beside) == plain


def test_stories_without_banned_phrases_are_launched_ahead_as_before(engine: LocalEngine) -> None:
    """Count steps that are launched ahead, without banned phrases and with one that never appears."""
    runner, launched = engine._runner, 0
    decoder = runner._decoder
    launch = decoder.launch

    def counting(sequences: list[Sequence]) -> object:
        nonlocal launched
        launched += decoder.batch_is_on_device(sequences)
        return launch(sequences)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "launch", counting)
        for phrases in ((), ("xylophone",)):
            launched = 0
            finish(submit(engine, PROMPTS[1], SAMPLED, phrases))
            assert launched >= 30


def test_a_stopped_story_leaves_no_mark(engine: LocalEngine) -> None:
    runner = engine._runner
    for seed in range(4):
        sampling = replace(SAMPLED, seed=seed, max_new_tokens=200)
        phrases = tempting(engine, PROMPTS[1], replace(sampling, max_new_tokens=30))
        stream = submit(engine, PROMPTS[1], sampling, phrases, cache_salt="ann")
        for number, _ in enumerate(stream):
            if number == 12:
                stream.abort()
    assert not [salt for salt in runner._prefix_cache._by_salt if salt.startswith("\0")]
    assert runner.pages_in_use == 0
