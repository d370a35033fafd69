"""Measure how many continuations end at a sentence's end: six genres, many seeds and lengths.

    python -m scripts.measure_endings --model assets/story-model --each 50

The script judges by a plain rule of its own. Apart from closing marks, the last character is a full stop, a
question mark, an exclamation mark or an ellipsis, and the last word is no abbreviation. In the last
paragraph, all quotation marks that are opened are also closed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from jet.api import Engine, Request, RequestStats, SamplingParams
from jet.engine.loading import LocalConfig
from jet.engine.text.ending import OVERRUN_TOKENS

GENRES = 6
LENGTHS = (40, 60, 80, 110, 140)
WRITERS = 4
_WHOLE = re.compile(r"[.!?…][\"'”’)\]*_]*$")
_ABBREVIATED = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|[A-HJ-Z])\.$")


def ends_whole(text: str) -> bool:
    """Return whether a text ends with a whole sentence, by the rule of this script."""
    last = text.rstrip().rpartition("\n")[2]
    balanced = last.count('"') % 2 == 0 and last.count("“") <= last.count("”")
    return bool(_WHOLE.search(last)) and not _ABBREVIATED.search(last) and balanced


def write(engine: Engine, end_at: str, case: tuple[str, int]) -> tuple[str, RequestStats]:
    """Continue a beginning; return the text as the page shows it, and the last statistics."""
    prompt, seed = case
    length = LENGTHS[seed % len(LENGTHS)]
    sampling = SamplingParams(max_new_tokens=length, seed=seed, end_at=end_at)
    answer = ""
    for chunk in engine.submit(Request(prompt, sampling, healing=True)):
        answer, stats = answer + chunk.text, chunk.stats
    assert stats.error is None, stats.error
    assert stats.tokens <= length + (0 if end_at == "none" else OVERRUN_TOKENS)
    return prompt + answer.removesuffix(stats.unfinished), stats


def main(arguments: list[str] | None = None) -> None:
    """Write all continuations and print how they end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="assets/story-model", help="directory of the model")
    parser.add_argument("--each", type=int, default=50, help="continuations for each genre")
    parser.add_argument("--end-at", default="sentence", help="sentence, paragraph, scene or none")
    parser.add_argument("--show", action="store_true", help="print the end of every text")
    options = parser.parse_args(arguments)
    prompts = Path(__file__).resolve().parents[1] / "assets" / "prompts.json"
    genres = json.loads(prompts.read_text(encoding="utf-8"))[:GENRES]
    cases = [(genre["text"], seed) for genre in genres for seed in range(options.each)]
    engine = LocalConfig(options.model, device="cpu").create()
    try:
        with ThreadPoolExecutor(WRITERS) as pool:
            texts = list(pool.map(partial(write, engine, options.end_at), cases))
    finally:
        engine.close()
    kinds: Counter[str] = Counter()
    for (text, stats), (_, seed) in zip(texts, cases, strict=True):
        over = stats.tokens - LENGTHS[seed % len(LENGTHS)]
        how = (
            "story ended" if stats.finish_reason == "stop" else "cut back" if stats.unfinished else "went on"
        )
        kinds[how] += 1
        kinds[f"over by {max(0, over) // 10 * 10}+ tokens"] += how == "went on"
        whole = ends_whole(text)
        kinds["whole"] += whole
        if options.show or not whole:
            print(f"{'whole ' if whole else 'BROKEN'} {how:>11} +{over:<3} …{text[-90:]!r}")
    print(f"{kinds.pop('whole')} of {len(texts)} end at a sentence’s end; {dict(sorted(kinds.items()))}")


if __name__ == "__main__":
    main()
