"""Generated stories for the training tests, short and predictable enough to learn in a hundred steps."""

from __future__ import annotations

import random
from pathlib import Path

NAMES = ["Ada", "Bo", "Cleo", "Dov", "Esi"]
PLACES = ["the well", "the hill", "the old mill", "the harbour"]


def write_stories(path: Path, count: int, seed: int) -> Path:
    """Write `count` documents with titles and chapter headings, in the format of the real data."""
    chance = random.Random(seed)
    documents = []
    for number in range(count):
        name, place = chance.choice(NAMES), chance.choice(PLACES)
        sentences = [f"{name} went to {place} on day {chance.randrange(50)}. “Hello,” said {name}."] * 4
        documents.append(f"{name} and {place} {number}\n\nChapter 1: The Walk\n\n" + "\n\n".join(sentences))
    path.write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return path
