"""Supervise processes: restart those that end, after growing pauses, and end all in order.

start ─ wait until healthy ─ (dies, or hangs and is killed) ─ pause 1, 2, 4 … s ─ start
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from jet.timeouts import within

REFUSED = 2  # exit code of a process that cannot run as it was started: it has said why
_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_LINE_BYTES = 1 << 20  # of a line that is passed on


@dataclass(frozen=True)
class Policy:
    """The rules by which a process is restarted or given up; all times are in seconds.

    Attributes:
        first_pause_s: pause before the first restart; doubled before each further one.
        longest_pause_s: upper bound of the pause.
        failures: number of consecutive failures after which a process is given up.
        stable_s: if a process ran for this long after it became healthy, the count of failures starts again.
        check_s: pause between two health checks.
        timeout_s: timeout of a health check.
        hung_s: a process that was healthy is killed and restarted if its checks then fail for this long.
        grace_s: time from SIGTERM to SIGKILL, a little more than running stories may take to end.
    """

    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    failures: int = 8
    stable_s: float = 60.0
    check_s: float = 1.0
    timeout_s: float = 5.0
    hung_s: float = 30.0
    grace_s: float = 36.0


@dataclass(frozen=True)
class ProcessSpec:
    """A process to keep running.

    Attributes:
        name: its name in messages.
        command: program and arguments.
        health: a URL that answers 200 while the process can be used; None if it is healthy whenever it runs.
        restart_hung: whether to kill and restart the process if it stays unhealthy after having been healthy.
        quiet_end: whether to drop its output while it ends.
        environment: all of its environment variables; not in the repr, since some are secret.
    """

    name: str
    command: tuple[str, ...]
    health: str | None = None
    restart_hung: bool = True
    quiet_end: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)


class Supervised:
    """Keeps one process running. Used on one event loop.

    Attributes:
        healthy: set while the process answers its health checks.
        code: the last exit code, once the process has been given up; None before.
    """

    def __init__(self, spec: ProcessSpec, say: Callable[[str], None], policy: Policy | None = None) -> None:
        """Start to supervise a process.

        `say` is called with lines to show: the process's output and messages about it.
        """
        self.spec = spec
        self.healthy = asyncio.Event()
        self.code: int | None = None
        self._say, self._policy = say, policy or Policy()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._given_up = asyncio.Event()
        self._was_healthy = False  # since its last start
        self._stable_since = time.monotonic()
        self._task = asyncio.create_task(self._run())

    async def usable(self) -> bool:
        """Wait until the process is healthy; return False if it was given up or stopped first."""
        await first_of(self.healthy.wait(), self._given_up.wait())
        return self.healthy.is_set()

    async def ended(self) -> None:
        """Wait until the process is given up or stopped."""
        await self._given_up.wait()

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL after the grace time. Safe to call twice."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await within(self._policy.grace_s, process.wait())
            except asyncio.TimeoutError:
                self._say(f"{self.spec.name} does not end: it is killed.")
        await self.kill()
        await self._task

    async def kill(self) -> None:
        """Kill the process at once."""
        self._stopping.set()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _run(self) -> None:
        """Start the process again and again until it is stopped or given up."""
        policy, failures = self._policy, 0
        while not self._stopping.is_set():
            code, was_healthy = await self._run_once()
            if self._stopping.is_set():
                break
            if was_healthy and time.monotonic() - self._stable_since >= policy.stable_s:
                failures = 0
            failures += 1
            refused = code == REFUSED and not was_healthy
            if refused or failures >= policy.failures:
                why = "" if refused else f" {failures} times in a row"
                self._say(f"{self.spec.name} failed{why} and is not started again (exit code {code}).")
                self.code = code
                break
            pause = min(policy.longest_pause_s, policy.first_pause_s * 2 ** (failures - 1))
            self._say(f"{self.spec.name} has ended ({_cause(code)}). It is started again in {pause:g} s.")
            with suppress(asyncio.TimeoutError):
                await within(pause, self._stopping.wait())
        self._given_up.set()

    async def _run_once(self) -> tuple[int, bool]:
        """Run the process to its end; return its exit code, and whether it was ever healthy."""
        self._was_healthy = False
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *self.spec.command,
                env=dict(self.spec.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LINE_BYTES,
                start_new_session=True,  # Ctrl+C is for the supervisor, which ends them in order
                preexec_fn=_end_with_parent,
            )
        except OSError as error:
            self._say(f"{self.spec.name} cannot be started: {error.strerror or error}.")
            return 1, False
        if self._stopping.is_set():
            process.kill()
        passing = asyncio.create_task(self._pass_on(process))
        watching = asyncio.create_task(self._watch(process))
        try:
            code = await process.wait()
        finally:
            watching.cancel()
            self.healthy.clear()
        await asyncio.gather(watching, return_exceptions=True)
        await passing
        return code, self._was_healthy

    async def _pass_on(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line beyond the limit is left out
                continue
            if not line:
                return
            if not (self._stopping.is_set() and self.spec.quiet_end):
                text = _COLORS.sub("", line.decode("utf-8", "replace")).rstrip()
                self._say(f"[{self.spec.name}] {text}")

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Update `healthy` by health checks.

        Kill the process if it stays unhealthy after having been healthy.
        """
        policy, seen = self._policy, time.monotonic()
        # Without keep-alive: an open connection would keep a server from ending.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(trust_env=False, timeout=policy.timeout_s, limits=limits) as client:
            while True:
                if await self._is_healthy(client):
                    if not self._was_healthy:
                        self._was_healthy, self._stable_since = True, time.monotonic()
                    seen = time.monotonic()
                    self.healthy.set()
                else:
                    self.healthy.clear()
                    hung = self._was_healthy and time.monotonic() - seen > policy.hung_s
                    if hung and self.spec.restart_hung and not self._stopping.is_set():
                        self._say(f"{self.spec.name} has not answered for {policy.hung_s:g} s: it is killed.")
                        with suppress(ProcessLookupError):
                            process.kill()
                        return
                await asyncio.sleep(policy.check_s)

    async def _is_healthy(self, client: httpx.AsyncClient) -> bool:
        if self.spec.health is None:
            return True
        try:
            return (await client.get(self.spec.health)).status_code == 200
        except httpx.HTTPError:
            return False


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of several coroutines has ended; cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stop_all(processes: Sequence[Supervised]) -> None:
    """End several processes at the same time."""
    await asyncio.gather(*(process.stop() for process in processes))


class Signals:
    """Context manager for SIGTERM and SIGINT: the first signal sets `end`, a second one sets `force`."""

    def __init__(self) -> None:
        self.end, self.force = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.end.is_set():
            self.force.set()
        self.end.set()


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Make the kernel send SIGTERM to this new process when its parent ends, even by SIGKILL. Linux only."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
