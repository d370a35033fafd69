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
    """A continuation to generate, with one seed.

    Attributes:
        opening: the text to continue, with token healing as for typed text.
        seed: the seed of the sampling.
        words: the number of words after which the continuation is cut; it may end sooner.
        guidance: the guidance, as in the page's World.
        sampling: the sampling parameters, except length and seed.
    """

    opening: str
    seed: int
    words: int
    guidance: Guidance = field(default_factory=Guidance)
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True)
class Continuation:
    """A generated continuation; `ended`: whether the model ended the story within the wanted words."""

    text: str
    ended: bool


class Writer:
    """Generates the continuations of tasks with one engine, several at the same time."""

    def __init__(self, engine: Engine, at_once: int | None = None) -> None:
        """Create a writer that generates `at_once` stories at the same time.

        `at_once`: None for as many as the engine serves at once.
        """
        self._engine = engine
        self._at_once = at_once or engine.info().max_running_requests or AT_ONCE
        self._builder = ContextBuilder(engine.count_tokens)
        self._building = threading.Lock()
        self._written: dict[Task, Continuation] = {}

    def write(self, tasks: Sequence[Task], label: str = "stories") -> dict[Task, Continuation]:
        """Return the continuation of each task.

        Equal tasks are generated once, also over several calls, such as stories of control groups. `label` is
        shown at the progress bar. Raises EvaluationError if the context is too small or the engine fails.
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
        """Read the stream of a request until it ends or has more than `most` words.

        The text is cut to the first `most` words.
        """
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
