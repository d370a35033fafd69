"""Test the shipped model on prompts that end within a token: it goes on as well as from a word's end."""

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

from jet.api import Request, SamplingParams
from jet.engine.engine import LocalEngine
from jet.engine.loading import LocalConfig
from jet.engine.model_runner import ModelRunner
from jet.engine.text.tokenizer import StoryTokenizer

OPENINGS = [one["text"] for one in json.loads(Path("assets/prompts.json").read_text())]
SAMPLING = SamplingParams(max_new_tokens=7, seed=0)
BEHIND = ["\t", "\N{NO-BREAK SPACE}", "  ", "   ", " \t", "\N{NO-BREAK SPACE} ", "\u2009", "\u3000"]
WORD = re.compile(r"\s*\S+")
NEAR = 1.0  # of the median of openings as they are


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    engine = LocalConfig(model="assets/story-model", device="cpu").create()
    yield engine
    engine.close()


def write(engine: LocalEngine, prompt: str, sampling: SamplingParams = SAMPLING, healing: bool = True) -> str:
    chunks = list(engine.submit(Request(prompt, sampling, healing=healing)))
    assert chunks[-1].stats.error is None
    return "".join(chunk.text for chunk in chunks)


@torch.inference_mode()
def logprob_of_next_word(engine: LocalEngine, prompt: str, answer: str) -> float | None:
    """Return the log-probability of the answer's next word, as the network reads the whole text.

    After half a word, the next word is the one after the completed word. Returns None if no word follows.
    """
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
    """Return the median log-probability of the next word over all prompts and seeds.

    No two prompts share a seed, so that no single lucky draw counts for all of them.
    """
    found = [
        logprob_of_next_word(
            engine,
            engine.normalize_prompt(prompt) if healing else prompt,
            write(engine, prompt, replace(SAMPLING, seed=seed * len(prompts) + number), healing),
        )
        for number, prompt in enumerate(prompts)
        for seed in seeds
    ]
    return median(one for one in found if one is not None)


def cut(opening: str, number: int) -> str:
    """Cut an opening `number` characters behind a word at two thirds of its words.

    With 0 it ends with this word, with 1 behind the blank, and with more inside the next word.
    """
    ends = [found.end() for found in re.finditer(r"\w+", opening)]
    return opening[: ends[len(ends) * 2 // 3] + number]


@pytest.fixture(scope="module")
def uncut(engine: LocalEngine) -> float:
    return typical(engine, OPENINGS, range(2))


def test_the_next_word_is_as_likely_behind_a_blank(engine: LocalEngine, uncut: float) -> None:
    assert typical(engine, [opening + " " for opening in OPENINGS], range(2)) >= uncut - NEAR


@pytest.mark.parametrize("behind", BEHIND)
def test_all_blanks_are_as_good_as_one(engine: LocalEngine, behind: str) -> None:
    assert {engine.normalize_prompt(opening + behind) for opening in OPENINGS} == {
        one + " " for one in OPENINGS
    }
    assert write(engine, OPENINGS[0] + behind) == write(engine, OPENINGS[0] + " ")


@pytest.mark.parametrize("number", [1, 2])
def test_the_next_word_is_as_likely_behind_half_a_word(
    engine: LocalEngine, uncut: float, number: int
) -> None:
    assert typical(engine, [cut(opening, number) for opening in OPENINGS], range(1)) >= uncut - NEAR


@pytest.mark.thorough
@pytest.mark.parametrize("number", [-3, -2, -1, 0, 1, 2, 3])
def test_the_next_word_is_as_likely_at_every_cut(engine: LocalEngine, uncut: float, number: int) -> None:
    prompts = [opening[:number] if number < 0 else cut(opening, number) for opening in OPENINGS]
    assert typical(engine, prompts, range(2)) >= uncut - NEAR


@pytest.mark.parametrize(
    ("beginning", "word"),
    [
        ("The old lighth", "lighthouse"),
        ("Along the coast stood a lonely lighth", "lighthouse"),
        ("They sailed for weeks across the stormy oc", "ocean"),
        ("He looked up at the moo", "moon"),
        ("Once upon a ti", "time"),
        ("The drag", "dragon"),
        ("The old lighthouse keep", "keeper"),
    ],
)
def test_half_a_word_becomes_the_word(engine: LocalEngine, beginning: str, word: str) -> None:
    """Check that most answers complete the word, over five seeds and the likeliest answer."""
    half = beginning.split()[-1]
    answers = [write(engine, beginning, replace(SAMPLING, seed=seed, max_new_tokens=2)) for seed in range(5)]
    likeliest = write(engine, beginning, replace(SAMPLING, temperature=0, repetition_penalty=1.0))
    assert sum((half + answer).startswith(word) for answer in [*answers, likeliest]) >= 4


def test_a_final_space_changes_nothing(engine: LocalEngine) -> None:
    """Compare the first words of several seeds with those of the beginning without the space."""
    beginning = "The old lighthouse keeper opened the door and"
    first = [
        {write(engine, prompt, replace(SAMPLING, seed=seed)).split()[0] for seed in range(12)}
        for prompt in (beginning, beginning + " ")
    ]
    assert len(first[0] & first[1]) >= min(map(len, first)) // 2
