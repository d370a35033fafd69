"""Test signals before the server waits for one: they interrupt, but nothing that must not end half-way."""

from __future__ import annotations

import os
import signal

import pytest

from jet.server.lifecycle import GracefulShutdown
from jet.server.limits import AdmissionLimiter, Limits


@pytest.fixture
def shutdown() -> GracefulShutdown:
    return GracefulShutdown(AdmissionLimiter(Limits()))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_what_comes_before_the_server(
    shutdown: GracefulShutdown, number: signal.Signals
) -> None:
    with pytest.raises(KeyboardInterrupt), shutdown:
        os.kill(os.getpid(), number)
        pytest.fail("went on")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_end_of_what_holds_it(
    shutdown: GracefulShutdown, number: signal.Signals
) -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), shutdown:
        with shutdown.held():
            os.kill(os.getpid(), number)
            steps.append("opened")
        steps.append("went on")
    assert steps == ["opened"]


def test_what_fails_while_it_holds_a_signal_fails_as_it_is(shutdown: GracefulShutdown) -> None:
    with pytest.raises(OSError, match="no port"), shutdown, shutdown.held():
        os.kill(os.getpid(), signal.SIGTERM)
        raise OSError("no port")


def test_without_a_signal_nothing_is_raised_and_the_next_one_interrupts(shutdown: GracefulShutdown) -> None:
    with pytest.raises(KeyboardInterrupt), shutdown:
        with shutdown.held():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
