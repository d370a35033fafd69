"""Test rollback of sequences: it leaves bit for bit what decoding the remaining tokens leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jet.api import SamplingParams
from jet.engine import kept_logits
from jet.engine.model_runner import ModelRunner
from jet.engine.rollback import MAX_MARKS
from jet.engine.sequence import Sequence
from jet.modeling import JetNemotronForCausalLM
from tests.engine.ahead import decoding_ahead
from tests.networks import small_model

PROMPT = [5, 9, 2, 7, 7, 3, 11, 30, 4]
SAMPLED = SamplingParams(temperature=1.0, max_new_tokens=200, seed=3)
SAMPLINGS = [
    replace(SAMPLED, temperature=0, repetition_penalty=1.0),
    SAMPLED,
    replace(SAMPLED, repetition_penalty=1.5, top_k=5),
    replace(SAMPLED, dry_multiplier=3.0, dry_allowed_length=1, xtc_probability=0.5),
]


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return small_model(num_hidden_layers=4).requires_grad_(False)


def make_runner(model: JetNemotronForCausalLM, **changes: int) -> ModelRunner:
    given = {"slots": 4, "cache_slots": 8, "tokens": 4096, "context": 512} | changes
    return ModelRunner(model, frozenset([0]), dry_sequence_breakers=frozenset([2]), **given)


def start(
    runner: ModelRunner, sampling: SamplingParams, prompt: list[int] = PROMPT, salt: str = ""
) -> Sequence:
    sequence = runner.allocate(sampling, 0, prompt, 500, salt)
    runner.guard(sequence)
    runner.set_min_tokens(sequence, 100)
    read = runner.restore_prefix(sequence, prompt)
    if read < len(prompt):
        runner.prefill(sequence, prompt[read:])
    return sequence


def draw(runner: ModelRunner, sequence: Sequence, count: int, waits: bool = False) -> list[int]:
    """Draw `count` tokens, all of which may be taken back; return them.

    With `waits`, no step is launched before its last token is known.
    """
    keep = len(sequence.token_ids)
    drawn = []
    for _ in range(count):
        drawn.append(runner.decode_one(sequence))
        runner.mark(sequence, keep, waits)
    return drawn


def everything(runner: ModelRunner, sequence: Sequence) -> tuple[list[Tensor], list[object]]:
    """Return all tensors and values on which a later token depends."""
    pool, slot, length = runner._pool, sequence.slot, sequence.num_computed_tokens
    assert slot is not None
    tensors = [view.clone() for view in pool.state_views(slot)[:2]]
    for position in range(max(0, length - 7), length):  # the windows are rings of 7 tokens
        tensors += [view[..., position % 7, :].clone() for view in pool.state_views(slot)[2:]]
    pages = [pool.page_view(page) for page in pool.pages(slot)]
    tensors += [torch.cat(list(pages), dim=-2)[..., :length, :].clone()]
    sampler = runner._decoder._samplers[sequence]  # type: ignore[attr-defined]
    if sampler.token_mask is not None:
        tensors.append(sampler.token_mask.clone())
    if sequence.logits is not None:
        tensors.append(sequence.logits.clone())
    plain = [list(sequence.token_ids), length, sequence.num_generated, sampler._history, sequence.healed_path]
    return tensors, plain


def assert_equal(one: tuple[list[Tensor], list[object]], other: tuple[list[Tensor], list[object]]) -> None:
    assert one[1] == other[1]
    assert len(one[0]) == len(other[0])
    for number, (here, there) in enumerate(zip(one[0], other[0], strict=True)):
        assert torch.equal(here, there), number


def decoded(runner: ModelRunner, sequence: Sequence, tokens: list[int]) -> None:
    """Compute given tokens one by one, as if they had been drawn; the sequence then has the last logits."""
    with torch.inference_mode():
        for token in tokens:
            drawn(runner, sequence, token)
            assert runner._reserve_next(sequence) is None
            sequence.logits = runner._decoder.compute_logits(sequence)
            sequence.num_computed_tokens += 1


@torch.inference_mode()
def drawn(runner: ModelRunner, sequence: Sequence, token: int) -> None:
    """Record a token as drawn, in the sequence and in its sampler."""
    sampler = runner._decoder._samplers[sequence]  # type: ignore[attr-defined]
    sequence.has_generated = True
    sequence.token_ids.append(token)
    sequence.num_generated += 1
    if sampler.token_mask is not None:
        sampler.token_mask[0, token] = True
    if sequence.sampling.dry_multiplier:
        sampler._history.append(token)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kept", [0, 1, 5, 13])
@pytest.mark.parametrize("ahead", [False, True], ids=["step by step", "steps ahead"])
def test_the_state_after_a_rollback_is_that_of_the_same_tokens_bit_for_bit(
    model: JetNemotronForCausalLM, sampling: SamplingParams, kept: int, ahead: bool
) -> None:
    with decoding_ahead(ahead):
        runner = make_runner(model)
    plain = start(runner, sampling)
    tokens = draw(runner, plain, kept)
    sequence = start(runner, sampling)
    assert draw(runner, sequence, kept) == tokens
    if kept:
        runner.mark(sequence, len(sequence.token_ids))  # all of that stays
    lost = draw(runner, sequence, 6)
    assert runner.roll_back(sequence, len(PROMPT) + kept, kept, (lost[0],))
    fresh = start(runner, sampling)
    decoded(runner, fresh, tokens)
    assert_equal(everything(runner, sequence), everything(runner, fresh))
    assert sequence.barred_now == (lost[0],)
    others = draw(runner, sequence, 9)
    assert others[0] != lost[0]
    if ahead:  # a further token has been computed, and its own place drawn
        assert runner.roll_back(sequence, len(PROMPT) + kept, kept, (lost[0],))
        assert draw(runner, sequence, 9, waits=True) == others
    assert sequence.in_flight is None
    again = start(runner, sampling)
    decoded(runner, again, [*tokens, *others[:-1]])
    drawn(runner, again, others[-1])
    again.logits = None
    assert_equal(everything(runner, sequence), everything(runner, again))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {},
        {"dry_multiplier": 3.0, "dry_allowed_length": 1, "xtc_probability": 0.5},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.5},
        {"adaptive_target": 0.2},
        {"top_n_sigma": 1.0, "dynatemp_range": 0.5},
    ],
)
@pytest.mark.parametrize("ahead", [False, True])
def test_without_a_barred_token_the_same_tokens_come_again(
    model: JetNemotronForCausalLM, settings: dict[str, float], ahead: bool
) -> None:
    """Test samplers with a memory of any kind; random numbers repeat, too."""
    with decoding_ahead(ahead):
        runner = make_runner(model)
    sampling = replace(SAMPLED, **settings)
    for kept in (0, 1, 5):
        sequence = start(runner, sampling)
        draw(runner, sequence, kept)
        lost = draw(runner, sequence, 6)
        for _ in range(2):
            assert runner.roll_back(sequence, len(PROMPT) + kept, kept, ())
            assert draw(runner, sequence, 6) == lost
        runner.free(sequence)
    assert runner.pages_in_use == 0


@pytest.mark.parametrize("ahead", [False, True], ids=["step by step", "steps ahead"])
def test_no_token_is_computed_again_and_no_mark_stays_without_need(
    model: JetNemotronForCausalLM, ahead: bool
) -> None:
    """Roll back to just behind a final token; check that nothing is recomputed and few marks remain."""
    with decoding_ahead(ahead):
        runner = make_runner(model)
    sequence, calls = start(runner, SAMPLED), 0
    compute = runner._decoder.compute_logits

    def counting(one: Sequence) -> Tensor:
        nonlocal calls
        calls += 1
        return compute(one)

    runner._decoder.compute_logits = counting  # type: ignore[method-assign]
    for taken in (1, 2, 3, 1):
        for _ in range(7):
            runner.decode_one(sequence)
            runner.mark(sequence, len(sequence.token_ids))
        assert len(sequence.marks) <= ahead, "nothing can be taken back"
        length = len(sequence.token_ids)
        lost = draw(runner, sequence, taken)
        assert len(sequence.marks) <= MAX_MARKS
        assert runner.roll_back(sequence, length, length - len(PROMPT), (lost[0],))
    assert not calls


def test_a_token_that_may_complete_a_phrase_is_waited_for(model: JetNemotronForCausalLM) -> None:
    """Check that no step is launched behind a token that may complete a phrase.

    The drawn tokens stay the same. A batch of several requests does not wait.
    """
    with decoding_ahead():
        runner = make_runner(model)
    sequences = [start(runner, SAMPLED) for _ in range(3)]
    expected = draw(runner, sequences[0], 12)
    assert sequences[0].in_flight is not None
    assert draw(runner, sequences[1], 12, waits=True) == expected
    assert sequences[1].in_flight is None
    draw(runner, sequences[1], 1)
    assert runner.decode_one(sequences[1]) is not None
    assert sequences[1].in_flight is not None, "and goes on ahead"
    for _ in range(3):
        runner.decode(sequences)
        for sequence in sequences:
            runner.mark(sequence, len(sequence.token_ids), True)
    assert all(sequence.in_flight is not None for sequence in sequences)


def test_a_large_batch_has_a_mark_every_few_tokens(
    model: JetNemotronForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_logits, "MARKED_ROWS", 0)
    with decoding_ahead():
        runner = make_runner(model)
    sequence = start(runner, SAMPLED)
    draw(runner, sequence, 12)
    lengths = [len(mark.tokens) for mark in sequence.marks]
    assert lengths == [len(PROMPT), len(PROMPT) + 8, len(PROMPT) + 12]
    lost = sequence.token_ids[len(PROMPT) + 6]
    assert runner.roll_back(sequence, len(PROMPT) + 6, 6, (lost,))
    assert runner.decode_one(sequence) != lost
