"""Test the graph decoder's bookkeeping without a GPU: graphs are plain calls, kernels are interpreted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from jet import JetNemotronForCausalLM
from jet.api import SamplingParams
from jet.engine import cuda_graphs
from jet.engine.cuda_graphs import CudaGraphDecoder
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from jet.ops.backends import reference_backend
from tests.networks import GOLDEN, golden_expectations, golden_model

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=8, seed=0)
SAMPLED = SamplingParams(temperature=1.0, top_p=0.9, top_k=20, max_new_tokens=8, seed=5)


class Called:
    """A stand-in for a captured graph; `replay` calls the captured function again."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.replay = run


class Arrived:
    def record(self) -> None: ...
    def synchronize(self) -> None: ...


def capture(self: cuda_graphs.StepGraphs, run: Callable[[], None]) -> Called:
    with cuda_graphs.dummy_batch(self.rows):
        run()
    return Called(run)


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: tests/gpu runs the real thing")
    monkeypatch.setattr(cuda_graphs, "triton_backend", lambda *given: reference_backend())
    monkeypatch.setattr(cuda_graphs.StepGraphs, "_capture", capture)
    monkeypatch.setattr(cuda_graphs, "seconds_of", lambda graph: 0.0)
    monkeypatch.setattr(torch.cuda, "Event", Arrived)
    monkeypatch.setattr(cuda_graphs, "CAPTURED_SAMPLERS", ())
    yield


def runner_on(model: JetNemotronForCausalLM, stop: int | None = None) -> ModelRunner:
    stops: frozenset[int] = frozenset() if stop is None else frozenset({stop})
    runner = ModelRunner(model, stops, slots=5, tokens=2048)
    with torch.inference_mode():
        decoder = CudaGraphDecoder(model, runner._pool, stops, frozenset(), 5)
    runner._decoder = runner._decode_loop._decoder = runner._rollback._decoder = decoder
    return runner


@pytest.fixture
def runner() -> ModelRunner:
    return runner_on(golden_model("tiny-2b"))


def begin(runner: ModelRunner, sampling: SamplingParams, *prompt: int, alternatives: int = 0) -> Sequence:
    sequence = runner.allocate(sampling, alternatives)
    runner.prefill(sequence, list(prompt))
    return sequence


def write(runner: ModelRunner, sampling: SamplingParams, *prompt: int) -> list[int]:
    sequence = begin(runner, sampling, *prompt)
    tokens = [runner.decode_one(sequence) for _ in range(sampling.max_new_tokens)]
    runner.free(sequence)
    return tokens


def test_greedy_tokens_are_golden(runner: ModelRunner) -> None:
    expected = golden_expectations("tiny-2b")
    for prompt in (0, 2):
        ids = expected[f"{prompt}.input_ids"].tolist()
        assert write(runner, GREEDY, *ids) == expected[f"{prompt}.greedy_ids"].tolist()[:8]


def test_the_next_step_is_under_way_before_its_token_is_asked_for(runner: ModelRunner) -> None:
    sequence = begin(runner, GREEDY, 1, 2, 3)
    runner.decode_one(sequence)
    assert sequence.in_flight is not None and sequence.num_computed_tokens == 4
    for _ in range(7):
        runner.decode_one(sequence)
    assert sequence.in_flight is None and sequence.num_computed_tokens == 10, (
        "nothing is launched beyond what was asked for"
    )


def test_rows_of_a_batch_write_what_each_writes_alone(runner: ModelRunner) -> None:
    """Start and end requests at different times, so that graphs of several sizes run with padding rows."""
    samplings = [
        GREEDY,
        SAMPLED,
        replace(SAMPLED, seed=6, repetition_penalty=1.3, max_new_tokens=5),
        replace(SAMPLED, seed=7, dry_multiplier=5.0, dry_allowed_length=1, max_new_tokens=3),
        replace(SAMPLED, seed=8, min_p=0.2, top_p=1.0, max_new_tokens=4),
    ]
    prompts = [(1, 2, 3), (4, 5), (9,), (1, 2, 1, 2, 1), (7, 7, 7)]
    alone = [write(runner, sampling, *prompt) for sampling, prompt in zip(samplings, prompts, strict=True)]
    together: list[list[int]] = [[] for _ in prompts]
    waiting, writing = list(range(5)), dict[int, Sequence]()
    while waiting or writing:
        if waiting:
            number = waiting.pop(0)
            writing[number] = begin(runner, samplings[number], *prompts[number])
        tokens = runner.decode(list(writing.values()))
        for (number, sequence), token in zip(list(writing.items()), tokens, strict=True):
            assert isinstance(token, int)
            together[number].append(token)
            if len(together[number]) == samplings[number].max_new_tokens:
                runner.free(writing.pop(number))
                del sequence
    assert together == alone
    decoder = runner._decoder
    assert isinstance(decoder, CudaGraphDecoder)
    assert set(decoder._graphs) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("sampling", [GREEDY, replace(SAMPLED, repetition_penalty=1.5, top_k=0)])
def test_tokens_that_are_taken_back_come_again_and_none_is_computed_twice(
    runner: ModelRunner, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that a rollback uses the step's logits from before the sampler applied penalties to them."""
    expected = write(runner, sampling, 1, 2, 3)

    def refuse(sequence: Sequence) -> torch.Tensor:
        raise AssertionError("a token is computed again")

    monkeypatch.setattr(runner._decoder, "compute_logits", refuse)
    sequence = runner.allocate(sampling)
    runner.guard(sequence)
    runner.prefill(sequence, [1, 2, 3])

    def draw(count: int, kept: int) -> list[int]:
        drawn = []
        for _ in range(count):
            drawn.append(runner.decode_one(sequence))
            runner.mark(sequence, min(len(sequence.token_ids), 3 + kept))
        return drawn

    assert draw(5, kept=4) == expected[:5]
    assert sequence.in_flight is not None
    raw = runner._model(torch.tensor([list(sequence.token_ids)])).logits[0, -1]
    assert (runner._decoder.last_logits(sequence) - raw).abs().max() < 1e-4, "without penalties"
    assert runner.roll_back(sequence, 7, 4, ())
    assert draw(2, kept=5) == expected[4:6]
    assert runner.roll_back(sequence, 8, 5, (expected[5],))
    assert draw(1, kept=6) != expected[5:6]
    assert draw(2, kept=8)


def test_a_batch_that_stays_the_same_runs_ahead(runner: ModelRunner) -> None:
    sequences = [begin(runner, GREEDY, n + 1) for n in range(3)]
    for _ in range(3):
        runner.decode(sequences)
    assert [sequence.num_computed_tokens for sequence in sequences] == [1 + 3] * 3
    assert all(sequence.in_flight is not None for sequence in sequences)


def test_a_row_without_numbers_leaves_the_others_theirs() -> None:
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / "tiny-4b").eval()
    with torch.no_grad():
        model.model.embed_tokens.weight[13] = torch.nan
    runner = runner_on(model)
    expected = write(runner, GREEDY, 1, 2, 3)
    good, bad = begin(runner, GREEDY, 1, 2, 3), begin(runner, GREEDY, 1, 2, 4)
    tokens = [runner.decode_one(good), *[runner.decode_one(good) for _ in range(2)]]
    runner.decode_one(bad)
    bad.token_ids[-1] = 13  # is read next
    bad.in_flight = None
    bad.num_computed_tokens -= 1
    runner._decoder._batch = []  # type: ignore[attr-defined]
    for _ in range(3):
        token, error = runner.decode([good, bad])
        tokens.append(token)
        assert isinstance(error, FloatingPointError)
    assert tokens == expected[: len(tokens)]


def test_graphs_are_close_together_where_batches_are_small() -> None:
    assert [cuda_graphs.padded_size(rows) for rows in (1, 2, 3, 4, 5, 7, 9, 127, 128, 257)] == [
        1, 2, 3, 4, 5, 8, 12, 128, 128, 320,
    ]  # fmt: skip


@pytest.mark.parametrize("stays", [True, False])
def test_a_state_that_ran_ahead_is_kept_as_what_it_is(runner: ModelRunner, stays: bool) -> None:
    """Check that the snapshot of a stopped story includes the last token, which a step in flight has read."""
    whole = begin(runner, replace(GREEDY, max_new_tokens=20), 1, 2, 3)
    whole.cache_salt = "ann"
    tokens = [runner.decode_one(whole) for _ in range(6)]
    assert whole.in_flight is not None
    runner.free(whole, keep_snapshot=stays)
    assert runner.num_cached == (2 if stays else 0)
    prompt = [1, 2, 3, *tokens, 9]
    again = runner.allocate(GREEDY, prompt=prompt, cache_salt="ann")
    read = runner.restore_prefix(again, prompt)
    assert read == (len(prompt) - 1 if stays else 0)
    runner.prefill(again, prompt[read:])
    assert [runner.decode_one(again) for _ in range(8)] == write(runner, GREEDY, *prompt)


@pytest.mark.parametrize("user", ["ann", ""])
@pytest.mark.parametrize("steps", range(2, 8))
def test_a_story_stopped_where_a_state_is_due_gives_its_place_back(
    runner: ModelRunner, steps: int, user: str
) -> None:
    """End stories while their last step is in flight, and check that their slots are free.

    Without cache salt, no snapshot is kept.
    """
    runner._decode_loop._snapshot_interval, places = 4, len(runner._pool._free_slots)
    sequence = begin(runner, GREEDY, 1, 2, 3)
    sequence.cache_salt = user
    for _ in range(steps):
        runner.decode_one(sequence)
    assert sequence.in_flight is not None
    runner.free(sequence)
    kept = [len(state.tokens) for state in runner._prefix_cache._device_lru]
    assert len(runner._pool._free_slots) == places - len(kept)
    assert max(kept, default=0) == (3 + steps if user else 0)


def test_requests_by_turns_write_what_each_writes_alone(runner: ModelRunner) -> None:
    prompts = [(1, 2, 3), (4, 5), (9,)]
    settings = [SAMPLED, GREEDY, replace(SAMPLED, seed=6, repetition_penalty=1.3)]
    alone = [write(runner, sampling, *prompt) for sampling, prompt in zip(settings, prompts, strict=True)]
    sequences = [begin(runner, sampling, *prompt) for sampling, prompt in zip(settings, prompts, strict=True)]
    together: list[list[int]] = [[], [], []]
    for turn in (0, 1, 1, 2, 0, 0, 1, 2, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2):
        together[turn].append(runner.decode_one(sequences[turn]))
    assert together == alone


def test_a_token_that_ends_the_text_is_not_read_into_the_state() -> None:
    model = golden_model("tiny-2b")
    story = write(runner_on(model), SAMPLED, 1, 2, 3)
    place = next(i for i in range(1, 8) if story[i] not in story[:i])
    runner = runner_on(model, stop=story[place])
    sequence = begin(runner, SAMPLED, 1, 2, 3)
    for _ in range(place):
        runner.decode_one(sequence)
    states = [m.recurrent[sequence.slot].clone() for m in runner._pool.layers if hasattr(m, "recurrent")]
    assert runner.decode_one(sequence) == story[place]
    after = [m.recurrent[sequence.slot] for m in runner._pool.layers if hasattr(m, "recurrent")]
    assert all(torch.equal(*pair) for pair in zip(states, after, strict=True))


def test_alternatives_are_of_the_token_they_come_with(runner: ModelRunner) -> None:
    sequence = begin(runner, GREEDY, 1, 2, 3, alternatives=3)
    for _ in range(5):
        token = runner.decode_one(sequence)
        found = runner.logprobs(sequence)
        assert found is not None
        likeliest, second, _ = found.top_logprobs
        assert found.sampled == likeliest and likeliest.token_id == token
        assert likeliest.logprob > second.logprob


def test_what_the_kernels_cannot_do_is_drawn_by_the_host(runner: ModelRunner) -> None:
    plain = write(runner, GREEDY, 1, 2, 3)
    assert write(runner, replace(GREEDY, presence_penalty=1e-12), 1, 2, 3) == plain
    host = ModelRunner(golden_model("tiny-2b"), frozenset())
    dry = replace(SAMPLED, dry_multiplier=5.0, dry_allowed_length=1, xtc_probability=0.5)
    assert write(runner, dry, 1, 2, 1, 2, 1) == write(host, dry, 1, 2, 1, 2, 1)
    assert write(runner, GREEDY, 1, 2, 3) == plain


def test_logits_that_are_no_numbers_fail_their_request_and_no_other() -> None:
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / "tiny-4b").eval()  # its head is not tied
    with torch.no_grad():
        model.model.embed_tokens.weight[13] = torch.nan
    runner = runner_on(model)
    good = write(runner, GREEDY, 1, 2, 3)
    with pytest.raises(FloatingPointError, match="not a number"):
        write(runner, GREEDY, 1, 13)
    assert write(runner, GREEDY, 1, 2, 3) == good


def test_the_penalty_starts_anew_with_every_request(runner: ModelRunner) -> None:
    penalized = replace(GREEDY, repetition_penalty=5.0)
    first = write(runner, penalized, 1, 2, 3)
    assert len(set(first)) == len(first)
    assert all(write(runner, penalized, 1, 2, 3) == first for _ in range(3))  # in every slot


@pytest.fixture
def preparing(monkeypatch: pytest.MonkeyPatch) -> tuple[ModelRunner, list[tuple[int, str]]]:
    """Return a runner that captures as on a GPU, and a list of its captures: (rows, "logits" or "tokens")."""
    monkeypatch.setattr(cuda_graphs, "GRAPH_SIZES", (1, 2, 4, 8))
    captured: list[tuple[int, str]] = []

    def note(self: cuda_graphs.StepGraphs, run: Callable[[], None]) -> Called:
        captured.append((len(self.rows.token), "logits" if run == self.step.run else "tokens"))
        return capture(self, run)

    monkeypatch.setattr(cuda_graphs.StepGraphs, "_capture", note)
    monkeypatch.setattr(cuda_graphs, "CAPTURED_SAMPLERS", (cuda_graphs.DEFAULT_SAMPLER, None))
    return runner_on(golden_model("tiny-2b")), captured


def test_one_row_and_all_rows_are_there_from_the_start(
    preparing: tuple[ModelRunner, list[tuple[int, str]]],
) -> None:
    runner, captured = preparing
    assert captured == [(8, "tokens"), (1, "tokens")] * 2, "the largest first"
    sequences = [begin(runner, GREEDY, n + 1) for n in range(3)]
    for _ in range(3):
        runner.decode(sequences)
    assert len(captured) == 4, "three rows take the graphs of eight: no capture is needed"


def test_the_rest_is_prepared_piece_by_piece_and_then_used(
    preparing: tuple[ModelRunner, list[tuple[int, str]]],
) -> None:
    runner, captured = preparing
    samplings = [GREEDY, replace(SAMPLED, top_k=0), replace(SAMPLED, top_k=0, seed=6)]
    parts = len(runner.decode_step.ops)
    alone = [write(runner, replace(one, max_new_tokens=3), 1, 2, 3) for one in samplings]
    pieces, together = 0, []
    while runner.capture_next():
        pieces += 1
        if pieces in (2, 10 + parts, 8 + 2 * parts):  # somebody comes in the midst of it
            sequences = [begin(runner, replace(one, max_new_tokens=3), 1, 2, 3) for one in samplings]
            written = [runner.decode(sequences) for _ in range(3)]
            together.append([list(story) for story in zip(*written, strict=True)])
            for sequence in sequences:
                runner.free(sequence)
    assert pieces == 4 * 3 + 2 * parts + 3, (
        "each part of the sizes between, three graphs of all sizes, and barred ends"
    )
    assert together == [alone] * 3
    kinds = {(rows, kind) for rows in (1, 2, 4, 8) for kind in ("tokens", "logits")}
    assert set(captured) == kinds and len(captured) == 4 * 3 + 2
    sequences = [begin(runner, GREEDY, n + 1) for n in range(3)]
    runner.decode(sequences)
    runner.decode(sequences)
    decoder = runner._decoder
    assert isinstance(decoder, CudaGraphDecoder) and decoder._batch_graphs is decoder._graphs[4]
    assert not runner.capture_next() and len(captured) == 14


@pytest.mark.parametrize(
    ("took", "used"),
    [
        ({1: 1.2, 2: 1.6, 4: 2.5, 8: 2.0}, {1: 1, 2: 2, 3: 8, 4: 8, 5: 8}),  # as measured on one H200
        pytest.param(
            {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, {1: 1, 2: 2, 3: 4, 4: 4, 5: 8}, marks=pytest.mark.thorough
        ),
        ({1: 3.0, 2: 2.0, 4: 1.0, 8: 4.0}, {1: 4, 2: 4, 3: 4, 4: 4, 5: 8}),
        pytest.param(
            {1: 4.0, 2: 3.0, 4: 2.0, 8: 1.0}, {1: 8, 2: 8, 3: 8, 4: 8, 5: 8}, marks=pytest.mark.thorough
        ),
        pytest.param(
            {1: 1.0, 2: 4.0, 4: 3.0, 8: 9.0}, {1: 1, 2: 4, 3: 4, 4: 4, 5: 8}, marks=pytest.mark.thorough
        ),
    ],
)
def test_a_batch_never_takes_longer_than_a_larger_one(
    took: dict[int, float], used: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that graphs are timed when captured, and that a batch uses the fastest of sufficient size."""
    monkeypatch.setattr(cuda_graphs, "GRAPH_SIZES", (1, 2, 4, 8))
    monkeypatch.setattr(cuda_graphs, "CAPTURED_SAMPLERS", (cuda_graphs.DEFAULT_SAMPLER, None))
    monkeypatch.setattr(cuda_graphs, "seconds_of", lambda graph: took[graph.rows])

    def noting(self: cuda_graphs.StepGraphs, run: Callable[[], None]) -> Called:
        called = capture(self, run)
        called.rows = len(self.rows.token)  # type: ignore[attr-defined]
        return called

    monkeypatch.setattr(cuda_graphs.StepGraphs, "_capture", noting)
    runner = runner_on(golden_model("tiny-2b"))
    alone = write(runner, GREEDY, 1, 2, 3)
    while runner.capture_next():
        pass
    decoder = runner._decoder
    assert isinstance(decoder, CudaGraphDecoder)
    for count, size in used.items():
        sequences = [begin(runner, GREEDY, 1, 2, 3) for _ in range(count)]
        written = [runner.decode(sequences) for _ in range(4)]
        assert decoder._batch_graphs is decoder._graphs[size], f"{count} rows"
        assert [list(story) for story in zip(*written, strict=True)] == [alone[:4]] * count
        for sequence in sequences:
            runner.free(sequence)
    times = [took[size] for size in used.values()]
    assert times == sorted(times)


def test_what_cannot_be_captured_is_done_by_larger_graphs(
    preparing: tuple[ModelRunner, list[tuple[int, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, _ = preparing
    alone = write(runner, GREEDY, 1, 2, 3)

    def full(self: cuda_graphs.StepGraphs, run: Callable[[], None]) -> Called:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(cuda_graphs.StepGraphs, "_capture", full)
    with pytest.raises(torch.OutOfMemoryError):
        while runner.capture_next():
            pass
    assert not runner.capture_next()
    sequences = [begin(runner, GREEDY, 1, 2, 3) for _ in range(2)]
    written = [runner.decode(sequences) for _ in range(8)]
    assert [list(story) for story in zip(*written, strict=True)] == [alone] * 2


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        ([GREEDY], None),
        ([GREEDY, replace(GREEDY, top_k=5)], None),
        ([replace(GREEDY, repetition_penalty=1.1)], cuda_graphs.DEFAULT_SAMPLER),
        ([GREEDY, replace(SAMPLED, top_k=0)], cuda_graphs.DEFAULT_SAMPLER),
        ([replace(SAMPLED, top_k=0, top_p=1.0, repetition_penalty=1.0)], cuda_graphs.DEFAULT_SAMPLER),
        ([GREEDY, SAMPLED], cuda_graphs.SamplerFlags()),
    ],
)
def test_a_batch_is_of_the_smallest_kind_that_does_what_it_asks(
    given: list[SamplingParams], plan: cuda_graphs.SamplerFlags | None
) -> None:
    assert cuda_graphs.sampler_flags([Sequence(sampling, 0) for sampling in given]) == plan
