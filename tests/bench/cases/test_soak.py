"""Test the runner of the soak case, with a fake clock: gaps, and nothing kept of requests that ended."""

from __future__ import annotations

from itertools import count
from typing import Any, cast

from jet.bench.cases.soak import GapRunner
from jet.engine.model_runner import ModelRunner


class Runner:
    """A runner whose every step gives each request a token."""

    def __init__(self) -> None:
        self.freed: list[tuple[object, bool]] = []

    def decode(self, handles: list[object]) -> list[int]:
        return [7 for _ in handles]

    def free(self, handle: object, keep_snapshot: bool = True) -> None:
        self.freed.append((handle, keep_snapshot))


def test_gaps_are_between_tokens_of_a_request_and_end_with_it() -> None:
    inner, clock = Runner(), count(10)
    runner = GapRunner(cast(ModelRunner, inner), lambda: float(next(clock)))
    runner.decode(["a"])
    runner.decode(["a", "b"])
    assert runner.gaps == [1.0]
    engine: Any = runner  # which calls it as the engine does
    engine.free("a", keep_snapshot=False)
    runner.decode(["a", "b"])
    assert runner.gaps == [1.0, 1.0], "a request of the same handle begins anew"
    engine.free("a")
    engine.free("b")
    assert inner.freed == [("a", False), ("a", True), ("b", True)] and not runner._last
