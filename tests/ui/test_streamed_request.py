"""Test requests on the event loop: heartbeat, stop, failures, and that leaving always frees them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from jet.api import Request, SamplingParams, Stream, TokenChunk
from jet.ui.streamed_request import HEARTBEAT_S, STOP_GRACE_S, StreamedRequest
from tests.ui.served import wait_until
from tests.ui.stand_in import StandInEngine, StandInSource

REQUEST = Request("A", SamplingParams(max_new_tokens=20, seed=5))


@pytest.fixture
def source() -> Iterator[StandInSource]:
    source = StandInSource()
    yield source
    source.load()
    source.stand_in.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, timeout=10))


async def read(
    writing: StreamedRequest, until: Callable[[TokenChunk], bool] = lambda chunk: False
) -> list[TokenChunk]:
    """Return all chunks, or those up to one for which `until` holds; then leave the request."""
    chunks = []
    async with aclosing(writing.chunks()) as stream:
        async for chunk in stream:
            chunks.append(chunk)
            if until(chunk):
                break
    return chunks


def test_a_story_from_beginning_to_end(source: StandInSource) -> None:
    async def story() -> None:
        writing = StreamedRequest(source, REQUEST)
        assert writing.stats.seed == 5
        chunks = await read(writing)
        assert "".join(chunk.text for chunk in chunks) == "".join(f" A{index}" for index in range(20))
        assert [chunk.stats.finish_reason for chunk in chunks][-2:] == [None, "length"]
        assert writing.info == source.stand_in.info()

    run(story())


def test_the_heart_beats_while_nothing_comes(source: StandInSource) -> None:
    async def story() -> None:
        source.unload()
        started = time.monotonic()
        enough = started + 4.5 * HEARTBEAT_S
        chunks = await read(StreamedRequest(source, REQUEST), until=lambda _: time.monotonic() > enough)
        assert 4 <= len(chunks) <= 6
        assert all(chunk.text == "" for chunk in chunks)

    run(story())


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("moment", ["loading", "waiting", "prefill", "writing"])
def test_stop_ends_a_request_at_once_whatever_it_is_doing(
    source: StandInSource, moment: str, deaf: bool
) -> None:
    engine = source.stand_in
    engine.deaf = deaf
    engine.slots = 0 if moment == "waiting" else 1
    engine.prefill_s = 60.0 if moment == "prefill" else 0.0
    engine.tokens_per_second = 40.0
    request = Request("A", SamplingParams(max_new_tokens=10_000, seed=5))
    if moment == "loading":
        source.unload()

    async def story() -> None:
        writing = StreamedRequest(source, request)
        reading = asyncio.create_task(read(writing))
        while moment == "writing" and not writing.stats.tokens:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        stopped = time.monotonic()
        writing.stop()
        chunks = await reading
        assert time.monotonic() - stopped < STOP_GRACE_S + 5
        assert chunks[-1].stats.finish_reason == "aborted"
        assert ("A0" in "".join(chunk.text for chunk in chunks)) == (moment == "writing")

    run(story())


def test_stopping_twice_is_stopping(source: StandInSource) -> None:
    async def story() -> None:
        writing = StreamedRequest(source, REQUEST)
        writing.stop()
        writing.stop()
        assert (await read(writing))[-1].stats.finish_reason == "aborted"

    run(story())


def test_a_request_stopped_while_loading_never_reaches_the_engine(source: StandInSource) -> None:
    submitted: list[Request] = []
    source.stand_in.submit = submitted.append  # type: ignore[method-assign, assignment]

    async def story() -> None:
        source.unload()
        writing = StreamedRequest(source, REQUEST)
        writing.stop()
        await read(writing)
        source.load()
        await asyncio.sleep(0.1)

    run(story())
    assert submitted == []


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_leaving_frees_the_request(source: StandInSource, how: str) -> None:
    engine = source.stand_in
    engine.prefill_s = 60

    async def story() -> None:
        if how == "closed":
            await read(StreamedRequest(source, REQUEST), until=lambda chunk: chunk.stats.phase == "prefill")
        else:
            reading = asyncio.create_task(read(StreamedRequest(source, REQUEST)))
            while not engine.live:
                await asyncio.sleep(0.01)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert len(engine.aborted_at) == 1

    run(story())
    wait_until(lambda: not engine.live)


def test_a_refused_request_ends_with_its_message(source: StandInSource) -> None:
    async def story() -> None:
        (chunk,) = await read(StreamedRequest(source, Request("word " * 2000)))
        assert chunk.stats.finish_reason == "error"
        assert chunk.stats.error == "The text has 2000 tokens, and this model reads at most 1000."

    run(story())


def test_a_failure_keeps_what_was_written(source: StandInSource, caplog: pytest.LogCaptureFixture) -> None:
    source.stand_in.tokens_per_second, source.stand_in.fail_after = 40, 6

    async def story() -> None:
        chunks = await read(StreamedRequest(source, REQUEST))
        assert "".join(chunk.text for chunk in chunks).startswith(" A0 A1")
        last = chunks[-1].stats
        assert (last.phase, last.finish_reason) == ("done", "error")
        assert last.error == "Writing failed: the device caught <b>fire</b>"
        assert last.tokens > 0

    run(story())
    assert "A request failed." in caplog.text


def test_a_model_that_cannot_be_loaded_ends_the_request(source: StandInSource) -> None:
    source.load(error=OSError("no such checkpoint"))

    async def story() -> None:
        (chunk,) = await read(StreamedRequest(source, REQUEST))
        assert chunk.stats.error == "Writing failed: no such checkpoint"

    run(story())


def test_an_engine_that_falls_silent_is_an_error() -> None:
    class Silent(StandInEngine):
        def submit(self, request: Request) -> Stream:  # type: ignore[override]
            class Nothing:
                def __iter__(self) -> Iterator[TokenChunk]:
                    return iter(())

                def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
                    return iter(())

                def abort(self) -> None:
                    pass

            return Nothing()

    source = StandInSource()
    source.stand_in = Silent()

    async def story() -> None:
        (chunk,) = await read(StreamedRequest(source, REQUEST))
        assert chunk.stats.finish_reason == "error"
        assert chunk.stats.error == "The engine ended the story without saying why."

    run(story())


def test_where_many_write_everybody_is_told_less_often(source: StandInSource) -> None:
    async def story() -> None:
        request = Request("A", SamplingParams(max_new_tokens=100, seed=5))
        chunks = await read(StreamedRequest(source, request, min_interval=lambda: 0.4))
        text = "".join(chunk.text for chunk in chunks)
        assert text == "".join(f" A{number}" for number in range(100)), "nothing is lost"
        assert chunks[-1].stats.finish_reason == "length"
        assert len(chunks) < 10

    run(story())


def test_a_stop_waits_for_no_pause(source: StandInSource) -> None:
    async def story() -> None:
        request = Request("A", SamplingParams(max_new_tokens=10_000, seed=5))
        writing = StreamedRequest(source, request, min_interval=lambda: 30.0 if writing.stats.tokens else 0.0)
        async for chunk in writing.chunks():
            if chunk.text:
                writing.stop()
        assert writing.stats.finish_reason == "aborted"

    run(story())
