"""Rows of tokens from prepared stories: composed anew and shuffled every epoch, packed to one length.

Every row begins with end-of-text, as a story on the page does. Texts follow each other until the row is full.
The rest of the last text begins the next row, from the start of the paragraph that was cut.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from scripts.training.data import END_OF_TEXT, TALE, blank_lines
from scripts.training.guided import READ, STRESSED, Marked, Mix, compose
from scripts.training.prepared import PreparedStory, read_prepared
from scripts.training.recipe import Recipe

Tokens = npt.NDArray[np.uint16]
UNLEARNT = np.uint16(1 << 15)  # flag of a token that is read and never learnt to be written
STRESS = np.uint16(1 << 14)  # flag of one that is learnt with more weight
TOKEN = np.uint16(STRESS - 1)  # the token without its flags
SHORTEST_REST = 200  # tokens of a cut text that a next row begins with
SHORTEST_START = 400  # tokens after which a cut text is continued, not read again
CHUNK = 256  # stories that a worker composes at once


def encode(text: Marked, tokenizer: Tokenizer) -> Tokens:
    """Tokenize a text and flag its tokens.

    A token is flagged `UNLEARNT` if it touches a character that is only read, and `STRESS` if it touches a
    stressed one.
    """
    encoding = tokenizer.encode(text.text, add_special_tokens=False)
    tokens = np.array(encoding.ids, dtype=np.uint16)
    places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    for weight, flag in ((STRESSED, STRESS), (READ, UNLEARNT)):
        before = np.concatenate([[0], np.cumsum(text.weights == weight)])
        tokens[before[places[:, 1]] > before[places[:, 0]]] |= flag
    return tokens


def front(story: PreparedStory, after_end: bool = True) -> Tokens:
    """Return the tokens in front of a story's text: end-of-text and, for a tale, its mark.

    End-of-text is learned as the end of the text before, unless `after_end` is False.
    """
    start = np.uint16(END_OF_TEXT) if after_end else END_OF_TEXT | UNLEARNT
    return np.array([start, TALE | UNLEARNT] if story.is_tale else [start], dtype=np.uint16)


@dataclass(frozen=True)
class Source:
    """Where a worker finds the stories of one set, and how it makes texts of them."""

    stories: Path
    tokenizer: Path
    mix: Mix
    seed: tuple[int, ...]


class Composer:
    """Composes and tokenizes stories by their number in an epoch."""

    def __init__(self, source: Source) -> None:
        """Read the stories and the tokenizer."""
        self._source = source
        self.stories = read_prepared(source.stories)
        self.tokenizer = Tokenizer.from_file(str(source.tokenizer / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a text is text
        self.numbers = [n for n, story in enumerate(self.stories) for _ in range(story.copies)]

    def texts(self, epoch: int, begin: int, end: int) -> list[Tokens]:
        """Return the texts from number `begin` to `end` of an epoch's order, each behind an end-of-text."""
        order = np.random.default_rng((*self._source.seed, epoch)).permutation(len(self.numbers)).tolist()
        ended = all(self._compose(epoch, number).ends for number in order[max(begin - 1, 0) : begin])
        texts = []
        for number in order[begin:end]:
            text = self._compose(epoch, number)
            texts.append(np.concatenate([front(self._story(number), ended), encode(text, self.tokenizer)]))
            ended = text.ends
        return texts

    def _story(self, number: int) -> PreparedStory:
        return self.stories[self.numbers[number]]

    def _compose(self, epoch: int, number: int) -> Marked:
        rng = np.random.default_rng((*self._source.seed, epoch, number))
        return compose(self._story(number), self._source.mix, rng)


_composer: Composer  # of a worker process


def _start_worker(source: Source) -> None:
    global _composer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _composer = Composer(source)


def _compose(epoch: int, begin: int, end: int) -> list[Tokens]:
    return _composer.texts(epoch, begin, end)


class Epochs:
    """Makes the texts of an epoch, in this process or in workers."""

    def __init__(self, source: Source, workers: int) -> None:
        """Start `workers` processes; with 0 workers, read the stories into this process instead."""
        self._local = Composer(source) if workers == 0 else None
        self._pool: ProcessPoolExecutor | None = None
        self._pending: dict[int, list[Future[list[Tokens]]]] = {}
        self._number = len(self._local.numbers) if self._local else 0
        if workers:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, _start_worker, (source,))
            self._number = sum(story.copies for story in read_prepared(source.stories))

    def texts(self, epoch: int) -> Iterable[Tokens]:
        """Return all texts of an epoch in its order."""
        if self._local:
            return self._local.texts(epoch, 0, self._number)
        self._ask(epoch)
        parts = self._pending.pop(epoch)
        return [text for part in parts for text in part.result()]

    def _ask(self, epoch: int) -> None:
        if epoch not in self._pending and self._pool is not None:
            begins = range(0, self._number, CHUNK)
            self._pending[epoch] = [self._pool.submit(_compose, epoch, b, b + CHUNK) for b in begins]

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def pack(texts: Iterable[Tokens], length: int, blank: npt.NDArray[np.bool_]) -> Iterator[Tokens]:
    """Yield full rows of `length + 1` tokens; a last row that is not full is dropped.

    `blank` tells for each token of the vocabulary whether it ends in a blank line.
    """
    parts, left = list[Tokens](), length + 1
    for text in texts:
        rest: Tokens | None = text
        while rest is not None:
            parts.append(rest[:left])
            if len(rest) < left:
                left -= len(rest)
                break
            row = np.concatenate(parts)
            row[0] &= TOKEN  # which nothing is before
            yield row
            cut, fresh, parts, left = left, len(parts) == 1, [], length + 1
            if cut == len(rest):
                break
            rest = _rest(rest, cut, blank, may_repeat=not fresh)


def _rest(text: Tokens, cut: int, blank: npt.NDArray[np.bool_], may_repeat: bool) -> Tokens:
    """Return the tokens that begin the next row, for a text of which `cut` tokens fit into the last row.

    With `may_repeat`, a text that has only just begun is read again as a whole, with its guidance. Other
    texts continue from the last paragraph that begins before the cut.
    """
    if may_repeat and cut <= SHORTEST_START:
        return text
    fronts = text[: 2 if text[1] == TALE | UNLEARNT else 1]
    ends = np.flatnonzero(blank[text & TOKEN]) + 1
    ends = ends[(ends <= min(cut, len(text) - SHORTEST_REST)) & (ends > len(fronts))]
    return np.concatenate([fronts, text[int(ends[-1]) if len(ends) else cut :]])


class RowStream:
    """Endless rows of `length + 1` tokens from one set."""

    def __init__(self, source: Source, length: int, workers: int = 0) -> None:
        """Prepare the first epoch."""
        self.epochs, self.length = Epochs(source, workers), length
        self._thread = ThreadPoolExecutor(1) if workers else None
        self._next: tuple[int, Future[Tokens]] | None = None
        self.blank = np.zeros(int(STRESS), np.bool_)
        self.blank[blank_lines(source.tokenizer)] = True
        self.epoch = self.row = 0
        self._rows: Tokens | None = None

    def take(self) -> Tokens:
        """Return the next row. Raises ValueError if an epoch does not fill one."""
        if self._rows is None:
            self._rows = self._rows_of(self.epoch)
        elif self.row == len(self._rows):
            self.epoch, self.row = self.epoch + 1, 0
            self._rows = self._rows_of(self.epoch)
        self.row += 1
        row: Tokens = self._rows[self.row - 1]
        return row

    def _rows_of(self, epoch: int) -> Tokens:
        """Return the rows of an epoch; with workers, have those of the next one made in the meantime."""
        if self._thread is None:
            return self._packed(epoch)
        if self._next is None or self._next[0] != epoch:
            self._next = epoch, self._thread.submit(self._packed, epoch)
        rows = self._next[1].result()
        self._next = epoch + 1, self._thread.submit(self._packed, epoch + 1)
        return rows

    def close(self) -> None:
        """End the workers."""
        self.epochs.close()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _packed(self, epoch: int) -> Tokens:
        rows = list(pack(self.epochs.texts(epoch), self.length, self.blank))
        if not rows:
            raise ValueError(f"The stories do not fill one row of {self.length} tokens.")
        return np.stack(rows)

    def position(self) -> dict[str, int]:
        """Return the position of this stream, for a checkpoint."""
        return {"epoch": self.epoch, "row": self.row}

    def go_to(self, position: dict[str, int]) -> None:
        """Continue from a position that `position()` returned."""
        self.epoch, self.row, self._rows = position["epoch"], position["row"], None


SETS = ("modern", "classics")


class Mixture:
    """Batches of modern and classic rows, in proportions that depend on recipe and step only."""

    def __init__(self, folder: Path, tokenizer: Path, recipe: Recipe, mix: Mix, workers: int = 0) -> None:
        """Read the prepared stories of a folder.

        `workers` processes compose the modern rows, and at most two more compose the classic rows.
        """
        self.recipe = recipe
        self.streams = {}
        for number, name in enumerate(SETS):
            source = Source(folder / f"{name}.jsonl.xz", tokenizer, mix, (recipe.seed, number))
            self.streams[name] = RowStream(source, recipe.length, workers if number == 0 else min(workers, 2))

    def batch(self, step: int, progress: float) -> Tokens:
        """Return the flagged tokens of a step, `[batch, length + 1]`."""
        chance = np.random.default_rng((self.recipe.seed, 99, step)).random()
        classics = int(self.recipe.classics(progress) * self.recipe.batch + chance)
        names = ["classics"] * classics + ["modern"] * (self.recipe.batch - classics)
        return np.stack([self.streams[name].take() for name in names])

    def position(self) -> dict[str, dict[str, int]]:
        """Return the positions of all streams, for a checkpoint."""
        return {name: stream.position() for name, stream in self.streams.items()}

    def go_to(self, position: dict[str, dict[str, int]]) -> None:
        """Continue from a position that `position()` returned."""
        for name, stream in self.streams.items():
            stream.go_to(position[name])

    def close(self) -> None:
        """End all workers."""
        for stream in self.streams.values():
            stream.close()
