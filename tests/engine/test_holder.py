"""Test that one model is held at a time, loaded once for all callers."""

from __future__ import annotations

import threading
import time

import pytest

from jet.engine.engine import LocalEngine
from jet.engine.holder import ModelHolder
from jet.engine.loading import LocalConfig
from tests.engine.fakes import FakeRunner, ask, make_engine, text_of

A, B = LocalConfig("a"), LocalConfig("b")


class Factory:
    """Builds engines on fake models.

    Attributes:
        built: configurations in the order in which building began.
        others: for each of these, how many other engines were alive or being built at that moment.
        failures: number of the next attempts that fail.
    """

    def __init__(self, takes_s: float = 0.0, failures: int = 0) -> None:
        self.built: list[LocalConfig] = []
        self.engines: list[LocalEngine] = []
        self.others: list[int] = []
        self.building = 0
        self.failures = failures
        self._takes_s = takes_s

    def __call__(self, choice: LocalConfig) -> LocalEngine:
        self.built.append(choice)
        self.others.append(self.building + sum(engine.alive for engine in self.engines))
        self.building += 1
        time.sleep(self._takes_s)
        self.building -= 1
        if self.failures:
            self.failures -= 1
            raise OSError("no such checkpoint")
        self.engines.append(make_engine(FakeRunner()))
        return self.engines[-1]


def together(count: int, act: object) -> list[object]:
    """Call `act` in `count` threads at once; return what each call returned, or the OSError it raised."""
    results: list[object] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait()
        try:
            results.append(act())  # type: ignore[operator]
        except OSError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return results


def test_the_same_choice_gives_the_same_engine() -> None:
    factory = Factory()
    holder = ModelHolder(factory)
    assert holder.engine(A) is holder.engine(LocalConfig("a"))
    assert factory.built == [A]
    assert text_of(list(ask(holder.engine(A), "a"))) == "the story of a. "
    holder.close()


def test_concurrent_first_calls_load_once() -> None:
    factory = Factory(takes_s=0.05)
    holder = ModelHolder(factory)
    engines = together(16, lambda: holder.engine(A))
    assert len(engines) == 16 and len(set(engines)) == 1
    assert factory.built == [A]
    holder.close()


def test_another_model_closes_the_one_that_is_there_first() -> None:
    factory = Factory()
    holder = ModelHolder(factory)
    first = holder.engine(A)
    second = holder.engine(B)
    assert not first.alive and second.alive
    assert factory.others == [0, 0]
    third = holder.engine(A)
    assert third is not first and third.alive and not second.alive
    assert holder.engine(LocalConfig("a", dtype="bfloat16")) is not third
    holder.close()


def begin_loading(holder: ModelHolder, factory: Factory) -> threading.Thread:
    """Begin to load model A in a thread; return the thread once the factory is building the engine."""
    loading = threading.Thread(target=lambda: holder.engine(A))
    loading.start()
    while not factory.built:
        time.sleep(0.001)
    return loading


def test_another_model_waits_for_the_one_being_loaded() -> None:
    factory = Factory(takes_s=0.05)
    holder = ModelHolder(factory)
    loading = begin_loading(holder, factory)
    second = holder.engine(B)
    loading.join()
    assert factory.built == [A, B] and factory.others == [0, 0]
    assert second.alive and not factory.engines[0].alive
    holder.close()


def test_closing_does_not_wait_for_a_model_being_loaded_but_closes_it_too() -> None:
    factory = Factory(takes_s=0.1)
    holder = ModelHolder(factory)
    loading = begin_loading(holder, factory)
    holder.close()
    assert factory.engines == []
    loading.join()
    assert not factory.engines[0].alive


def test_a_failure_is_told_to_all_who_wait_and_may_be_retried() -> None:
    factory = Factory(takes_s=0.05, failures=1)
    holder = ModelHolder(factory)
    outcomes = together(8, lambda: holder.engine(A))
    assert [str(outcome) for outcome in outcomes] == ["no such checkpoint"] * 8
    assert factory.built == [A]
    assert not holder.has(A)
    assert holder.engine(A).alive and factory.built == [A, A]
    holder.close()


def test_after_a_failure_another_model_can_be_loaded() -> None:
    holder = ModelHolder(Factory(failures=1))
    with pytest.raises(OSError, match="no such checkpoint"):
        holder.engine(A)
    assert holder.engine(B).alive
    holder.close()


def test_an_engine_that_died_is_replaced() -> None:
    factory = Factory()
    holder = ModelHolder(factory)
    first = holder.engine(A)
    first.close()
    assert not holder.has(A)
    assert holder.engine(A) is not first and holder.engine(A).alive
    holder.close()


def test_a_source_is_ready_once_its_model_is_loaded() -> None:
    holder = ModelHolder(Factory())
    source, other = holder.handle(A), holder.handle(B)
    assert not source.ready
    engine = source.engine()
    assert source.ready and not other.ready
    assert source.engine() is engine
    holder.close()
    assert not source.ready and not engine.alive
    holder.close()


def test_an_engine_loads_in_the_background_and_is_shared() -> None:
    holder = ModelHolder(factory := Factory(takes_s=0.2))
    source = holder.handle(A)
    loading = source.preload()
    assert not loading.done() and not source.ready
    assert loading.result(10) is source.engine() and source.ready
    assert factory.built == [A]
    holder.close()


def test_a_failure_in_the_background_is_raised_by_its_future() -> None:
    with pytest.raises(OSError, match="no such checkpoint"):
        ModelHolder(Factory(failures=1)).handle(A).preload().result(10)
