"""Test the server's connections: idle ones stay open, and there may be many."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from jet.server import connections
from tests.ui.served import Served

resource = pytest.importorskip("resource")  # Windows has none, and no such limit
ENDLESS = resource.RLIM_INFINITY


def test_idle_connections_outlast_those_of_proxies(served: Served) -> None:
    assert served.demo.server.config.timeout_keep_alive > 60


@pytest.mark.parametrize(
    "now, most, after",
    [
        (1024, 4096, 4096),
        (1024, 10**9, 65_536),
        (1024, ENDLESS, 65_536),
        (100_000, ENDLESS, 100_000),
        (ENDLESS, ENDLESS, ENDLESS),
    ],
)
def test_as_many_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, now: int, most: int, after: int
) -> None:
    limits = (now, most)

    def set_limit(_: int, new: tuple[int, int]) -> None:
        nonlocal limits
        limits = new

    tended(monkeypatch, lambda _: limits, set_limit)
    assert limits == (after, most)


def test_a_system_that_refuses_more_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    tended(monkeypatch, lambda _: (256, ENDLESS), refuse)


def tended(
    monkeypatch: pytest.MonkeyPatch,
    get: Callable[[int], tuple[int, int]],
    put: Callable[[int, tuple[int, int]], None],
) -> None:
    monkeypatch.setattr(resource, "getrlimit", get)
    monkeypatch.setattr(resource, "setrlimit", put)
    connections.configure_server(SimpleNamespace(config=SimpleNamespace()))
