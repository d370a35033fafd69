"""A runner of known speed on a fake clock: measurements must give that speed."""

from __future__ import annotations

from jet.bench.networks import IdTokenizer
from jet.engine.engine import EngineOptions, LocalEngine
from tests.engine.fakes import INFO


class SteadyRunner:
    """A runner that takes fixed times for every prompt token and every decoded token."""

    def __init__(self, step_s: float = 1 / 64, prompt_s: float = 1 / 1024) -> None:
        self._step_s = step_s
        self._prompt_s = prompt_s
        self.now = 0.0
        self.pieces: list[int] = []
        self.released = 0

    def clock(self) -> float:
        return self.now

    def allocate(self, *request: object) -> object:
        return object()

    def capture_next(self) -> bool:
        return False

    def restore_prefix(self, handle: object, prompt: object) -> int:
        return 0

    def prefill(self, handle: object, tokens: list[int]) -> None:
        self.pieces.append(len(tokens))
        self.now += len(tokens) * self._prompt_s

    def synchronize(self, blocking: bool) -> bool:
        return True

    def decode(self, handles: list[object]) -> list[int]:
        return [self.step(handle) for handle in handles]

    def reset(self, handle: object) -> None:
        raise AssertionError("nothing here fails")

    def step(self, handle: object) -> int:
        self.now += self._step_s
        return 7

    def logprobs(self, handle: object) -> None:
        return None

    def state_bytes(self, handle: object) -> dict[str, int]:
        return {"recurrent": 1, "conv": 2, "window_kv": 3, "full_kv": 4}

    def free(self, handle: object, keep_snapshot: bool = True) -> None:
        self.released += 1

    def close(self) -> None:
        pass


def engine_on(runner: SteadyRunner) -> LocalEngine:
    return LocalEngine(runner, IdTokenizer(), INFO, EngineOptions(), clock=runner.clock)
