"""Make the performance report in a separate process while the page goes on serving.

The report waits until no story is running. Stories that start later disturb its measurements; the report's
figures of load and spread show this. One report is made at a time, and all visitors watch the same one.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from jet.api import EngineInfo
from jet.engine.holder import EngineHandle
from jet.timeouts import within

POLL_S = 0.5
FILES = {"html": "text/html", "md": "text/markdown", "json": "application/json"}
_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_STOP_TIMEOUT_S = 20.0  # for what is being measured to end after a stop


@dataclass(frozen=True)
class ReportState:
    """State of a report.

    Attributes:
        phase: idle · loading · waiting · measuring · done · failed.
        part: the part being measured.
        done, total: the number of measured parts, and of all parts.
        message: the verdict, or the reason for the failure.
        files: the report by file extension, once it is done.
    """

    phase: str = "idle"
    part: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    files: dict[str, str] | None = None

    @property
    def running(self) -> bool:
        """Return whether the report is being made."""
        return self.phase in ("loading", "waiting", "measuring")


class Reporter:
    """Makes reports. Used on the server's event loop only.

    Attributes:
        state: the state of the current or latest report.
    """

    def __init__(self, source: EngineHandle) -> None:
        self.state = ReportState()
        self._source = source
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._stopped = False
        # What an interrupted report has measured lies here for the next one.
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def watch(self) -> AsyncGenerator[ReportState, None]:
        """Start a report unless one is running. Yields the report's state until it has ended."""
        if self._task is None or self._task.done():
            self._stopped, self.state = False, ReportState("loading")
            self._task = asyncio.create_task(self._run())
        task = self._task
        while not task.done():
            yield self.state
            await asyncio.wait({task}, timeout=POLL_S)
        yield self.state

    def stop(self) -> None:
        """Stop the report. Its measurements so far become the report."""
        if self._stopped:
            return  # a second signal would interrupt saving the report
        self._stopped = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGINT)

    async def _run(self) -> None:
        try:
            engine = await asyncio.to_thread(self._source.engine)
            info = await asyncio.to_thread(engine.info)
            if info.bandwidth is None:
                self._fail("The model does not run on this machine. Run `make report` where it does.")
                return
            self.state = ReportState("waiting")
            while (info.active_requests or info.queued_requests) and not self._stopped:
                await asyncio.sleep(POLL_S)
                info = await asyncio.to_thread(engine.info)
            if self._stopped:
                self.state = ReportState()
                return
            await self._measure(info)
        except Exception as error:  # every visitor sees it
            self._fail(str(error) or type(error).__name__)

    async def _measure(self, info: EngineInfo) -> None:
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="jet-report-")
        folder = Path(self._folder.name)
        self.state = ReportState("measuring")
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments(info, folder), stdout=PIPE, stderr=PIPE, env=_environment()
        )
        atexit.register(_kill, process)
        try:
            errors = asyncio.create_task(_read(process.stderr))
            assert process.stdout is not None
            async for line in process.stdout:
                self._record_progress(line)
            code = await within(_STOP_TIMEOUT_S, process.wait())
        finally:
            _kill(process)
            atexit.unregister(_kill)
        if code not in (0, 130):
            self._fail((await errors).strip().rpartition("\n")[2] or f"It ended with code {code}.")
            return
        files = {ending: (folder / f"report.{ending}").read_text(encoding="utf-8") for ending in FILES}
        self.state = replace(self.state, phase="done", files=files)

    def _record_progress(self, line: bytes) -> None:
        """Update the state from a line of the process: a part that starts, or the verdict."""
        with suppress(ValueError):
            progress = json.loads(line)
            if isinstance(progress, dict):
                fields = {
                    name: progress[name] for name in ("part", "done", "total", "message") if name in progress
                }
                self.state = replace(self.state, **fields)

    def _fail(self, why: str) -> None:
        self.state = ReportState("failed", message=why)


def arguments(info: EngineInfo, folder: Path) -> list[str]:
    """Return Python's arguments for a report on the running model, its device and dtype."""
    options = {
        "model": info.model,
        "device": info.device,
        "dtype": info.dtype or "auto",
        "output": str(folder),
    }
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["-m", "jet.report", "--quick", "--progress", *given]


def _environment() -> dict[str, str]:
    """Return the environment of the process, with this program on Python's path."""
    path = os.pathsep.join(filter(None, [str(_PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


async def _read(stream: asyncio.StreamReader | None) -> str:
    return "" if stream is None else (await stream.read()).decode("utf-8", "replace")


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
