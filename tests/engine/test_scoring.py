"""Test requests of evaluations and other programs: prompt log-probabilities, biases, prompts of ids."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from jet.api import BusyError, Request, RequestError, SamplingParams, TokenChunk
from jet.bench.networks import IdTokenizer
from jet.cache.state_pool import PAGE_SIZE
from jet.engine import scoring
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import engine_info
from jet.engine.model_runner import ModelRunner
from jet.engine.stream import merge
from jet.modeling import JetNemotronForCausalLM
from tests.networks import golden_model

PLAIN = SamplingParams(temperature=0, top_p=1, min_p=0, repetition_penalty=1.0, max_new_tokens=4, seed=0)
PENALIZED = replace(PLAIN, repetition_penalty=3.0)
PROMPT = (5, 9, 9, 200, 17, 3, 44, 9, 120, 7, 8, 6, 31, 90, 9, 2, 77, 41, 5)


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return golden_model("tiny-2b")


def engine_on(model: JetNemotronForCausalLM, **options: int) -> LocalEngine:
    runner = ModelRunner(
        model, frozenset({0}), slots=4, cache_slots=8, tokens=20 * PAGE_SIZE, context=2 * PAGE_SIZE
    )
    info = replace(engine_info("tiny", model, load_s=0.0), context=2 * PAGE_SIZE)
    return LocalEngine(runner, IdTokenizer(), info, EngineOptions(**{"prefill_chunk_size": 7, **options}))


@pytest.fixture(scope="module")
def engine(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    engine = engine_on(model)
    yield engine
    engine.close()


def run(engine: LocalEngine, request: Request) -> TokenChunk:
    """Run a request; return its whole stream as one chunk."""
    whole = merge(list(engine.submit(request)))
    assert whole.stats.error is None
    return whole


@torch.inference_mode()
def reference(model: JetNemotronForCausalLM, ids: tuple[int, ...]) -> torch.Tensor:
    """Return the log-probabilities `[T, V]` of the token after each of `ids`, by one plain forward."""
    logits = model(input_ids=torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits.float(), -1)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_log_probabilities_of_a_prompt_are_those_of_one_plain_forward(
    engine: LocalEngine, model: JetNemotronForCausalLM, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(scoring, "SLICE", rows)
    found = run(engine, Request("", PLAIN, prompt_ids=PROMPT, prompt_logprobs=3)).prompt_logprobs
    wanted = reference(model, PROMPT)
    assert [detail.sampled.token_id for detail in found] == list(PROMPT[1:])
    for place, detail in enumerate(found):
        assert detail.sampled.logprob == pytest.approx(float(wanted[place, PROMPT[place + 1]]), abs=1e-4)
        top = wanted[place].topk(3)
        assert [one.token_id for one in detail.top_logprobs] == top.indices.tolist()
        assert [one.logprob for one in detail.top_logprobs] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_a_scored_prompt_writes_on_like_any_other(engine: LocalEngine) -> None:
    request = Request("", PLAIN, prompt_ids=PROMPT, top_logprobs=2)
    scored, plain = run(engine, replace(request, prompt_logprobs=0)), run(engine, request)
    assert scored.token_ids == plain.token_ids and not plain.prompt_logprobs
    assert [one.top_logprobs for one in scored.prompt_logprobs] == [()] * (len(PROMPT) - 1)
    for one, other in zip(scored.logprobs, plain.logprobs, strict=True):
        assert one.sampled.logprob == pytest.approx(other.sampled.logprob, abs=1e-4)


def test_a_scored_prompt_takes_nothing_from_memory_and_leaves_nothing_there(engine: LocalEngine) -> None:
    ids = tuple(range(30, 50))
    run(engine, Request("", PLAIN, prompt_ids=ids, cache_salt="ann"))
    scored = run(engine, Request("", PLAIN, prompt_ids=(*ids, 3), cache_salt="ann", prompt_logprobs=0))
    assert scored.stats.cached_tokens == 0 and len(scored.prompt_logprobs) == len(ids)
    again = run(engine, Request("", PLAIN, prompt_ids=(*ids, 3), cache_salt="ann"))
    assert again.stats.cached_tokens == len(ids), "what was not scored is still there"
    ids = tuple(range(60, 80))
    run(engine, Request("", PLAIN, prompt_ids=ids, cache_salt="ann", prompt_logprobs=0))
    assert run(engine, Request("", PLAIN, prompt_ids=ids, cache_salt="ann")).stats.cached_tokens == 0


def test_ids_are_read_as_they_are(engine: LocalEngine) -> None:
    by_text = run(engine, Request(" ".join(map(str, PROMPT)), PLAIN))
    by_ids = run(engine, Request("this is not read", PLAIN, prompt_ids=PROMPT))
    assert by_ids.token_ids == by_text.token_ids and by_ids.stats.prompt_tokens == len(PROMPT)


def test_a_bias_of_what_is_no_token_is_refused(engine: LocalEngine) -> None:
    with pytest.raises(RequestError, match="from 0 to"):
        engine.submit(Request("", PLAIN, prompt_ids=PROMPT, logit_bias=((10**6, 1.0),)))


@pytest.mark.parametrize("ids", [(-1,), (5, 10**6), (7,) * (2 * PAGE_SIZE)])
def test_ids_that_are_no_tokens_or_too_many_are_refused(engine: LocalEngine, ids: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"from 0 to|too long"):
        engine.submit(Request("", PLAIN, prompt_ids=ids))


def test_a_bias_forbids_forces_and_shifts(engine: LocalEngine, model: JetNemotronForCausalLM) -> None:
    request = Request("", PLAIN, prompt_ids=PROMPT, top_logprobs=1)
    first, *_ = run(engine, request).token_ids
    without = run(engine, replace(request, logit_bias=((first, -100.0),)))
    assert first not in without.token_ids
    assert run(engine, replace(request, logit_bias=((123, 100.0),))).token_ids == (123,) * 4
    shifted = run(engine, replace(request, logit_bias=((first, -1.0), (123, 1.0))))
    logits = reference(model, PROMPT)[-1].clone()
    logits[first] -= 1
    logits[123] += 1
    assert shifted.logprobs[0].sampled.token_id == int(logits.argmax())
    wanted = torch.log_softmax(logits, -1)[logits.argmax()]
    assert shifted.logprobs[0].sampled.logprob == pytest.approx(float(wanted), abs=1e-4)


def test_raw_log_probabilities_know_of_no_bias_and_no_penalty(
    engine: LocalEngine, model: JetNemotronForCausalLM
) -> None:
    request = Request("", PENALIZED, prompt_ids=PROMPT, top_logprobs=2, logit_bias=((9, 4.0), (5, -2.0)))
    raw, other = run(engine, replace(request, raw_logprobs=True)), run(engine, request)
    assert raw.token_ids == other.token_ids, "what is told changes nothing of what is drawn"
    assert [one.sampled.logprob for one in raw.logprobs] != [one.sampled.logprob for one in other.logprobs]
    for number, detail in enumerate(raw.logprobs):
        wanted = reference(model, (*PROMPT, *raw.token_ids[:number]))[-1]
        assert detail.sampled.logprob == pytest.approx(float(wanted[detail.sampled.token_id]), abs=1e-4)
        assert [one.token_id for one in detail.top_logprobs] == wanted.topk(2).indices.tolist()


def test_scored_and_biased_requests_among_others_change_nothing_for_them(engine: LocalEngine) -> None:
    plain = Request("", replace(PLAIN, max_new_tokens=12), prompt_ids=PROMPT)
    mixed = [
        plain,
        replace(plain, prompt_logprobs=1),
        replace(plain, logit_bias=((9, 5.0),), raw_logprobs=True, top_logprobs=1),
    ]
    alone = [run(engine, request).token_ids for request in mixed]
    together: dict[int, tuple[int, ...]] = {}

    def work(number: int) -> None:
        together[number] = run(engine, mixed[number % 3]).token_ids

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(6)] == alone * 2


def test_fairness_can_be_counted_by_another_name_than_the_cache(model: JetNemotronForCausalLM) -> None:
    engine = engine_on(model, max_running_requests=2, max_running_per_user=1, max_waiting=0)
    long = replace(PLAIN, max_new_tokens=100)
    try:
        streams = [
            engine.submit(Request("", long, prompt_ids=PROMPT, cache_salt="ann", user_id="")) for _ in "ab"
        ]
        with pytest.raises(BusyError):
            engine.submit(Request("", long, prompt_ids=PROMPT, cache_salt="ann", user_id=""))
        for stream in streams:
            stream.abort()
            list(stream)
        stream = engine.submit(Request("", long, prompt_ids=PROMPT, cache_salt="ann"))
        with pytest.raises(BusyError):
            engine.submit(Request("", long, prompt_ids=PROMPT, cache_salt="ann"))
        stream.abort()
    finally:
        engine.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_logprobs": 21},
        {"prompt_logprobs": -1},
        {"logit_bias": ((3, 101.0),)},
        {"logit_bias": ((-3, 1.0),)},
        {"logit_bias": ((3, float("nan")),)},
        {"healing": True, "prompt_ids": (3,)},
        {"healing": True, "prompt_logprobs": 0},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        Request("a", **wrong)
