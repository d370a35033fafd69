"""Test stories with token healing: the engine's guarantees hold for them as for all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from jet.api import Request, RequestError, RequestStats, SamplingParams, TokenChunk
from jet.cache.state_pool import PAGE_SIZE
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import engine_info
from jet.engine.model_runner import ModelRunner
from jet.engine.sampler import HostSampler
from jet.engine.stream import LocalStream
from jet.engine.text.tokenizer import StoryTokenizer
from jet.modeling import JetNemotronForCausalLM
from tests.engine.small_tokenizers import KINDS, as_transformers
from tests.networks import small_model

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=12, seed=0)
SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=12, seed=3)
CUTS = [
    "the sea and ",
    "the old ligh",
    "an old wom",
    "there liv",
    "the door\t",
    "Once upon a ti",
    "nobody asked. ",
    "a",
]


def make_model() -> JetNemotronForCausalLM:
    vocabulary = 1 + max(KINDS["byte_level"].get_vocab(with_added_tokens=True).values())
    return small_model(vocab_size=vocabulary, initializer_range=0.1).requires_grad_(False)


def make_engine(model: JetNemotronForCausalLM, writers: int = 8, kept: int = 60) -> LocalEngine:
    tokenizer = StoryTokenizer(as_transformers(KINDS["byte_level"]), 0, frozenset([0]))
    runner = ModelRunner(
        model, tokenizer.stop_ids, slots=writers, cache_slots=kept,
        tokens=30 * PAGE_SIZE, context=2 * PAGE_SIZE,
        dry_sequence_breakers=tokenizer.dry_sequence_breakers(),
    )  # fmt: skip
    info = replace(engine_info("tiny", model, load_s=0.0), context=2 * PAGE_SIZE)
    return LocalEngine(
        runner,
        tokenizer,
        info,
        EngineOptions(max_running_requests=writers, max_running_per_user=6, prefill_chunk_size=16),
    )


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return make_model()


@pytest.fixture(scope="module")
def engine(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    with closing(make_engine(model)) as engine:
        yield engine


@pytest.fixture(scope="module")
def fresh(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    """Yield an engine that writes one story at a time and caches nothing, for expected results."""
    with closing(make_engine(model, writers=1)) as engine:
        yield engine


def submit(
    engine: LocalEngine, prompt: str, sampling: SamplingParams = SAMPLED, user: str = "", **more: int
) -> LocalStream:
    return engine.submit(Request(prompt, sampling, cache_salt=user, healing=True, **more))


def finish(stream: LocalStream) -> tuple[str, tuple[int, ...], RequestStats, list[TokenChunk]]:
    chunks = list(stream)
    assert chunks[-1].stats.error is None
    ids = tuple(token for chunk in chunks for token in chunk.token_ids)
    return "".join(chunk.text for chunk in chunks), ids, chunks[-1].stats, chunks


def write(engine: LocalEngine, *request: object, **more: int) -> tuple[str, tuple[int, ...]]:
    return finish(submit(engine, *request, **more))[:2]


def taken(engine: LocalEngine, prompt: str) -> int:
    """Return how many tokens of the prompt healing removes and draws again."""
    healing = engine._tokenizer.encode_healed(prompt, 1000)[1]
    return 0 if healing is None else len(healing.tokens)


SAMPLINGS = [
    GREEDY,
    SAMPLED,
    replace(SAMPLED, repetition_penalty=1.5, top_k=5),
    replace(SAMPLED, dry_multiplier=3.0, dry_allowed_length=1, xtc_probability=0.5),
]


def test_healed_stories_written_together_are_those_written_alone(
    engine: LocalEngine, fresh: LocalEngine
) -> None:
    requests = [
        (prompt, replace(SAMPLINGS[number % 4], max_new_tokens=4 + number, seed=number))
        for number, prompt in enumerate(CUTS)
    ]
    streams = [submit(engine, *request) for request in requests]
    together = [finish(stream)[:2] for stream in streams]
    assert together == [write(fresh, *request) for request in requests]
    assert all(len(ids) == 4 + number for number, (_, ids) in enumerate(together))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_retry_reads_nothing_again_and_writes_what_a_fresh_engine_writes(
    engine: LocalEngine, fresh: LocalEngine, sampling: SamplingParams
) -> None:
    for prompt in CUTS[:4]:
        user = f"{prompt} {sampling}"
        for seed in (3, 4, 3):
            other = replace(sampling, seed=seed)
            text, ids, stats, _ = finish(submit(engine, prompt, other, user))
            assert (text, ids) == write(fresh, prompt, other)
            if seed != 3 or stats.cached_tokens:
                assert stats.prompt_tokens - stats.cached_tokens == taken(engine, prompt)
        assert stats.cached_tokens


def test_going_on_reads_at_most_the_healed_tokens_again(engine: LocalEngine, fresh: LocalEngine) -> None:
    user, text, left = "goes on", "the old ", [0]
    for turn in range(6):
        sampling = replace(SAMPLED, seed=turn, max_new_tokens=11)
        answer, _, stats, _ = finish(submit(engine, text, sampling, user))
        assert answer == write(fresh, text, sampling)[0]
        if own_tokens(engine, text) == left:  # otherwise its text has other tokens
            assert stats.prompt_tokens - stats.cached_tokens <= 8
        text += answer
        left = entry_tokens(engine, user)
    assert stats.cached_tokens


def own_tokens(engine: LocalEngine, text: str) -> list[int]:
    return engine._tokenizer.encode(text, 1000).tolist()[:-1]


def entry_tokens(engine: LocalEngine, user: str) -> list[int]:
    """Return the tokens of the user's longest cached entry."""
    return engine._runner._prefix_cache._by_salt[user][0].tokens.tolist()


def test_a_seed_gives_one_story_and_the_border_takes_no_number_from_it(fresh: LocalEngine) -> None:
    for prompt in CUTS:
        assert write(fresh, prompt) == write(fresh, prompt)
    # Where the bytes are drawn again as they were, what follows is what follows without healing.
    same = 0
    for seed in range(30):
        sampling = replace(SAMPLED, seed=seed, max_new_tokens=4)
        plain = "".join(chunk.text for chunk in fresh.submit(Request("the old", sampling)))
        same += write(fresh, "the old", sampling)[0] == plain
    assert same >= 5


def test_only_new_text_counts_and_each_token_once(fresh: LocalEngine) -> None:
    for prompt in CUTS:
        for seed in range(4):
            sampling = replace(SAMPLED, seed=seed, max_new_tokens=5)
            text, ids, stats, chunks = finish(submit(fresh, prompt, sampling, top_logprobs=3))
            details = [detail for chunk in chunks for detail in chunk.logprobs]
            assert len(ids) == len(details) == stats.tokens <= 5
            assert stats.finish_reason == "stop" or stats.tokens == 5
            assert "".join(detail.sampled.text for detail in details) == text or "\ufffd" in text
            # Where everything is drawn again, the token of an empty prompt is read before it.
            whole = len(fresh._tokenizer.encode(fresh.normalize_prompt(prompt), 1000))
            assert stats.prompt_tokens == whole + (prompt == "a")


def test_probabilities_are_those_before_the_mask(fresh: LocalEngine, model: JetNemotronForCausalLM) -> None:
    prompt = "the sea and "
    _, ids, _, chunks = finish(submit(fresh, prompt, replace(SAMPLED, seed=1), top_logprobs=4))
    first = next(detail for chunk in chunks for detail in chunk.logprobs)
    read, healing, _ = fresh._tokenizer.encode_healed(prompt, 1000)
    assert healing is not None and healing.root.left == b" "
    if ids[0] in healing.root.covers and ids[0] not in healing.root.exact:
        logits = model(input_ids=torch.from_numpy(read.astype(np.int64))[None]).logits[0, -1]
        logs = logits.double().log_softmax(-1)
        assert first.sampled.logprob == pytest.approx(float(logs[ids[0]]), abs=1e-4)
        for one in first.top_logprobs:
            assert one.logprob == pytest.approx(float(logs[one.token_id]), abs=1e-4)
            assert one.token_id in healing.root.covers and one.text
        assert [one.logprob for one in first.top_logprobs] == sorted(
            (one.logprob for one in first.top_logprobs), reverse=True
        )


def test_penalties_and_min_p_do_not_act_while_bytes_are_written_again(fresh: LocalEngine) -> None:
    """Draw with a min-p of 1, which would leave only one first word if it acted."""
    sampling = replace(SAMPLED, top_p=1.0, min_p=1.0, repetition_penalty=5.0, max_new_tokens=1)
    firsts = {write(fresh, "the sea and ", replace(sampling, seed=seed))[0] for seed in range(12)}
    assert len(firsts) > 1


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-9}])
def test_top_k_and_top_p_act_among_the_ways_to_write_the_bytes(
    fresh: LocalEngine, filters: dict[str, float]
) -> None:
    sampling = replace(SAMPLED, repetition_penalty=1.0, max_new_tokens=1, **filters)
    firsts = {write(fresh, "the sea and ", replace(sampling, seed=seed))[0] for seed in range(6)}
    assert firsts == {write(fresh, "the sea and ", replace(GREEDY, max_new_tokens=1))[0]}


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_story_that_has_to_be_read_again_goes_on_as_it_would_have(
    model: JetNemotronForCausalLM, fresh: LocalEngine, sampling: SamplingParams, fails: int
) -> None:
    engine = make_engine(model, writers=4)
    runner = engine._runner
    decode, calls = runner.decode, 0

    def failing(handles: list[object]) -> object:
        nonlocal calls
        if len(handles) > 1:
            calls += 1
            if calls == fails:
                decode(handles)
                raise RuntimeError("a kernel has failed")
        return decode(handles)

    runner.decode = failing  # type: ignore[method-assign]
    try:
        requests = [(prompt, replace(sampling, seed=number)) for number, prompt in enumerate(CUTS[:4])]
        streams = [submit(engine, *request) for request in requests]
        assert [finish(stream)[:2] for stream in streams] == [write(fresh, *request) for request in requests]
    finally:
        engine.close()


def test_an_aborted_story_leaves_nothing_behind(model: JetNemotronForCausalLM) -> None:
    engine = make_engine(model, writers=2)
    for prompt in CUTS * 3:
        stream = submit(engine, prompt, replace(SAMPLED, max_new_tokens=300), "ann")
        for number, _ in enumerate(stream):
            if number == 3:
                stream.abort()
    text, ids, _, _ = finish(submit(engine, CUTS[0], SAMPLED, "ann"))
    engine_fresh = make_engine(model, writers=1)
    assert (text, ids) == write(engine_fresh, CUTS[0], SAMPLED)
    assert engine._runner.pages_in_use == 0
    engine.close()
    engine_fresh.close()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("healing", [False, True])
def test_no_story_ends_before_so_many_tokens(
    fresh: LocalEngine, sampling: SamplingParams, healing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test with a network that would always end at once, with and without healing."""
    penalize = HostSampler._penalize

    def ending(chooser: HostSampler, logits: torch.Tensor, step: int) -> torch.Tensor:
        found = penalize(chooser, logits, step).clone()
        found[:, chooser._special_tokens.stop_ids] += 50
        return found

    monkeypatch.setattr(HostSampler, "_penalize", ending)
    for tokens in (0, 1, 7, 9, 20):
        request = Request(
            "the old w", replace(sampling, max_new_tokens=9), 2, healing=healing, min_tokens=tokens
        )
        _, ids, stats, chunks = finish(fresh.submit(request))
        drawn_at_border = healing and stats.tokens > min(tokens, 9)
        assert len(ids) == min(tokens, 9) + drawn_at_border
        assert stats.finish_reason == ("length" if tokens >= 9 else "stop")
        # What is told of the tokens does not know of it.
        told = [detail for chunk in chunks for detail in chunk.logprobs][drawn_at_border:]
        assert all(detail.top_logprobs[0].token_id == 0 for detail in told[int(healing) :])


def test_what_healing_must_be_is_said() -> None:
    with pytest.raises(RequestError, match="healing must be true or false"):
        Request("a", healing="yes")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="min_tokens"):
        Request("a", min_tokens=-1)
