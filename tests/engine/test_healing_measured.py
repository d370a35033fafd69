"""The shipped model at borders that are none of its tokens: it goes on as well as from the end of a word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch

from jet.engine.engine import LocalEngine
from jet.engine.loading import ModelChoice
from jet.engine.runner import ModelRunner
from jet.engine.tokenizer import StoryTokenizer
from jet.engine.types import Request, SamplingParams

OPENINGS = [one["text"] for one in json.loads(Path("assets/prompts.json").read_text())]
SAMPLING = SamplingParams(max_new_tokens=7)
BEHIND = ["", " ", "\t", "\N{NO-BREAK SPACE}", "  ", "   ", " \t", "\N{NO-BREAK SPACE} ", "\u2009", "\u3000"]
WORD = re.compile(r"\s*\S+")
NEAR = 1.0  # of the median of openings as they are


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = ModelChoice(model="assets/story-model", device="cpu").build()
    yield engine
    engine.close()


def write(engine: LocalEngine, prompt: str, sampling: SamplingParams = SAMPLING, healing: bool = True) -> str:
    chunks = list(engine.submit(Request(prompt, sampling, healing=healing)))
    assert chunks[-1].stats.error is None
    return "".join(chunk.text for chunk in chunks)


@torch.inference_mode()
def logprob_of_next_word(engine: LocalEngine, prompt: str, answer: str) -> float | None:
    """As the network reads the whole text. Of a half word the rest comes first; None if no word follows."""
    whole, start = prompt + answer, len(prompt)
    if prompt[-1:].isalnum():
        start += len(re.match(r"[\w’']*", answer)[0])
    found = WORD.match(whole, start)
    if found is None:
        return None
    tokenizer, runner = engine._tokenizer, engine._runner
    assert isinstance(tokenizer, StoryTokenizer) and isinstance(runner, ModelRunner)
    before, behind = (tokenizer.encode(text, 4000) for text in (whole[:start], whole[: found.end()]))
    same = int(np.argmin(np.append(before, -1)[: len(behind)] == behind[: len(before) + 1]))
    logits = runner._model(input_ids=torch.from_numpy(behind.astype(np.int64))[None]).logits[0].double()
    logs = logits.log_softmax(-1)
    return sum(float(logs[place - 1, behind[place]]) for place in range(same, len(behind)))


def typical(engine: LocalEngine, prompts: list[str], seeds: range, healing: bool = True) -> float:
    """The median over prompts and seeds."""
    found = [
        logprob_of_next_word(
            engine,
            engine.as_read(prompt) if healing else prompt,
            write(engine, prompt, replace(SAMPLING, seed=seed), healing),
        )
        for prompt in prompts
        for seed in seeds
    ]
    return median(one for one in found if one is not None)
