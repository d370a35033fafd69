"""Serve the real page on a free port, over the stand-in engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gradio as gr
import pytest

from jet.ui.handlers import PageController
from jet.ui.page import build, launch
from jet.ui.sessions import SessionStore
from tests.ui.stand_in import StandInEngine, StandInSource


@dataclass
class Served:
    """A running page: its URL, and the engine behind it."""

    url: str
    source: StandInSource
    demo: gr.Blocks

    def forget(self) -> None:
        """Drop all stories from memory, as after a restart of the server."""
        found = (getattr(one.fn, "__self__", None) for one in self.demo.fns.values())
        next(owner for owner in found if isinstance(owner, PageController))._sessions = SessionStore()

    @property
    def engine(self) -> StandInEngine:
        return self.source.stand_in


@contextmanager
def serve() -> Iterator[Served]:
    """Run the page until the block is left, on a free port."""
    source = StandInSource()
    demo = build(source)
    url = launch(demo)
    try:
        yield Served(url, source, demo)
    finally:
        demo.close(verbose=False)


def wait_until(condition: Callable[[], bool], timeout_s: float = 15.0) -> float:
    """Wait until the condition holds; return the seconds it took. Fails after `timeout_s` seconds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - started


@pytest.fixture(scope="package")
def page_server() -> Iterator[Served]:
    """Serve one page for all tests of a folder."""
    with serve() as served:
        yield served


@pytest.fixture
def served(page_server: Served) -> Iterator[Served]:
    """Yield the page with its engine reset; then wait until the test's stories have ended."""
    page_server.source.reset()
    yield page_server
    page_server.source.load()
    wait_until(lambda: not page_server.engine.live)
