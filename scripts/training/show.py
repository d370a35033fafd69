"""Print rows as they are trained on: text that is only read stands in ⟦ ⟧, stressed text in « ».

python -m scripts.training.show DATA 20
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from scripts.training.guided import LEARNT, READ, STRESSED, Marked, Mix, compose
from scripts.training.options import add_fields, read_fields
from scripts.training.prepared import read_prepared

LONGEST = 1_500  # characters that are shown of a text


def bracketed(text: Marked) -> str:
    """Return a text with ⟦ ⟧ around what is only read, « » around what is stressed, and ✂ at a cut end."""
    around = {READ: ("⟦", "⟧"), LEARNT: ("", ""), STRESSED: ("«", "»")}
    parts, weight = list[str](), LEARNT
    for character, now in zip(text.text, text.weights.tolist(), strict=True):
        if now != weight:
            parts += [around[weight][1], around[now][0]]
            weight = now
        parts.append(character)
    return "".join(parts) + around[weight][1] + ("" if text.ends else " ✂")


def main(arguments: list[str] | None = None) -> None:
    """Compose some modern stories and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="directory that prepare_stories.py wrote")
    parser.add_argument("number", type=int, nargs="?", default=20, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    add_fields(parser.add_argument_group("kinds of texts"), Mix)
    options = parser.parse_args(arguments)
    stories = read_prepared(options.data / "modern.jsonl.xz")
    rng = np.random.default_rng(options.seed)
    for index in rng.choice(len(stories), min(options.number, len(stories)), replace=False).tolist():
        text = bracketed(compose(stories[index], read_fields(Mix, options), rng))
        middle = f"\n[… {len(text) - LONGEST} characters …]\n"
        print(f"=== {index}: {stories[index].people}")
        print(text if len(text) <= LONGEST else text[: LONGEST - 300] + middle + text[-300:])


if __name__ == "__main__":
    main()
