"""An engine without a model, for load tests.

It serves a fixed number of stories at once, and gives each of them words at a fixed rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from jet.api import EngineInfo, Request, RequestStats, TokenChunk
from jet.engine.stream import Channel, LocalStream
from jet.hardware import read_process_memory
from jet.telemetry import DecodeMeter

_TURN_S = 0.02


class _Job:
    def __init__(self, request: Request, alive: Callable[[], bool]) -> None:
        sampling = request.sampling.with_seed()
        self.wanted, self.seed = sampling.max_new_tokens, sampling.seed
        self.meter = DecodeMeter(time.monotonic())
        self.begun: float | None = None
        self.channel = Channel(TokenChunk("", (), RequestStats(seed=self.seed)), alive)

    def send(self, text: str, phase: str, reason: str | None = None, position: int = 0) -> None:
        stats = RequestStats(
            phase=phase,
            queue_position=position,
            tokens=self.meter.tokens,
            tokens_per_second=self.meter.tokens_per_second,
            mean_tokens_per_second=self.meter.mean_tokens_per_second,
            time_to_first_token_s=self.meter.time_to_first_token_s,
            finish_reason=reason,
            seed=self.seed,
        )
        self.channel.put(TokenChunk(text, (), stats))


class PacedEngine:
    """Implements `jet.api.Engine` without a model."""

    ready = True
    progress: str | None = None
    alive = True

    def __init__(self, tokens_per_second: float = 30.0, places: int = 64) -> None:
        self._speed = tokens_per_second
        self._places = places
        self._jobs: list[_Job] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def engine(self) -> PacedEngine:
        """Return this engine, which is its own handle."""
        return self

    def submit(self, request: Request) -> LocalStream:
        """Queue a request."""
        job = _Job(request, self._thread.is_alive)
        with self._lock:
            self._jobs.append(job)
        return LocalStream(job.channel)

    def info(self) -> EngineInfo:
        """Return the engine's description."""
        active = min(self._places, len(self._jobs))
        return EngineInfo(
            model="paced",
            parameters=None,
            device="cpu",
            device_name="none",
            dtype=None,
            attention=None,
            kernels={},
            context=1_000_000,
            license="none",
            load_s=None,
            warmup_s=None,
            active_requests=active,
            queued_requests=len(self._jobs) - active,
            process_memory_bytes=read_process_memory().process_memory_bytes,
        )

    def count_tokens(self, text: str) -> int:
        """Count words instead of tokens."""
        return text.count(" ") + 1

    def count_prompt(self, request: Request) -> int:
        """Count words instead of tokens."""
        return self.count_tokens(request.prompt)

    def normalize_prompt(self, prompt: str) -> str:
        """Return the text unchanged."""
        return prompt

    def close(self, reason: str = "") -> None:
        """Stop the thread."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(_TURN_S):
            with self._lock:
                self._jobs = [job for job in self._jobs if not job.channel.aborted and not job.channel.ended]
                jobs = list(self._jobs)
            now = time.monotonic()
            for job in jobs[: self._places]:
                self._write(job, now)

    def _write(self, job: _Job, now: float) -> None:
        if job.begun is None:
            job.begun = now
        due = min(job.wanted, int((now - job.begun) * self._speed) + 1)
        new = due - job.meter.tokens
        for _ in range(new):
            job.meter.tick(now)
        if new:
            job.send(" word" * new, "decode", "length" if due == job.wanted else None)
