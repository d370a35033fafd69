"""Test gaps between chunks and the delay of the last one, with a fake clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jet.api import RequestStats, SamplingParams, TokenChunk
from jet.bench.cases.stream import TimedRunner, describe, read
from jet.bench.options import BenchError
from jet.bench.requests import POLL_INTERVAL_S
from tests.bench.stand_in import SteadyRunner


class Paced:
    """A stream whose chunks arrive at given times; the first chunk is empty, all others have the stats."""

    def __init__(self, moments: list[float], stats: RequestStats) -> None:
        self._moments = moments
        self._stats = stats
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def __iter__(self) -> Iterator[TokenChunk]:
        return self.chunks()

    def abort(self) -> None:
        pass

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        assert interval_s == POLL_INTERVAL_S
        yield TokenChunk("", (), RequestStats())
        for moment in self._moments:
            self.now = moment
            yield TokenChunk("t1 ", (1,), self._stats)


def test_gaps_are_between_chunks_with_text() -> None:
    stats = RequestStats(tokens=5, mean_tokens_per_second=8.0, finish_reason="length")
    stream = Paced([1.0, 1.25, 1.5, 2.5, 3.0], stats)
    arrivals, last = read(stream, SamplingParams(max_new_tokens=5), stream.clock)
    assert describe(arrivals, last, last_token=2.75) == {
        "tokens_per_second": 8.0,
        "chunks_per_second": 2.0,
        "gap_p50": 0.25,
        "gap_p99": 1.0,
        "gap_max": 1.0,
        "last_chunk": 0.25,
    }


def test_a_stream_in_one_piece_has_no_gaps() -> None:
    with pytest.raises(BenchError, match="longer stream with --tokens"):
        describe([1.0], RequestStats(tokens=5, mean_tokens_per_second=8.0), last_token=0.9)


def test_a_stream_that_ends_early_is_no_measurement() -> None:
    stream = Paced([1.0, 2.0], RequestStats(tokens=2, finish_reason="context"))
    with pytest.raises(BenchError, match=r"wrote 2 of 5 tokens \(context\)"):
        read(stream, SamplingParams(max_new_tokens=5), stream.clock)


def test_the_runner_notes_its_last_token() -> None:
    steady = SteadyRunner(step_s=0.5)
    runner = TimedRunner(steady, steady.clock)
    handle = runner.allocate(SamplingParams())
    assert runner.decode([handle]) == runner.decode([handle]) == [7]
    assert runner.last_token == 1.0
    assert runner.state_bytes(handle)["conv"] == 2
