"""Measure banned phrases: check that none appears and that streams only grow, and measure the cost.

    python -m scripts.measure_banned --each 200 --writers 1 4
    python -m scripts.measure_banned --model DIRECTORY --device cuda --dtype bfloat16 --writers 1 32

First, story beginnings cut at random places are continued freely. From these texts 40 phrases of one to six
words are banned; some begin alike or lie within others. Then the same seeds are run again, some with a stop
string that may split a banned word. The check uses its own simple rule: letters and digits only, apostrophes
removed, case ignored, whole words.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jet.api import Engine, Request, RequestStats, SamplingParams
from jet.engine.loading import LocalConfig
from jet.engine.stop_strings import StopMatcher

BLOCK = 4  # continuations timed together, or as many as are written at once
PHRASES = {1: 12, 2: 8, 3: 8, 4: 4, 5: 4, 6: 4}  # how many of how many words
_WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Case:
    """A beginning, its seed, and a stop string, which is empty if there is none."""

    prompt: str
    seed: int
    stop: str


def make_cases(count: int) -> list[Case]:
    """Return beginnings of all genres, half of them cut within a word."""
    prompts = Path(__file__).resolve().parents[1] / "assets" / "prompts.json"
    texts = [entry["text"] for entry in json.loads(prompts.read_text(encoding="utf-8"))]
    rng = random.Random(5)
    cases = []
    for seed in range(count):
        text = texts[seed % len(texts)]
        prompt = text[: rng.randrange(len(text) // 2, len(text))] if seed % 2 else text
        cases.append(Case(prompt, seed, ""))
    return cases


def choose_phrases(texts: Sequence[str]) -> list[str]:
    """Choose phrases from these texts; up to half of each length extend a phrase that is one word shorter."""
    rng = random.Random(7)
    found: list[str] = []
    for length, count in PHRASES.items():
        alike = [phrase for phrase in found if len(phrase.split()) == length - 1][: count // 2]
        for number in range(count):
            words: list[str] = []
            while len(words) != length or " ".join(words) in found or (length == 1 and len(words[0]) < 4):
                text = _WORDS.findall(rng.choice(texts).replace("’", "").replace("'", ""))
                at = rng.randrange(max(1, len(text) - length))
                words = text[at : at + length]
                if number < len(alike):
                    words = [*alike[number].split(), rng.choice(text)]
            found.append(" ".join(words))
    return found


def plain(text: str) -> str:
    """Return the words of a text in lower case, with single spaces between and around them."""
    words = _WORDS.findall(text.replace("’", "").replace("'", "").casefold())
    return f" {' '.join(words)} "


def write(
    engine: Engine, banned: Sequence[str], tokens: int, case: Case
) -> tuple[str, RequestStats, list[int]]:
    """Continue a beginning.

    Returns the text up to its stop string, the last statistics, and the drawn tokens.
    """
    sampling = SamplingParams(max_new_tokens=tokens, seed=case.seed)
    stops = (case.stop,) if case.stop else ()
    request = Request(case.prompt, sampling, healing=True, banned=tuple(banned), stop_strings=stops)
    text, ids, matcher = "", list[int](), StopMatcher(stops)
    for chunk in engine.submit(request):
        text += matcher.push(chunk.text, last=chunk.stats.finish_reason is not None)
        ids += chunk.token_ids
        stats = chunk.stats
    assert stats.error is None, stats.error
    return text, stats, ids


def check(case: Case, text: str, banned: Sequence[str]) -> list[str]:
    """Return the banned phrases that a continuation contains, also those that begin in its prompt."""
    before, whole = plain(case.prompt), plain(case.prompt + text)
    return [phrase for phrase in banned if whole.count(plain(phrase)) > before.count(plain(phrase))]


@dataclass
class Round:
    """Continuations, their number of tokens, and their seconds: CPU time, or wall time on a GPU."""

    stories: list[tuple[str, RequestStats, list[int]]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Return tokens per second."""
        return self.tokens / self.seconds

    def add_to(self, total: Round, reading: Round) -> float:
        """Add this round to `total`, without the prefill of its prompts.

        `reading` is a round that only read the same prompts. Returns the tokens per second without prefill.
        """
        rest = Round(self.stories, self.tokens - reading.tokens, self.seconds - reading.seconds)
        total.stories += rest.stories
        total.tokens += rest.tokens
        total.seconds += rest.seconds
        return rest.rate


def run(engine: Engine, banned: Sequence[str], tokens: int, cases: Sequence[Case], writers: int) -> Round:
    """Write continuations of at most `tokens` tokens, `writers` of them at once."""
    clock = time.process_time if engine.info().device == "cpu" else time.perf_counter
    started = clock()
    with ThreadPoolExecutor(writers) as pool:
        stories = list(pool.map(partial(write, engine, banned, tokens), cases))
    return Round(stories, sum(stats.tokens for _, stats, _ in stories), clock() - started)


def main(arguments: list[str] | None = None) -> None:
    """Write all continuations, judge them and print what banning costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="assets/story-model", help="directory of the model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--each", type=int, default=200, help="continuations")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of each")
    parser.add_argument("--writers", type=int, nargs="+", default=[1], help="continuations at once")
    options = parser.parse_args(arguments)
    engine = LocalConfig(
        model=options.model,
        device=options.device,
        dtype=options.dtype,
        max_running_requests=max(options.writers),
    ).create()
    cases = make_cases(options.each)
    freely = [write(engine, (), options.tokens, case) for case in cases]
    banned = choose_phrases([text for text, _, _ in freely])
    print(f"{len(banned)} phrases: {'; '.join(banned)}")
    rng = random.Random(9)
    cases = [
        Case(case.prompt, case.seed, rng.choice(banned).split()[-1][-2:] if case.seed % 4 == 0 else "")
        for case in cases
    ]
    tempted = sum(bool(check(case, text, banned)) for case, (text, _, _) in zip(cases, freely, strict=True))
    print(f"{tempted} of {len(cases)} continuations have one if none is banned")
    alone: list[tuple[str, list[int]]] | None = None
    for writers in options.writers:
        free, written = Round(), Round()
        losses = []
        for begin in range(0, len(cases), max(BLOCK, writers)):
            # A block without and one with banned phrases in turn: whatever else runs here slows both alike.
            some = cases[begin : begin + max(BLOCK, writers)]
            reading = run(engine, (), 1, some, writers)
            rates = [
                run(engine, phrases, options.tokens, some, writers).add_to(total, reading)
                for total, phrases in ((free, ()), (written, tuple(banned)))
            ]
            losses.append(1 - rates[1] / rates[0])
        failed = [
            found
            for case, (text, _, _) in zip(cases, written.stories, strict=True)
            if (found := check(case, text, banned))
        ]
        ends = [stats.finish_reason for _, stats, _ in written.stories]
        told = [(text, ids) for text, _, ids in written.stories]
        alone = alone or told
        same = sum(one == other for one, other in zip(alone, told, strict=True))
        of_all = 1 - written.rate / free.rate
        print(
            f"{writers} at once: {len(failed)} with a banned phrase {failed[:3]}, {ends.count('banned')} "
            f"ended as banned, {same} of {len(told)} as in the first round; speed lost: "
            f"{statistics.median(losses):.1%} in the median of {len(losses)} blocks, {of_all:.1%} of all "
            f"tokens per second{' of CPU time' if options.device == 'cpu' else ''}, reading left out"
        )
    engine.close()


if __name__ == "__main__":
    main()
