"""Write continuations through the engine, many at once, with prompts as the page builds them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from jet.api import Engine, Request, SamplingParams
from jet.evaluate.compression import EvaluationError
from jet.evaluate.text import first_words, words
from jet.story.building import build_prompt, guided
from jet.story.context import ContextBuilder
from jet.story.guidance import Guidance

AT_ONCE = 16  # where the engine does not say how many requests it serves at once
TOKENS_PER_WORD = 3  # more than a tokenizer takes for English; a story is stopped when it has its words
_INTERVAL_S = 0.2  # how often a story's words are counted


@dataclass(frozen=True)
class Task:
    """A continuation to write: of a text, with guidance, as often as there are seeds elsewhere.

    Attributes:
        opening: the text to continue, taken as typed by a person.
        seed: of the sampling.
        words: where the continuation is cut; it may end sooner.
        guidance: what the page's World would have.
        sampling: settings; length and seed are the task's.
    """

    opening: str
    seed: int
    words: int
    guidance: Guidance = field(default_factory=Guidance)
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True)
class Continuation:
    """A continuation, and whether the model ended the story in it."""

    text: str
    ended: bool


class Writer:
    """Writes tasks with one engine."""

    def __init__(self, engine: Engine, at_once: int | None = None) -> None:
        """`at_once`: stories written at the same time; by default as many as the engine serves."""
        self._engine = engine
        self._at_once = at_once or engine.info().max_running_requests or AT_ONCE
        self._builder = ContextBuilder(engine.count_tokens)
        self._building = threading.Lock()
        self._written: dict[Task, Continuation] = {}

    def write(self, tasks: Sequence[Task], label: str = "stories") -> dict[Task, Continuation]:
        """Return the continuation of each task. Raises EvaluationError.

        Equal tasks are written once, also those of earlier calls: stories with nothing told serve as control.
        """
        wanted = [task for task in dict.fromkeys(tasks) if task not in self._written]
        with (
            ThreadPoolExecutor(min(self._at_once, len(wanted) or 1)) as pool,
            tqdm(total=len(wanted), desc=label, unit="story", disable=None, leave=False) as bar,
        ):

            def write(task: Task) -> Continuation:
                try:
                    return self._write(task)
                finally:
                    bar.update()

            self._written |= zip(wanted, pool.map(write, wanted), strict=True)
        return {task: self._written[task] for task in tasks}

    def _write(self, task: Task) -> Continuation:
        sampling = replace(task.sampling, seed=task.seed, max_new_tokens=task.words * TOKENS_PER_WORD)
        request = Request(task.opening, sampling, healing=bool(task.opening))
        with self._building:
            prompt = build_prompt(self._builder, self._engine, request, task.guidance)
        if prompt.omitted:
            left_out = ", ".join(one.title for one in prompt.omitted)
            raise EvaluationError(f"The context of this model is too small: {left_out} did not fit.")
        return self._read(guided(request, prompt), task.words)

    def _read(self, request: Request, most: int) -> Continuation:
        """Read a stream until it ends, or has more words than are wanted."""
        stream = self._engine.submit(request)
        text, reason = "", None
        with closing(stream.chunks(_INTERVAL_S)) as chunks:  # type: ignore[type-var]
            for chunk in chunks:
                text += chunk.text
                reason = chunk.stats.finish_reason
                if chunk.stats.error is not None:
                    raise EvaluationError(f"A story could not be written: {chunk.stats.error}")
                if reason is None and len(words(text)) > most:
                    stream.abort()
                    break
        return Continuation(first_words(text, most), reason == "stop" and len(words(text)) <= most)
