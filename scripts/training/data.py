"""Token streams of stories as they were read, for validation and for the default voice."""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

END_OF_TEXT = 0  # id before every story
TALE = 1  # id after end-of-text, before a classic or a picture book
Tokens = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class StorySet:
    """Documents of one kind in one token stream.

    Attributes:
        tokens: all documents concatenated, without end-of-text between them.
        starts: index of the first token of each document, then the total length, `[documents + 1]`.
        bodies: index of the first token after title and headings of each document, `[documents]`.
        bytes: UTF-8 length of each raw document, `[documents]`.
        paragraphs: indices of all tokens that follow a blank line, in all documents, ascending.
    """

    tokens: Tokens
    starts: npt.NDArray[np.int64]
    bodies: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int64]
    paragraphs: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bodies)

    def document(self, index: int) -> Tokens:
        """Return a document between two end-of-text tokens."""
        story = self.tokens[self.starts[index] : self.starts[index + 1]]
        return np.concatenate([[END_OF_TEXT], story, [END_OF_TEXT]]).astype(np.uint16)

    def tales(self, shorter_than: int) -> npt.NDArray[np.bool_]:
        """Return a mask of the documents with fewer tokens than `shorter_than`, `[documents]`."""
        return np.diff(self.starts) < shorter_than

    def middle(self, index: int, rng: np.random.Generator) -> int:
        """Return the index of the first token of a random paragraph in the first half of a document's body.

        Returns the start of the body if no paragraph begins there.
        """
        body = int(self.bodies[index])
        half = body + (int(self.starts[index + 1]) - body) // 2
        first, last = np.searchsorted(self.paragraphs, (body, half))
        return int(self.paragraphs[rng.integers(first, last)]) if last > first else body


def blank_lines(tokenizer: Path) -> list[int]:
    """Return the ids of tokens that end in a blank line."""
    reader = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return [i for i in range(reader.get_vocab_size()) if reader.decode([i]).endswith("\n\n")]


def read_stories(folder: Path, tokenizer: Path, kind: str = "") -> dict[str, StorySet]:
    """Read the sets that `scripts/prepare_stories.py` wrote, by name: `modern_train`, `modern_validation` …

    `kind` selects sets: "train", "validation", or "" for all. Raises FileNotFoundError if there are none.
    """
    ends = blank_lines(tokenizer)
    sets = {}
    for path in sorted(folder.glob(f"*{kind}.npz.xz")):
        with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
            found = {key: arrays[key] for key in ("tokens", "starts", "bodies", "bytes")}
        paragraphs = np.flatnonzero(np.isin(found["tokens"], ends)) + 1
        sets[path.name.removesuffix(".npz.xz")] = StorySet(**found, paragraphs=paragraphs)
    if not sets:
        raise FileNotFoundError(f"{folder} has no story sets: write them with scripts.prepare_stories.")
    return sets


def validation_rows(stories: StorySet, length: int) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Cut every document into rows of its own, `[rows, length + 1]`, and count the tokens to predict in each.

    A long document continues in the next row without its context, which is enough to watch a run.
    `python -m jet.evaluate` measures with the whole document in context.
    """
    rows, counts = [], []
    for index in range(len(stories)):
        document = stories.document(index)
        for begin in range(0, len(document) - 1, length):
            piece = document[begin : begin + length + 1]
            rows.append(np.pad(piece, (0, length + 1 - len(piece))))
            counts.append(len(piece) - 1)
    return np.stack(rows), np.array(counts)
