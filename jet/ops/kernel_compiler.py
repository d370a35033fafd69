"""KernelCompiler: compiles many Triton kernels at once, in separate processes.

Compiled kernels go to Triton's cache on disk, which the launching process reads. If a process fails, its
kernels are compiled at their first launch instead.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING

from jet.ops.gpu_target import GpuTarget

if TYPE_CHECKING:
    from jet.ops.triton.compile_jobs import CompileJob

log = logging.getLogger(__name__)
MOST_WORKERS = 16
# Without the package's own imports, which bring transformers; arguments: the package's folder, niceness.
PROGRAM = """
import sys, types
package = types.ModuleType("jet")
package.__path__ = [sys.argv[1]]
sys.modules["jet"] = package
from jet.ops.triton.compile_worker import main
main(int(sys.argv[2]))
"""
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass
class Compilation:
    """The result of compiling jobs.

    Attributes:
        compiled: the number of kernels that were compiled.
        found: the number of kernels that were in the cache already.
        folders: names of the cache's folders that launches of the kernels read.
        errors: one line for each job that failed.
    """

    compiled: int = 0
    found: int = 0
    folders: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class KernelCompiler:
    """Starts compiling at once; `wait` returns the result."""

    def __init__(
        self,
        jobs: Sequence[CompileJob],
        target: GpuTarget,
        workers: int | None = None,
        nice: int = 0,
    ) -> None:
        """Start compiling `jobs` for a target in several processes.

        Args:
            jobs: the kernels, started in this order, so the slowest should come first.
            target: the GPU.
            workers: the most processes, by default 16; there are never more than CPUs.
            nice: the number to add to the processes' niceness.
        """
        self.result = Compilation()
        self._target, self._nice = target, nice
        self._jobs: SimpleQueue[CompileJob | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._closed = False
        self._left = 1 + len(jobs)
        self._jobs.put(None)  # what Triton's driver loads
        for job in jobs:
            self._jobs.put(job)
        most = min(workers or MOST_WORKERS, _processors(), self._left)
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(most)]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float | None = None) -> Compilation:
        """Wait until all jobs are done, or no process is left to do them; return the result so far.

        `timeout_s`: the most seconds to wait for each process; None for no limit.
        """
        for thread in self._threads:
            thread.join(timeout_s)
        with self._lock:
            if self._left and not self._closed:
                self.result.errors.append(f"{self._left} kernels were left to be compiled later.")
        return self.result

    def close(self) -> None:
        """Stop compiling, by killing the processes."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()

    def _serve(self) -> None:
        """Start one process and feed it jobs until none are left."""
        try:
            with self._lock:
                if self._closed:
                    return
                process = self._spawn()
                self._processes.append(process)
        except OSError as error:
            self._note_error(f"No process could be started: {error}")
            return
        assert process.stdin is not None and process.stdout is not None
        with process:
            try:
                self._feed(process.stdin, process.stdout)
            except (OSError, ValueError) as error:
                self._note_error(f"A compiling process ended: {error}")
            finally:
                process.kill()

    def _spawn(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(_PACKAGE), str(self._nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )

    def _feed(self, jobs: IO[str], answers: IO[str]) -> None:
        target = self._target
        print(json.dumps([target.capability, target.processors, target.shared_memory]), file=jobs, flush=True)
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            print(json.dumps(job), file=jobs, flush=True)
            answer = json.loads(answers.readline())
            self._note(job, answer)

    def _note(self, job: CompileJob | None, answer: dict[str, object]) -> None:
        with self._lock:
            self._left -= 1
            if "error" in answer:
                name = "the driver's utilities" if job is None else job.name
                self.result.errors.append(f"{name}: {answer['error']}")
                return
            folders = answer["folders"]
            assert isinstance(folders, list)
            self.result.folders += folders
            if job is not None:
                self.result.compiled += bool(answer["compiled"])
                self.result.found += not answer["compiled"]

    def _note_error(self, error: str) -> None:
        with self._lock:
            if not self._closed:
                self.result.errors.append(error)


def _processors() -> int:
    count = getattr(os, "process_cpu_count", None)
    if count is not None:
        return int(count() or 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
