"""Test that a fault ends its own request with a message, and that the engine goes on."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from jet.api import RequestError
from jet.cache.state_pool import PAGE_SIZE
from jet.engine.engine import LocalEngine
from jet.engine.model_runner import ModelRunner
from jet.engine.sequence import Sequence
from jet.engine.stream import LocalStream
from jet.modeling import JetNemotronForCausalLM
from tests.engine.fakes import FakeRunner, ask, make_engine, text_of
from tests.engine.test_together import GREEDY, SAMPLED, STORY, engine_on, finish, submit, write
from tests.networks import golden_model

POISON = 509  # a token of the request that is to fail
# Long enough to be written at the same time.
LONG = [replace(sampling, max_new_tokens=60) for sampling in (GREEDY, SAMPLED)]
GOOD = [([3, 4, 5], LONG[0]), (STORY, LONG[1]), ([7] * 40, LONG[0])]
BAD = [*STORY[:20], POISON]


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return golden_model("tiny-2b")


@pytest.fixture(scope="module")
def alone(model: JetNemotronForCausalLM) -> list[list[int]]:
    """Return the tokens of the good requests, written without faults."""
    engine = engine_on(model)
    written = [write(engine, *request)[0] for request in GOOD]
    engine.close()
    return written


@pytest.fixture
def engine(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    engine = engine_on(model)
    yield engine
    assert engine.alive, "the engine goes on"
    assert finish(submit(engine, [1, 2], GREEDY))[1].error is None
    runner = runner_of(engine)
    wait_for(lambda: engine.info().active_requests == 0)
    engine.close()
    assert runner.closed_clean


def runner_of(engine: LocalEngine) -> ModelRunner:
    """Return the engine's runner.

    When the runner is closed, it sets `closed_clean`: whether all pages and slots were free.
    """
    runner = engine._runner
    assert isinstance(runner, ModelRunner)
    if not hasattr(runner, "closed_clean"):
        close = runner.close

        def check_and_close() -> None:
            while runner._prefix_cache.evict():
                pass
            ledger = runner._pool.allocator
            runner.closed_clean = (  # type: ignore[attr-defined]
                ledger.free == ledger._count
                and ledger.reserved_pages == 0
                and len(runner._pool._free_slots) == runner._pool.null_slot
            )
            close()

        runner.close = check_and_close  # type: ignore[method-assign]
    return runner


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def poisoned(sequence: Sequence) -> bool:
    return POISON in sequence.token_ids


@contextmanager
def failing(engine: LocalEngine, name: str, error: Exception, after: int = 0) -> Iterator[None]:
    """Make a method of the decoder fail inside the block whenever the poisoned request takes part.

    Args:
        engine: engine whose decoder is changed.
        name: name of the decoder's method.
        error: exception to raise after the method has done its work.
        after: number of tokens that the poisoned request has drawn before the first failure.
    """
    decoder = runner_of(engine)._decoder
    real = getattr(decoder, name)

    def fail(sequences: Sequence | list[Sequence], *given: object) -> object:
        listed = [sequences] if isinstance(sequences, Sequence) else sequences
        result = real(sequences, *given)  # the states are then no longer what they were
        if any(poisoned(one) and one.num_generated >= after for one in listed):
            raise error
        return result

    setattr(decoder, name, fail)
    try:
        yield
    finally:
        setattr(decoder, name, real)


def check(
    engine: LocalEngine,
    alone: list[list[int]],
    error: str,
    tokens: int | None = None,
    submitted: Callable[[], object] = lambda: None,
) -> None:
    """Run the bad request among the good ones; check its error and the others' tokens.

    Args:
        engine: engine to run them on.
        alone: expected tokens of the good requests.
        error: text that the bad request's error must contain.
        tokens: expected number of tokens of the bad request; None accepts any.
        submitted: called once all requests are submitted.
    """
    streams = [submit(engine, *request, user="good") for request in GOOD[:2]]
    bad = submit(engine, BAD, SAMPLED, "bad")
    streams.append(submit(engine, *GOOD[2], user="good"))
    submitted()
    ended = [finish(stream) for stream in streams]
    assert [stats.error for _, stats in ended] == [None] * 3
    assert [tokens for tokens, _ in ended] == alone
    written, last = finish(bad)
    assert (last.finish_reason, last.phase) == ("error", "done")
    assert last.error is not None and error in last.error
    assert tokens is None or len(written) == tokens, "what was written before stays"


def prefill_first(engine: LocalEngine) -> None:
    """Prefill all waiting requests before the next decode step, however slow the machine is."""
    engine._prefill_policy.may_prefill = lambda now, others_decode: True  # type: ignore[method-assign]


@pytest.mark.parametrize("after", [1, 5])
def test_a_kernel_that_fails_in_a_step_of_many(
    engine: LocalEngine, alone: list[list[int]], after: int
) -> None:
    """Check that the other rows, whose states are unknown, are recomputed and write the same tokens."""
    prefill_first(engine)
    decoder = runner_of(engine)._decoder
    launch, sizes, together = decoder.launch, [], threading.Event()

    def launch_together(sequences: list[Sequence]) -> object:
        together.wait(10)  # on a busy machine the first could be at its end before the last is in line
        sizes.append(len(sequences))
        return launch(sequences)

    decoder.launch = launch_together  # type: ignore[method-assign, assignment]
    with failing(engine, "launch", RuntimeError("CUDA error: misaligned address"), after):
        # One came when it read again.
        check(engine, alone, "misaligned address", tokens=after + 1, submitted=together.set)
    assert max(sizes) > 1


def test_a_kernel_that_fails_once_ends_no_request(engine: LocalEngine, alone: list[list[int]]) -> None:
    prefill_first(engine)
    decoder = runner_of(engine)._decoder
    launch, failures, together = decoder.launch, [RuntimeError("a hiccup")], threading.Event()

    def fail_once(sequences: list[Sequence]) -> object:
        together.wait(10)
        if len(sequences) > 1 and failures:
            raise failures.pop()
        return launch(sequences)

    decoder.launch = fail_once  # type: ignore[method-assign, assignment]
    streams = [submit(engine, *request, user="good") for request in GOOD]
    together.set()
    assert [finish(stream)[0] for stream in streams] == alone
    assert not failures


def test_a_kernel_that_fails_at_the_first_token(engine: LocalEngine, alone: list[list[int]]) -> None:
    with failing(engine, "sample", RuntimeError("no kernel image")):
        check(engine, alone, "no kernel image", tokens=0)


@pytest.mark.parametrize(
    "error", [RuntimeError("illegal access"), torch.OutOfMemoryError("CUDA out of memory.")]
)
def test_a_prompt_that_cannot_be_read(engine: LocalEngine, alone: list[list[int]], error: Exception) -> None:
    runner = runner_of(engine)
    reader = runner._prefill
    network = reader._model  # type: ignore[attr-defined]

    class Failing:
        device = network.device

        def __call__(self, input_ids: torch.Tensor, **given: object) -> object:
            if POISON in input_ids:
                raise error
            return network(input_ids=input_ids, **given)

    reader._model = Failing()  # type: ignore[attr-defined]
    expected = "ran out of memory when reading 5 tokens after 16" if "memory" in str(error) else str(error)
    check(engine, alone, expected, tokens=0)
    reader._model = network  # type: ignore[attr-defined]


def test_memory_that_is_full_in_the_middle_of_a_story(engine: LocalEngine, alone: list[list[int]]) -> None:
    loop = runner_of(engine)._decode_loop
    no_memory = loop._reserve_next

    def full(sequence: Sequence) -> MemoryError | None:
        if poisoned(sequence) and sequence.num_computed_tokens == len(BAD) + 3:
            return MemoryError(f"There is memory for {sequence.num_computed_tokens} tokens of this story.")
        return no_memory(sequence)

    loop._reserve_next = full
    check(engine, alone, "memory for 24 tokens", tokens=4)


def test_numbers_that_are_none(engine: LocalEngine, alone: list[list[int]]) -> None:
    """Make logits NaN from the fourth token on; check that no state of the broken request stays cached."""
    runner = runner_of(engine)
    draw = runner._decoder._sample  # type: ignore[attr-defined]

    def poison(sequence: Sequence, logits: torch.Tensor) -> object:
        broken = poisoned(sequence) and sequence.num_generated >= 3
        return draw(sequence, logits * torch.nan if broken else logits)

    runner._decoder._sample = poison  # type: ignore[attr-defined]
    check(engine, alone, "not a number", tokens=3)
    assert not [one for one in runner._prefix_cache._device_lru if one.cache_salt == "bad"]


def test_a_request_that_can_never_be_fitted_is_told_the_largest_that_can(
    model: JetNemotronForCausalLM,
) -> None:
    small = engine_on(model, writers=2, kept=1, context=PAGE_SIZE)
    with pytest.raises(RequestError, match="300 tokens, and 1 to 255 can be read"):
        submit(small, [1] * 300, GREEDY)
    assert len(finish(submit(small, [1] * 200, GREEDY))[0]) == 12
    small.close()


def test_readers_who_vanish_before_their_first_token(engine: LocalEngine, alone: list[list[int]]) -> None:
    runner_of(engine)
    good = [submit(engine, *request) for request in GOOD]
    for number in range(20):
        stream: LocalStream | None = submit(engine, [number + 1] * 60, SAMPLED, f"gone {number}")
        del stream
    gc.collect()
    assert [finish(stream)[0] for stream in good] == alone
    wait_for(lambda: engine.info().active_requests + engine.info().queued_requests == 0)


def test_a_storm_of_aborts(engine: LocalEngine, alone: list[list[int]]) -> None:
    runner_of(engine)
    chance = random.Random(0)
    good = [submit(engine, *request) for request in GOOD]
    streams = [submit(engine, [n + 1] * chance.randint(1, 90), SAMPLED, f"user {n % 7}") for n in range(60)]
    for stream in chance.sample(streams, 60):
        stream.abort()
    assert [finish(stream)[0] for stream in good] == alone
    reasons = {finish(stream)[1].finish_reason for stream in streams}
    assert reasons <= {"aborted", "length"} and "aborted" in reasons


def test_a_full_line_is_refused_and_those_in_it_are_served() -> None:
    runner = FakeRunner(gated=True)
    engine = make_engine(runner, max_running_requests=1, max_waiting=2)
    streams = [ask(engine, name) for name in "abc"]
    with pytest.raises(RequestError, match="2 stories are waiting already"):
        ask(engine, "d")
    runner.allow(100_000)
    assert [text_of(list(stream)) for stream in streams] == [f"the story of {name}. " for name in "abc"]
    assert text_of(list(ask(engine, "d"))) == "the story of d. "
    engine.close()


def test_a_user_has_so_many_places_and_the_others_get_theirs() -> None:
    runner = FakeRunner(gated=True)
    engine = make_engine(runner, max_running_requests=3, max_running_per_user=2)
    streams = [ask(engine, name, user="ann") for name in ("a1", "a2", "a3")]
    streams.append(ask(engine, "b", user="bob"))
    assert [next(iter(stream)).stats.queue_position for stream in streams] == [0, 0, 1, 0]
    runner.allow(100_000)
    for stream in streams:
        list(stream)
    started = list(dict.fromkeys(name for name, what in runner.log if what == "prefill"))
    assert started == ["a1", "a2", "b", "a3"]
    engine.close()


def test_who_does_not_fit_yet_waits_and_who_never_will_is_told() -> None:
    runner = FakeRunner(gated=True)
    runner.room = 1
    engine = make_engine(runner, max_running_requests=3)
    first, second = ask(engine, "a"), ask(engine, "b")
    runner.allow(100_000)
    assert text_of(list(first)) == "the story of a. "
    assert text_of(list(second)) == "the story of b. "
    assert runner.log.count(("", "allocate")) <= 5, "no retry until a request has ended or prefilled"
    runner.room = 0
    last = list(ask(engine, "c"))[-1].stats
    assert (last.finish_reason, last.error) == ("error", "no room for another")
    engine.close()
