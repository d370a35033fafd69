"""Test the engine with a fake model: scheduling, queue, aborts, failures, endings."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from jet.api import Request, RequestError, SamplingParams, TokenChunk
from jet.engine import engine as engine_module
from jet.engine.engine import EngineOptions, LocalEngine
from jet.hardware import MemoryReading
from tests.engine.fakes import INFO, ByteTokenizer, FakeRunner, FakeSequence, ask, make_engine, text_of


@contextmanager
def serving(runner: FakeRunner, **options: int) -> Iterator[LocalEngine]:
    engine = make_engine(runner, **options)
    try:
        yield engine
    finally:
        if runner._permits is not None:
            runner.allow(100_000)
        engine.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def test_a_request_gives_its_story_and_ends_with_stop() -> None:
    with serving(FakeRunner()) as engine:
        chunks = list(ask(engine, "a fox"))
    assert text_of(chunks) == "the story of a fox. "
    assert bytes(token for chunk in chunks for token in chunk.token_ids).decode() == "the story of a fox. "
    assert [chunk.stats.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[-1].stats.tokens == 20
    assert chunks[-1].stats.prompt_tokens == 5


def test_the_first_chunk_comes_before_the_prompt_is_read() -> None:
    with serving(FakeRunner(gated=True)) as engine:
        first = next(iter(ask(engine, "a")))
        assert (first.text, first.token_ids, first.stats.phase) == ("", (), "queued")
        assert first.stats.queue_position == 0


def test_phases_come_in_order_and_every_chunk_has_the_seed() -> None:
    with serving(FakeRunner(), prefill_chunk_size=2) as engine:
        chunks = list(ask(engine, "seven b"))
    phases = [chunk.stats.phase for chunk in chunks]
    # Three pieces come before the last one, which already brings the first token.
    assert phases == ["queued"] + ["prefill"] * 4 + ["decode"] * 22 + ["done"]
    seeds = {chunk.stats.seed for chunk in chunks}
    assert len(seeds) == 1 and None not in seeds


def test_two_draws_of_a_seed_differ_and_a_given_seed_is_kept() -> None:
    with serving(FakeRunner()) as engine:
        drawn = {next(iter(ask(engine, "a"))).stats.seed for _ in range(5)}
        given = next(iter(engine.submit(Request("a", SamplingParams(seed=7))))).stats.seed
    assert len(drawn) == 5
    assert given == 7


def test_requests_join_and_leave_between_steps_and_write_together() -> None:
    runner = FakeRunner(story=lambda name: name * 8, gated=True)
    with serving(runner) as engine:
        first = ask(engine, "first", tokens=1)
        wait_for(lambda: runner.sequences != [])  # its step waits until all others are there
        streams = [ask(engine, name, tokens=number) for number, name in enumerate("abc", start=4)]
        runner.allow(100_000)
        texts = [text_of(list(stream)) for stream in (first, *streams)]
    assert texts == ["f", "aaaa", "bbbbb", "cccccc"]
    assert runner.batches[0] == ["first"]
    assert ["a", "b", "c"] in runner.batches, "all write in one step"
    assert runner.batches[-1] == ["c"]


class TimedRunner(FakeRunner):
    """Takes 1 ms for every token of a prompt and 2 ms for a step, on a clock of its own."""

    def __init__(self) -> None:
        super().__init__(story=lambda name: "x" * 3000, gated=True)
        self.now = 0.0
        self.steps: list[tuple[float, list[str]]] = []  # when each step ended, and whose it was

    def prefill(self, sequence: FakeSequence, tokens: Sequence[int]) -> None:
        super().prefill(sequence, tokens)
        self.now += 0.001 * len(tokens)

    def decode(self, sequences: Sequence[FakeSequence]) -> list[int | Exception]:
        outcomes = super().decode(sequences)
        self.now += 0.002
        self.steps.append((self.now, [sequence.name for sequence in sequences]))
        return outcomes


def test_who_writes_pauses_only_shortly_for_a_long_prompt_which_gets_half_of_the_time() -> None:
    runner = TimedRunner()
    options = EngineOptions(prefill_chunk_size=512, max_decode_stall_s=0.05)
    info = replace(INFO, context=6000)
    engine = LocalEngine(runner, ByteTokenizer(), info, options, clock=lambda: runner.now)
    runner.allow(2)
    list(ask(engine, "w" * 64, tokens=1))  # as the warm-up does, from which the engine knows its speed
    runner.steps.clear()
    streams = [ask(engine, "a", tokens=2500), ask(engine, "l" * 2000, tokens=2)]
    runner.allow(100_000)
    _, long = [list(stream)[-1].stats for stream in streams]
    engine.close()
    mine = [moment for moment, names in runner.steps if "a" in names]
    pauses = [later - earlier for earlier, later in pairwise(mine)]
    long_ones = [pause for pause in pauses if pause > 0.05 + 2 * 0.002 + 1e-9]
    assert len(long_ones) <= 2000 / 32 / 16 and max(pauses) <= 0.05 * 4 / 3 + 2 * 0.002
    assert long.time_to_first_token_s == pytest.approx(2 * 2.0, rel=0.1)


def test_chunks_are_large_while_no_request_decodes() -> None:
    pieces = []

    class Counting(FakeRunner):
        def prefill(self, sequence, tokens):  # type: ignore[no-untyped-def]
            pieces.append(len(tokens))
            super().prefill(sequence, tokens)

    with serving(Counting(), prefill_chunk_size=100, context=300) as engine:
        list(ask(engine, "l" * 250))
    assert pieces == [100, 100, 50]


def test_beyond_the_places_requests_wait_in_order_and_see_their_position() -> None:
    runner = FakeRunner(gated=True)
    with serving(runner, max_running_requests=2) as engine:
        streams = {name: ask(engine, name) for name in "abcde"}
        assert [next(iter(streams[name])).stats.queue_position for name in "abcde"] == [0, 0, 1, 2, 3]
        assert (engine.info().active_requests, engine.info().queued_requests) in {(2, 3), (1, 4), (0, 5)}
        runner.allow(100_000)
        chunks = {name: list(stream) for name, stream in streams.items()}
    positions = {name: [chunk.stats.queue_position for chunk in found] for name, found in chunks.items()}
    assert sorted(set(positions["e"]), reverse=True) == [2, 1, 0] or set(positions["e"]) == {3, 2, 1, 0}
    assert positions["e"] == sorted(positions["e"], reverse=True)
    crowds = {(c.stats.active_requests, c.stats.queued_requests) for found in chunks.values() for c in found}
    assert {(2, 2), (2, 1), (2, 0)} <= crowds
    assert all(active <= 2 and active + queued <= 5 for active, queued in crowds)
    started = list(dict.fromkeys(name for name, what in runner.log if what == "prefill"))
    assert started == ["a", "b", "c", "d", "e"]


def test_stats_grow_and_memory_is_the_runners() -> None:
    with serving(FakeRunner()) as engine:
        chunks = list(ask(engine, "a fox"))
    counts = [chunk.stats.tokens for chunk in chunks]
    assert counts == sorted(counts)
    last = chunks[-1].stats
    assert (last.recurrent_bytes, last.conv_bytes, last.window_kv_bytes) == (100, 10, 5)
    assert last.full_kv_bytes == 5 + 21  # the end token was a step too
    assert last.state_bytes == 115 and last.kv_bytes == 31
    assert last.time_to_first_token_s is not None and last.time_to_first_token_s > 0
    assert last.mean_tokens_per_second is not None and last.mean_tokens_per_second > 0


def test_speeds_are_of_decoding_alone() -> None:
    now = [0.0]

    class Slow(FakeRunner):
        def prefill(self, sequence, tokens):  # type: ignore[no-untyped-def]
            now[0] += 100.0
            super().prefill(sequence, tokens)

        def decode(self, sequences):  # type: ignore[no-untyped-def]
            now[0] += 0.25
            return super().decode(sequences)

    engine = LocalEngine(Slow(), ByteTokenizer(), INFO, clock=lambda: now[0])
    last = list(ask(engine, "a"))[-1].stats
    engine.close()
    assert last.mean_tokens_per_second == pytest.approx(4.0)
    assert last.tokens_per_second == pytest.approx(4.0)
    assert last.time_to_first_token_s == pytest.approx(100.25)


def test_memory_is_read_ten_times_a_second_at_most() -> None:
    now = [0.0]
    reads = []

    class Quick(FakeRunner):
        def decode(self, sequences):  # type: ignore[no-untyped-def]
            now[0] += 0.01
            return super().decode(sequences)

    def read_memory() -> MemoryReading:
        reads.append(now[0])
        return MemoryReading(process_memory_bytes=len(reads))

    runner = Quick(story=lambda name: "x" * 100)
    engine = LocalEngine(runner, ByteTokenizer(), INFO, read_memory=read_memory, clock=lambda: now[0])
    chunks = list(ask(engine, "a"))
    engine.close()
    assert now[0] == pytest.approx(1.0)  # a second of writing
    assert len(reads) <= 13
    assert sum(what == "memory" for _, what in runner.log) <= 12
    assert chunks[-1].stats.process_memory_bytes == len(reads) and reads[-1] == now[0]  # at the very end


def test_memory_is_not_read_before_the_first_chunk() -> None:
    """Check the order of calls: reading memory takes a millisecond, in which the device would be idle."""
    runner = FakeRunner()

    def read() -> MemoryReading:
        runner.log.append(("", "reading"))
        return MemoryReading()

    engine = LocalEngine(runner, ByteTokenizer(), INFO, read_memory=read)
    for prompt in ("a fox", "a hen"):
        runner.log.clear()
        list(ask(engine, prompt, tokens=3))
        done = [what for _, what in runner.log]
        assert "reading" in done and done.index("prefill") < done.index("reading")
    engine.close()


def test_max_new_tokens_ends_with_length() -> None:
    with serving(FakeRunner()) as engine:
        chunks = list(ask(engine, "a", tokens=3))
    assert text_of(chunks) == "the"
    assert chunks[-1].stats.finish_reason == "length" and chunks[-1].token_ids == (ord("e"),)


def test_what_does_not_fit_the_context_is_cut_and_said() -> None:
    with serving(FakeRunner(), context=12) as engine:
        chunks = list(ask(engine, "12345678", tokens=100))
        assert text_of(chunks) == "the "
        assert chunks[-1].stats.finish_reason == "context"
        with pytest.raises(RequestError, match="12 tokens, 11 fit"):
            ask(engine, "123456789012")


def test_half_a_character_is_never_sent_and_all_text_comes() -> None:
    with serving(FakeRunner(story=lambda name: "é👩‍🚀ש")) as engine:
        chunks = list(ask(engine, "a"))
        cut = list(ask(engine, "a", tokens=3))
    assert [chunk.text for chunk in chunks if chunk.text] == list("é👩‍🚀ש")
    assert text_of(cut) == "é\N{REPLACEMENT CHARACTER}"  # the end cut the character, not the stream


@pytest.mark.parametrize("allowed", [1, 2, 3, 10])
def test_an_abort_takes_effect_within_one_step(allowed: int) -> None:
    runner = FakeRunner(gated=True)
    with serving(runner, prefill_chunk_size=2) as engine:
        stream = ask(engine, "abcd")  # two pieces
        runner.allow(allowed)
        wait_for(lambda: runner.calls() == allowed)
        stream.abort()
        stream.abort()
        runner.allow(2)  # the turn under way; the last piece of a prompt and the first token are one
        chunks = list(stream)
        assert chunks[-1].stats.finish_reason == "aborted"
        assert runner.live == []
        assert engine.info().active_requests == 0
        assert runner.calls() <= allowed + 2
        follower = ask(engine, "x")
        runner.allow(1000)
        assert text_of(list(follower)) == "the story of x. "


def test_a_waiting_request_can_be_aborted() -> None:
    runner = FakeRunner(gated=True)
    with serving(runner, max_running_requests=1) as engine:
        first, second, third = (ask(engine, name) for name in "abc")
        second.abort()
        runner.allow(2)
        last = list(second)[-1].stats
        assert last.finish_reason == "aborted" and last.tokens == 0
        assert [chunk.stats.queue_position for chunk in iter_until(third, position=1)][-1] == 1
        runner.allow(1000)
        assert text_of(list(first)) == "the story of a. "
        assert text_of(list(third)) == "the story of c. "
    assert "b" not in {name for name, _ in runner.log}


def iter_until(stream: object, position: int) -> Iterator[TokenChunk]:
    for chunk in stream:  # type: ignore[attr-defined]
        yield chunk
        if chunk.stats.queue_position <= position:
            return


@pytest.mark.parametrize("where", ["prefill", "step", "step 5", "memory"])
@pytest.mark.parametrize("error", [RuntimeError("kaput"), MemoryError("full"), FloatingPointError()])
def test_a_failure_ends_its_request_alone(where: str, error: Exception) -> None:
    runner = FakeRunner()
    runner.faults["bad", where] = error
    with serving(runner) as engine:
        streams = {name: ask(engine, name) for name in ("one", "bad", "two")}
        stories = {name: list(stream) for name, stream in streams.items()}
        assert text_of(list(ask(engine, "next"))) == "the story of next. "
    for name in ("one", "two"):
        assert text_of(stories[name]) == f"the story of {name}. "
    last = stories["bad"][-1].stats
    assert last.finish_reason == "error" and last.phase == "done"
    assert last.error == (str(error) or "FloatingPointError")
    assert runner.live == []
    if where == "step 5":
        assert text_of(stories["bad"]) == "the "  # what was written stays


def test_failures_to_open_to_release_and_to_decode_are_the_requests_own() -> None:
    class Panic(BaseException):
        """A panic in compiled code: it derives from BaseException, not from Exception."""

    class Tokenizer(ByteTokenizer):
        def detokenizer(self, prompt):  # type: ignore[no-untyped-def]
            detokenizer = super().detokenizer(prompt)
            if bytes(prompt.tolist()) == b"panic":
                detokenizer.push = panic
            return detokenizer

    def panic(token: int) -> str:
        raise Panic("panicked")

    runner = FakeRunner()
    engine = LocalEngine(runner, Tokenizer(), INFO)
    assert list(ask(engine, "panic"))[-1].stats.error == "panicked"
    runner.faults["", "allocate"] = MemoryError("no room")
    assert list(ask(engine, "a"))[-1].stats.error == "no room"
    runner.faults = {("a", "free"): RuntimeError("stuck")}
    assert list(ask(engine, "a"))[-1].stats.finish_reason == "stop"
    assert text_of(list(ask(engine, "b"))) == "the story of b. "
    engine.close()


def test_a_request_that_fails_before_its_first_turn_gets_none() -> None:
    runner = FakeRunner()
    engine = LocalEngine(runner, ByteTokenizer(), INFO)
    runner.faults["", "memory"] = OSError("no /proc")  # of what has read nothing yet
    assert list(ask(engine, "a"))[-1].stats.error == "no /proc"
    runner.faults.clear()
    assert text_of(list(ask(engine, "b"))) == "the story of b. "
    assert [what for name, what in runner.log if name == "a"] == []
    engine.close()


def test_close_ends_every_stream_visibly() -> None:
    runner = FakeRunner(gated=True)
    engine = make_engine(runner, max_running_requests=1)
    streams = [ask(engine, name) for name in "abc"]
    runner.allow(3)
    closer = threading.Thread(target=engine.close)
    closer.start()
    runner.allow(1)
    closer.join(5)
    assert not closer.is_alive()
    for stream in streams:
        last = list(stream)[-1].stats
        assert last.finish_reason == "error" and last.error == "The engine has been closed."
        assert last.phase == "done" and last.queue_position == 0
    assert runner.closed and not engine.alive
    with pytest.raises(RequestError, match="closed"):
        ask(engine, "late")
    engine.close()


def test_close_does_not_wait_forever_for_a_step_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_CLOSE_PATIENCE_S", 0.05)
    runner = FakeRunner(gated=True)
    engine = make_engine(runner)
    stream = ask(engine, "a")
    wait_for(lambda: runner.sequences != [])  # and the step hangs
    engine.close()
    assert list(stream)[-1].stats.error == "The engine has been closed."
    runner.allow(1)


def test_streams_end_when_the_device_thread_has_died() -> None:
    runner = FakeRunner(gated=True)
    runner.faults["a", "step 2"] = SystemExit("the driver is gone")
    engine = make_engine(runner, max_running_requests=1)
    streams = [ask(engine, name) for name in "ab"]
    runner.allow(3)
    for stream in streams:
        assert list(stream)[-1].stats.error == "The engine has died: the driver is gone"
    assert not engine.alive
    with pytest.raises(RequestError, match="driver is gone"):
        ask(engine, "c")


def test_a_consumer_notices_a_dead_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a forked process, in which the device thread does not exist."""
    monkeypatch.setattr("jet.engine.stream._POLL_S", 0.01)
    runner = FakeRunner(gated=True)
    with serving(runner) as engine:
        stream = ask(engine, "a")
        monkeypatch.setattr(stream._channel, "_alive", lambda: False)
        assert list(stream)[-1].stats.error == "The engine has died."
        runner.allow(1000)


def test_a_forgotten_stream_is_aborted() -> None:
    runner = FakeRunner(gated=True)
    with serving(runner) as engine:
        stream = ask(engine, "a")
        runner.allow(5)
        for chunk in stream:
            if chunk.stats.tokens == 2:
                break
        del stream, chunk
        gc.collect()
        runner.allow(2)
        wait_for(lambda: engine.info().active_requests == 0)
        assert runner.live == []


def test_chunks_are_merged_to_one_per_interval() -> None:
    runner = FakeRunner(story=lambda name: "x" * 150)
    with serving(runner) as engine:
        plain = list(ask(engine, "a", tokens=150).chunks())
        started = time.monotonic()
        merged = list(ask(engine, "a", tokens=150).chunks(10.0))
        took = time.monotonic() - started
    assert text_of(plain) == text_of(merged) == "x" * 150
    assert len(merged) == 2 and took < 5  # the first and the last, both at once
    assert len(merged[1].token_ids) + len(merged[0].token_ids) == 150
    assert merged[1].stats.tokens == 150 and merged[1].stats.finish_reason == "length"


def test_merged_chunks_keep_their_distance_and_text_comes_while_it_is_written() -> None:
    class Steady(FakeRunner):
        def decode(self, sequences):  # type: ignore[no-untyped-def]
            time.sleep(0.002)
            return super().decode(sequences)

    with serving(Steady(story=lambda name: "x" * 100)) as engine:
        moments, sizes = [], []
        for chunk in ask(engine, "a").chunks(0.04):
            moments.append(time.monotonic())
            sizes.append(len(chunk.text))
            time.sleep(0.004)  # so that the next one is there before it is due
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert min(gaps[:-1]) >= 0.039
    assert sum(sizes) == 100
    assert sum(size > 0 for size in sizes) >= 3


def test_a_stream_read_to_its_end_stays_at_its_end() -> None:
    with serving(FakeRunner()) as engine:
        stream = ask(engine, "a")
        list(stream)
        assert list(stream) == [] and list(stream.chunks(1.0)) == []
        stream.abort()


def test_warm_up_is_timed_and_its_failure_is_raised() -> None:
    runner = FakeRunner()
    with serving(runner) as engine:
        engine.warm_up(Request("abc"))
        assert engine.info().warmup_s > 0
        runner.faults["abc", "step"] = RuntimeError("no kernel")
        with pytest.raises(RuntimeError, match="no kernel"):
            engine.warm_up(Request("abc"))


def test_the_engine_needs_a_place_to_serve() -> None:
    with pytest.raises(ValueError, match="not 0"):
        LocalEngine(FakeRunner(), ByteTokenizer(), INFO, EngineOptions(max_running_requests=0))


def test_many_threads_get_their_own_stories() -> None:
    runner = FakeRunner()
    faults = {(f"writer {n}, story 1", "step 7"): RuntimeError("boom") for n in range(0, 16, 4)}
    runner.faults.update(faults)
    wrong: list[str] = []

    def write(engine: LocalEngine, writer: int) -> None:
        choice = random.Random(writer)
        for story in range(4):
            name = f"writer {writer}, story {story}"
            stream = ask(engine, name)
            stop_after = choice.choice([3, 1000])
            text, last = "", None
            for last in stream.chunks(choice.choice([0.0, 0.002])):
                text += last.text
                if last.stats.tokens >= stop_after:
                    stream.abort()
            expected = f"the story of {name}. "
            reason = last.stats.finish_reason if last else None
            if (name, "step 7") in faults and reason == "error":
                expected = expected[:6]
            complete = text == expected if reason in ("stop", "error") else expected.startswith(text)
            if not complete or reason not in ("stop", "aborted", "error"):
                wrong.append(f"{name}: {reason} {text!r}")

    with serving(runner, max_running_requests=3) as engine:
        threads = [threading.Thread(target=write, args=(engine, n)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        info = engine.info()
    assert wrong == []
    assert runner.live == []
    assert (info.active_requests, info.queued_requests) == (0, 0)


class PreparingRunner(FakeRunner):
    """Has three pieces to capture; each waits for a release of `left`."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.left = threading.Semaphore(0)
        self.pieces = 0
        self._error = error

    def capture_next(self) -> bool:
        assert self.left.acquire(timeout=10)
        if self._error is not None:
            raise self._error
        self.pieces += 1
        return self.pieces < 3


def test_what_is_to_be_prepared_waits_for_idle_moments() -> None:
    runner = PreparingRunner()
    engine = LocalEngine(runner, ByteTokenizer(), INFO, EngineOptions(idle_before_capture_s=0.0))
    stream = ask(engine, "a")
    runner.left.release()  # the piece under way
    assert text_of(list(stream)) == "the story of a. "
    assert runner.pieces == 1, "nothing more while somebody writes"
    runner.left.release(2)
    wait_for(lambda: runner.pieces == 3)
    assert text_of(list(ask(engine, "b"))) == "the story of b. "
    engine.close()
    assert runner.pieces == 3


def test_who_comes_back_soon_waits_for_nothing_that_is_prepared() -> None:
    runner = PreparingRunner()  # which would wait until it is let
    engine = LocalEngine(runner, ByteTokenizer(), INFO, EngineOptions(idle_before_capture_s=1e6))
    for _ in range(2):
        assert text_of(list(ask(engine, "a"))) == "the story of a. "
    assert runner.pieces == 0
    engine.close()


def test_after_a_rest_all_is_prepared_without_another_one() -> None:
    runner = PreparingRunner()
    engine = LocalEngine(runner, ByteTokenizer(), INFO, EngineOptions(idle_before_capture_s=0.01))
    rests: list[float | None] = []
    wait_for_change = engine._changed.wait_for

    def noted(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        rests.append(timeout)
        return wait_for_change(predicate, timeout)

    engine._changed.wait_for = noted  # type: ignore[method-assign]
    runner.left.release(3)
    wait_for(lambda: None in rests)
    assert runner.pieces == 3 and rests[-3:] == [0.0, 0.0, None]
    engine.close()


def test_what_cannot_be_prepared_is_done_without() -> None:
    runner = PreparingRunner(RuntimeError("no memory for another graph"))
    engine = LocalEngine(runner, ByteTokenizer(), INFO, EngineOptions(idle_before_capture_s=0.0))
    runner.left.release()
    assert text_of(list(ask(engine, "a"))) == "the story of a. "
    engine.close()
