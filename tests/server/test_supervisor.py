"""Test that processes are kept running, restarted with growing pauses, given up, and ended in order."""

from __future__ import annotations

import asyncio
import http.server
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from jet.server.supervisor import Policy, ProcessSpec, Supervised

QUICK = Policy(first_pause_s=0.02, longest_pause_s=0.05, failures=4, check_s=0.02, hung_s=0.2, grace_s=2.0)
PATIENCE_S = 30.0


def sh(script: str, health: str | None = None, **more: bool) -> ProcessSpec:
    return ProcessSpec("one", ("/bin/sh", "-c", script), health, **more)


def play(act: Callable[[list[str]], Awaitable[None]]) -> list[str]:
    """Run a test on an event loop; return the supervisor's messages."""
    said: list[str] = []
    asyncio.run(asyncio.wait_for(act(said), PATIENCE_S))
    return said


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


@pytest.fixture
def health() -> Iterator[tuple[str, list[int]]]:
    """Yield a URL, and a list whose only entry is the status with which it answers."""
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/health", status
    server.shutdown()
    server.server_close()


def test_what_dies_is_started_again_and_given_up_in_the_end(tmp_path: Path) -> None:
    starts = tmp_path / "starts"

    async def act(said: list[str]) -> None:
        one = Supervised(sh(f"echo x >> {starts}; echo a line; exit 7"), said.append, QUICK)
        await one.ended()
        assert one.code == 7 and not one.healthy.is_set()

    said = play(act)
    assert starts.read_text() == "x\n" * QUICK.failures
    assert said.count("[one] a line") == QUICK.failures
    pauses = [line for line in said if "started again in" in line]
    assert [line.split()[-2] for line in pauses] == ["0.02", "0.04", "0.05"]
    assert "4 times in a row" in said[-1]


def test_a_process_that_refuses_its_options_is_not_tried_again() -> None:
    async def act(said: list[str]) -> None:
        one = Supervised(sh("echo Error: no such model; exit 2", "http://127.0.0.1:9/"), said.append, QUICK)
        await one.ended()
        assert one.code == 2 and not await one.usable()

    said = play(act)
    assert said[0] == "[one] Error: no such model" and "is not started again" in said[1] and len(said) == 2


def test_a_program_that_is_not_there_is_said_so() -> None:
    async def act(said: list[str]) -> None:
        one = Supervised(ProcessSpec("one", ("/no/such/program",)), said.append, QUICK)
        await one.ended()

    assert "one cannot be started: No such file" in play(act)[0]


def test_a_killed_process_comes_back_and_counts_anew_once_it_was_stable(
    health: tuple[str, list[int]],
) -> None:
    policy = Policy(first_pause_s=0.01, failures=2, check_s=0.01, stable_s=0.05, grace_s=0.4)

    async def act(said: list[str]) -> None:
        one = Supervised(sh("exec sleep 60", health[0]), said.append, policy)
        for _ in range(4):
            assert await one.usable()
            await asyncio.sleep(0.1)
            assert one._process is not None
            os.kill(one._process.pid, signal.SIGKILL)
            await until(lambda: not one.healthy.is_set())
        assert await one.usable() and one.code is None
        await one.stop()

    said = play(act)
    assert len(said) == 4 and all("killed by SIGKILL" in line and "in 0.01 s" in line for line in said)


def test_a_process_that_hangs_is_killed_and_started_again(health: tuple[str, list[int]]) -> None:
    url, status = health

    async def act(said: list[str]) -> None:
        one = Supervised(sh("exec sleep 60", url), said.append, QUICK)
        assert await one.usable()
        status[0] = 503
        await until(lambda: any("it is killed" in line for line in said))
        status[0] = 200
        await until(lambda: any("started again" in line for line in said))
        assert await one.usable()
        await one.stop()

    play(act)


def test_a_process_that_was_never_healthy_has_all_the_time(health: tuple[str, list[int]]) -> None:
    url, status = health
    status[0] = 503

    async def act(said: list[str]) -> None:
        one = Supervised(sh("exec sleep 60", url), said.append, QUICK)
        await asyncio.sleep(3 * QUICK.hung_s)
        assert not said and not one.healthy.is_set()
        await one.stop()

    play(act)


def test_the_end_is_asked_for_before_it_is_forced(tmp_path: Path) -> None:
    polite, deaf = tmp_path / "polite", tmp_path / "deaf"

    async def act(said: list[str]) -> None:
        ready = "touch {0}; while true; do sleep 0.02; done"
        one = Supervised(
            sh(f"trap 'echo ended; exit 0' TERM; {ready.format(polite)}", quiet_end=False), said.append, QUICK
        )
        two = Supervised(sh(f"trap '' TERM; {ready.format(deaf)}"), said.append, QUICK)
        await until(lambda: polite.exists() and deaf.exists())
        assert await one.usable() and await two.usable()
        await asyncio.gather(one.stop(), two.stop())
        assert one.code is None and two.code is None
        await one.stop()

    assert sorted(play(act)) == ["[one] ended", "one does not end: it is killed."]


def test_lines_come_without_colors_and_huge_ones_do_no_harm() -> None:
    async def act(said: list[str]) -> None:
        script = r"printf '\033[31mred\033[0m\n'; head -c 3000000 /dev/zero; echo; echo after; exit 2"
        one = Supervised(sh(script), said.append, QUICK)
        await until(lambda: "[one] after" in said)
        await one.stop()

    said = play(act)
    assert said[0] == "[one] red" and max(map(len, said)) < 2_000_000
