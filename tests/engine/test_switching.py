"""Test that another model replaces the running one for all callers, or the old one returns on failure."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jet.engine import bandwidth
from jet.engine.engine import LocalEngine
from jet.engine.holder import ModelHandle, ModelHolder, SwitchError
from jet.engine.loading import LocalConfig
from tests.engine.fakes import FakeRunner, ask, make_engine, text_of
from tests.engine.garbage import only_own_garbage
from tests.engine.small_checkpoint import save_small_checkpoint

__all__ = ["only_own_garbage"]

A, B, C = LocalConfig("a"), LocalConfig("b"), LocalConfig("c")
GONE = "The model was changed to b."


class Models:
    """Loads engines on fake models.

    Attributes:
        log: "load a beside 1" for each load: the model, and the number of engines alive at that time.
        broken: models that cannot be loaded.
        gate: loading waits until this event is set.
        slow: stories wait for the test's permission for each step.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.broken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.engines: list[weakref.ref[LocalEngine]] = []
        self.runners: list[FakeRunner] = []
        self.slow = False

    def __call__(self, config: LocalConfig) -> LocalEngine:
        alive = sum(engine.alive for one in self.engines if (engine := one()) is not None)
        self.log.append(f"load {config.model} beside {alive}")
        self.started.set()
        assert self.gate.wait(10)
        if config.model in self.broken:
            raise OSError(f"{config.model} is broken")
        self.runners.append(FakeRunner(gated=self.slow))
        engine = make_engine(self.runners[-1])
        self.engines.append(weakref.ref(engine))
        return engine


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def handle(models: Models) -> ModelHandle:
    handle = ModelHolder(models).handle(A)  # type: ignore[arg-type]
    handle.engine()
    return handle


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def in_thread(act: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(act())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("beside", [True, False])
def test_everybody_gets_the_other_model(handle: ModelHandle, models: Models, beside: bool) -> None:
    first = handle.engine()
    second = handle.switch(B, beside, GONE)
    assert handle.engine() is second is handle.loaded and handle.config == B and handle.ready
    assert not first.alive and second.alive
    assert models.log == ["load a beside 0", f"load b beside {int(beside)}"]
    assert text_of(list(ask(handle.engine(), "x"))) == "the story of x. "
    handle.holder.close()


@pytest.mark.parametrize("beside", [True, False])
def test_a_closed_engine_is_gone_from_memory(handle: ModelHandle, models: Models, beside: bool) -> None:
    models.runners.clear()
    handle.switch(B, beside, GONE)
    gc.collect()
    assert [one() is None for one in models.engines] == [True, False]
    handle.holder.close()


@pytest.mark.parametrize("beside", [True, False])
def test_running_stories_end_and_say_so(models: Models, beside: bool) -> None:
    models.slow = True
    handle = ModelHolder(models).handle(A)  # type: ignore[arg-type]
    stream = ask(handle.engine(), "x")
    models.runners[0].allow(6)
    wait_until(lambda: models.runners[0].calls() == 6)
    models.slow = False
    thread, _ = in_thread(lambda: handle.switch(B, beside, GONE))
    wait_until(lambda: models.engines[0]() is None or not models.engines[0]().alive)  # type: ignore[union-attr]
    models.runners[0].allow(1)
    chunks = list(stream)
    assert chunks[-1].stats.finish_reason == "model_changed" and chunks[-1].stats.error == GONE
    assert "the story of x. ".startswith(text_of(chunks)) and len(text_of(chunks)) >= 4, "its text stays"
    thread.join(20)
    handle.holder.close()


def test_beside_it_stories_go_on_until_the_other_model_is_there(handle: ModelHandle, models: Models) -> None:
    models.gate.clear()
    models.started.clear()
    thread, _ = in_thread(lambda: handle.switch(B, True, GONE))
    assert models.started.wait(10)
    assert handle.ready and handle.config == A
    assert text_of(list(ask(handle.engine(), "x"))) == "the story of x. "
    models.gate.set()
    thread.join(10)
    assert handle.config == B
    handle.holder.close()


def test_in_its_place_requests_wait_for_the_other_model(handle: ModelHandle, models: Models) -> None:
    models.gate.clear()
    models.started.clear()
    thread, _ = in_thread(lambda: handle.switch(B, False, GONE))
    assert models.started.wait(10)
    assert not handle.ready and handle.loaded is None
    asking, got = in_thread(handle.engine)
    time.sleep(0.05)
    assert not got
    models.gate.set()
    thread.join(10)
    asking.join(10)
    assert got == [handle.engine()] and handle.config == B
    assert models.log == ["load a beside 0", "load b beside 0"]
    handle.holder.close()


def test_a_failure_beside_it_leaves_the_old_model_untouched(handle: ModelHandle, models: Models) -> None:
    models.broken.add("b")
    first = handle.engine()
    with pytest.raises(SwitchError, match="b is broken") as failed:
        handle.switch(B, True, GONE)
    assert failed.value.restored
    assert handle.engine() is first and first.alive and handle.config == A
    handle.holder.close()


def test_a_failure_in_its_place_loads_the_old_model_again(handle: ModelHandle, models: Models) -> None:
    models.broken.add("b")
    first = handle.engine()
    models.gate.clear()
    models.started.clear()
    thread, outcome = in_thread(lambda: handle.switch(B, False, GONE))
    assert models.started.wait(10)
    asking, got = in_thread(handle.engine)  # meanwhile
    time.sleep(0.02)
    models.gate.set()
    thread.join(10)
    asking.join(10)
    (error,) = outcome
    assert isinstance(error, SwitchError) and error.restored and str(error) == "b is broken"
    assert handle.config == A and handle.ready and handle.engine() is not first
    assert got == [handle.engine()], "and no request fails by that"
    assert models.log == ["load a beside 0", "load b beside 0", "load a beside 0"]
    handle.holder.close()


def test_if_the_old_model_cannot_be_loaded_again_the_next_request_tries(
    handle: ModelHandle, models: Models
) -> None:
    models.broken |= {"a", "b"}
    with pytest.raises(SwitchError, match="b is broken") as failed:
        handle.switch(B, False, GONE)
    assert not failed.value.restored and not handle.ready and handle.config == A
    models.broken.clear()
    assert handle.engine().alive
    handle.holder.close()


def test_two_switches_come_one_after_the_other(handle: ModelHandle, models: Models) -> None:
    threads = [in_thread(lambda config=config: handle.switch(config, False, GONE))[0] for config in (B, C)]
    for thread in threads:
        thread.join(10)
    assert handle.engine().alive and handle.config in (B, C)
    assert all("beside 0" in line for line in models.log) and len(models.log) == 3
    handle.holder.close()


def test_requests_in_the_midst_of_switches_always_get_a_running_engine(handle: ModelHandle) -> None:
    stop, seen = threading.Event(), list[str]()

    def ask_often() -> None:
        while not stop.is_set():
            try:
                seen.append(text_of(list(ask(handle.engine(), "x"))))
            except ValueError as error:  # noqa: PERF203 - closed between the two calls
                seen.append(str(error))

    threads = [in_thread(ask_often)[0] for _ in range(4)]
    for number in range(12):
        handle.switch(LocalConfig(f"m{number}"), number % 2 == 0, GONE)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert handle.config == LocalConfig("m11") and handle.ready
    assert set(seen) <= {"the story of x. ", GONE, ""} | {"the story of x. "[:n] for n in range(17)}
    handle.holder.close()


@pytest.mark.thorough
def test_a_real_engine_is_gone_once_another_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth.MemoryBandwidth.watch, "__defaults__", ((0.01, 600.0), time.sleep))
    small = LocalConfig(str(save_small_checkpoint(tmp_path)), "cpu", context=256, max_running_requests=1)
    handle = ModelHolder().handle(small)
    engine = handle.engine()
    assert isinstance(engine, LocalEngine)
    list(ask(engine, "Once", 4, user="ann"))
    kept = [weakref.ref(one) for one in (engine, engine._runner, engine._runner._model)]  # type: ignore[attr-defined]
    time.sleep(0.3)  # its bandwidth is measured, and it waits for the next time
    del engine
    handle.switch(replace(small, context=128), False, GONE)
    assert [one() for one in kept] == [None] * 3
    handle.holder.close()
