"""The performance report, made by a process of its own while the page goes on serving.

It waits until nobody's story is being written. Stories that begin later are written as ever; they cost the
report some of its quiet, which its figures of load and spread show. One report is made at a time, and whoever
looks sees the same one.
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

POLL_S = 0.5
FILES = {"html": "text/html", "md": "text/markdown", "json": "application/json"}
_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_STOP_TIMEOUT_S = 20.0  # for what is being measured to end after a stop


@dataclass(frozen=True)
class ReportState:
    """How a report stands.

    Attributes:
        phase: idle · loading · waiting · measuring · done · failed.
        part: what is being measured.
        done, total: how many parts are, of how many.
        message: the verdict, or why there is no report.
        files: the report by ending, once there is one.
    """

    phase: str = "idle"
    part: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    files: dict[str, str] | None = None

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self.phase in ("loading", "waiting", "measuring")


class Reporter:
    """Makes reports. Used on the server's event loop only.

    Attributes:
        state: of the report under way, or the last one.
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
        """Begin a report if none is being made, and say how it stands until it has ended."""
        if self._task is None or self._task.done():
            self._stopped, self.state = False, ReportState("loading")
            self._task = asyncio.create_task(self._run())
        task = self._task
        while not task.done():
            yield self.state
            await asyncio.wait({task}, timeout=POLL_S)
        yield self.state

    def stop(self) -> None:
        """End the report under way. What it has measured by now becomes the report."""
        if self._stopped:
            return  # a second signal would cut short the writing of what there is
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
        except Exception as error:  # whatever it is, whoever looks is told
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
            code = await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
        finally:
            _kill(process)
            atexit.unregister(_kill)
        if code not in (0, 130):
            self._fail((await errors).strip().rpartition("\n")[2] or f"It ended with code {code}.")
            return
        files = {ending: (folder / f"report.{ending}").read_text(encoding="utf-8") for ending in FILES}
        self.state = replace(self.state, phase="done", files=files)

    def _record_progress(self, line: bytes) -> None:
        """A line of the process: a part begins, or the verdict."""
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
    """Python's, for a report on the model that runs here, on its device and in its type."""
    options = {
        "model": info.model,
        "device": info.device,
        "dtype": info.dtype or "auto",
        "output": str(folder),
    }
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["-m", "jet.report", "--quick", "--progress", *given]


def _environment() -> dict[str, str]:
    """This process's, with this program where Python looks for it."""
    path = os.pathsep.join(filter(None, [str(_PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


async def _read(stream: asyncio.StreamReader | None) -> str:
    return "" if stream is None else (await stream.read()).decode("utf-8", "replace")


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
