"""Turn stories into rows of tokens: shuffled every epoch, concatenated, and cut into equal rows."""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from scripts.training.recipe import Recipe

END_OF_TEXT = 0  # id before every story
TALE = 1  # id after end-of-text, before a classic or a picture book
Tokens = npt.NDArray[np.uint16]
TRAINING_SETS = ("modern_train", "classics_train")


@dataclass(frozen=True)
class StorySet:
    """Documents of one kind in one token stream.

    Attributes:
        tokens: all documents concatenated, without end-of-text between them.
        starts: first token of each document, and the total length, `[documents + 1]`.
        bodies: first token of each document after title and headings, `[documents]`.
        bytes: UTF-8 length of each raw document, `[documents]`.
        paragraphs: every token that follows a blank line, in all documents, ascending.
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

    def epoch(
        self,
        rng: np.random.Generator,
        tales: npt.NDArray[np.bool_] | None = None,
        plain: float = 0.0,
        middle: float = 0.0,
    ) -> Tokens:
        """Return all documents in a new order, each preceded by end-of-text.

        Documents in the mask `tales`, `[documents]`, are whole and marked. A share `plain` of the others
        begins after title and headings, a share `middle` at a random paragraph in the first half of the body.
        """
        order = rng.permutation(len(self))
        chance = rng.random(len(self))
        parts: list[Any] = []
        for index in order:
            begin, front = self.starts[index], [END_OF_TEXT]
            if tales is not None and tales[index]:
                front = [END_OF_TEXT, TALE]
            elif chance[index] < plain:
                begin = self.bodies[index]
            elif chance[index] < plain + middle:
                begin = self.middle(index, rng)
            parts += [front, self.tokens[begin : self.starts[index + 1]]]
        return np.concatenate(parts).astype(np.uint16)

    def middle(self, index: int, rng: np.random.Generator) -> int:
        """Return the first token of a random paragraph in the first half of a document's body."""
        body = int(self.bodies[index])
        half = body + (int(self.starts[index + 1]) - body) // 2
        first, last = np.searchsorted(self.paragraphs, (body, half))
        return int(self.paragraphs[rng.integers(first, last)]) if last > first else body


def blank_lines(tokenizer: Path) -> list[int]:
    """Return the ids of tokens that end in a blank line."""
    reader = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return [i for i in range(reader.get_vocab_size()) if reader.decode([i]).endswith("\n\n")]


def read_stories(path: Path, tokenizer: Path) -> dict[str, StorySet]:
    """Read the sets that `scripts/prepare_stories.py` wrote, by name:

    `modern_train`, `modern_validation` …
    """
    ends = blank_lines(tokenizer)
    with np.load(io.BytesIO(lzma.decompress(path.read_bytes()))) as arrays:
        names = sorted({name.rsplit("_", 1)[0] for name in arrays.files})
        keys = ("tokens", "starts", "bodies", "bytes")
        sets = {}
        for name in names:
            found = {key: arrays[f"{name}_{key}"] for key in keys}
            paragraphs = np.flatnonzero(np.isin(found["tokens"], ends)) + 1
            sets[name] = StorySet(**found, paragraphs=paragraphs)
        return sets


class RowStream:
    """Endless rows of `length + 1` tokens from one set; a row's last token is the next one's first."""

    def __init__(self, stories: StorySet, number: int, recipe: Recipe) -> None:
        self.stories, self.number, self.recipe = stories, number, recipe
        is_modern = TRAINING_SETS[number] == "modern_train"
        self.tales = stories.tales(recipe.picture_book) if is_modern else np.ones(len(stories), np.bool_)
        self.epoch = self.row = 0
        self._tokens = self._laid_out()

    def _laid_out(self) -> Tokens:
        rng = np.random.default_rng((self.recipe.seed, self.number, self.epoch))
        recipe = self.recipe
        tokens = self.stories.epoch(rng, self.tales, recipe.plain_beginnings, recipe.middle_beginnings)
        if len(tokens) <= recipe.length:
            raise ValueError(f"{len(tokens)} tokens do not fill one row of {recipe.length}.")
        return tokens

    def take(self) -> Tokens:
        """Return the next row."""
        begin = self.row * self.recipe.length
        if begin + self.recipe.length >= len(self._tokens):
            self.epoch, self.row, begin = self.epoch + 1, 0, 0
            self._tokens = self._laid_out()
        self.row += 1
        return self._tokens[begin : begin + self.recipe.length + 1]

    def position(self) -> dict[str, int]:
        """Return the position of this stream, for a checkpoint."""
        return {"epoch": self.epoch, "row": self.row}

    def go_to(self, position: dict[str, int]) -> None:
        """Continue from a position that `position()` returned."""
        self.epoch, self.row = position["epoch"], position["row"]
        self._tokens = self._laid_out()


class Mixture:
    """Batches of modern and classic rows, in proportions that depend on recipe and step only."""

    def __init__(self, sets: dict[str, StorySet], recipe: Recipe) -> None:
        self.recipe = recipe
        self.streams = {name: RowStream(sets[name], i, recipe) for i, name in enumerate(TRAINING_SETS)}

    def batch(self, step: int, progress: float) -> Tokens:
        """Return the tokens of a step, `[batch, length + 1]`."""
        chance = np.random.default_rng((self.recipe.seed, 99, step)).random()
        classics = int(self.recipe.classics(progress) * self.recipe.batch + chance)
        names = ["classics_train"] * classics + ["modern_train"] * (self.recipe.batch - classics)
        return np.stack([self.streams[name].take() for name in names])

    def position(self) -> dict[str, dict[str, int]]:
        """Return the positions of all streams, for a checkpoint."""
        return {name: stream.position() for name, stream in self.streams.items()}

    def go_to(self, position: dict[str, dict[str, int]]) -> None:
        """Continue from a position that `position()` returned."""
        for name, stream in self.streams.items():
            stream.go_to(position[name])


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
