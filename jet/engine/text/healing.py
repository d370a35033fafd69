"""Token healing: draw the last tokens of a prompt again, since a prompt may end inside of a token.

A tokenizer splits "The lighth" into " light", "h" and "the door and " into " and", " ", which models have
rarely seen in training. So the last tokens of a prompt that together are a proper prefix of some token are
removed, and their bytes are drawn again, as whichever tokens the model finds likely. The answer starts after
those bytes.

A path, a sequence of tokens that spells the bytes, can only be chosen once its probability is known. In most
contexts " light" is likelier than " lighthouse", but not if "h" follows, as a lookahead after " light" shows.
A `Healing` holds the paths worth a lookahead as a tree, made when a request is submitted, and `draw` samples
from all of them at once. A path's last token begins with all bytes that are left, so healing takes one draw.

References: Lundberg, "The art of prompt design: prompt boundaries and token healing", 2023; Vieira et al.,
"From language models over tokens to language models over characters", 2024.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders

from jet.engine.text.detokenizer import BYTE_NAMES, TokenBytes
from jet.engine.text.whitespace import LINE_BREAKS, strip_trailing
from jet.token_ids import Tokens

MAX_HEALED_TOKENS = 8  # tokens removed from a prompt
MAX_LOOKAHEAD = 8  # tokens computed to learn the probabilities of paths
NEGLIGIBLE = 0.01  # paths less likely than this fraction of the known ones get no lookahead
_MAX_NODES = 16  # of a tree
_TRIED = 64  # the most common following tokens, which decide whether a split is worth a node
_ENOUGH = 0.1  # a blank begins words if this fraction as many tokens begin with it as with a space

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Node:
    """A node in the tree of paths that spell the bytes again.

    Attributes:
        left: the bytes still to be spelled, at least one.
        covers: ids `[N]` of ordinary tokens that begin with all of `left`.
        exact: the ids of `covers` whose bytes are exactly `left`.
        shorter: ordinary tokens that are a proper prefix of `left`, and the node after each.
    """

    left: bytes
    covers: Tokens
    exact: frozenset[int]
    shorter: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Healing:
    """The tokens at the end of a prompt that are to be drawn again.

    Attributes:
        tokens: the removed tokens `[K]`, K from 1 to `MAX_HEALED_TOKENS`.
        root: the tree of paths that spell their bytes.
    """

    tokens: Tokens
    root: Node


class HealingPath(NamedTuple):
    """A drawn path: tokens `path` up to `node`, and a last `token` that begins with the bytes `node.left`."""

    path: tuple[int, ...]
    token: int
    node: Node

    @property
    def adds(self) -> bool:
        """Return whether the last token adds text after the prompt's bytes."""
        return self.token not in self.node.exact


class NoPathError(Exception):
    """All paths that spell the end of the prompt end in a barred token."""


class Vocabulary:
    """The ordinary tokens of a byte-level tokenizer, sorted by bytes; no added tokens, no stop tokens."""

    def __init__(self, tokenizer: Tokenizer, known: TokenBytes, stop_ids: frozenset[int]) -> None:
        self._model, self.bytes = tokenizer.model, known
        added = set(tokenizer.get_added_tokens_decoder()) | stop_ids
        ids = [token for token in tokenizer.get_vocab(with_added_tokens=False).values() if token not in added]
        pairs = sorted((known[token], token) for token in ids if known[token])
        self._sorted = [spelling for spelling, _ in pairs]
        self._ids = np.array([token for _, token in pairs], np.int32)
        self._first = dict(reversed(pairs))  # one of the tokens with the same bytes
        self.ordinary = frozenset(ids)
        self.tree = lru_cache(1024)(self._tree)

    def beginning_with(self, start: bytes) -> Tokens:
        """Return the tokens that begin with these bytes, sorted by bytes."""
        return self._ids[slice(*self._range(start))]

    def is_proper_beginning(self, start: bytes) -> bool:
        """Return whether these bytes are a proper prefix of some token."""
        low, high = self._range(start)
        return high > low and self._sorted[high - 1] != start

    def _range(self, start: bytes) -> tuple[int, int]:
        low = bisect_left(self._sorted, start)
        bare = start.rstrip(b"\xff")
        behind = bare[:-1] + bytes([bare[-1] + 1]) if bare else b""
        return low, bisect_left(self._sorted, behind, low) if behind else len(self._sorted)

    def _tree(self, path: tuple[int, ...]) -> Node:
        """Build the tree of paths that spell the bytes of `path`; it contains `path` itself."""
        whole = b"".join(self.bytes[token] for token in path)
        root = self._node(whole)
        nodes = [(root, path)]  # with the rest of `path` from there, if it leads there
        for node, canonical in nodes:
            for end in range(1, len(node.left)):
                token = self._first.get(node.left[:end])
                if token is None or len(nodes) == _MAX_NODES:
                    continue
                on_path = len(canonical) > 1 and canonical[0] == token
                child = self._node(node.left[end:])
                if on_path or self._splits(token, child.covers):
                    node.shorter[token] = child
                    nodes.append((child, canonical[1:] if on_path else ()))
        return root

    def _node(self, left: bytes) -> Node:
        covers = self.beginning_with(left)
        return Node(left, covers, frozenset(one for one in covers.tolist() if self.bytes[one] == left))

    def _splits(self, token: int, following: Tokens) -> bool:
        """Return whether the tokenizer itself splits any word into `token` and one of `following`."""
        for other in np.sort(following)[:_TRIED].tolist():
            name = "".join(BYTE_NAMES[byte] for byte in self.bytes[token] + self.bytes[other])
            if [one.id for one in self._model.tokenize(name)] == [token, other]:
                return True
        return False


class Healer:
    """Finds the tokens to heal at the end of prompts, for one tokenizer; thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, known: TokenBytes, stop_ids: frozenset[int] = frozenset()
    ) -> None:
        self.by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._given = tokenizer, known, stop_ids

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """Return the vocabulary, made on first use; None if tokens are not bytes."""
        return Vocabulary(*self._given) if self.by_bytes else None

    def normalize_prompt(self, text: str) -> str:
        """Return a text with trailing blanks that tokens of words can begin with.

        Other trailing blanks are replaced by one space. After a line break, where tokens rarely begin with a
        blank, and if the tokenizer is not byte-level, trailing blanks are removed.
        """
        bare = strip_trailing(text)
        if len(bare) == len(text):
            return text
        if not bare or bare[-1] in LINE_BREAKS or not self.by_bytes:
            return bare
        blanks = text[len(bare) :]
        return text if self._begins_words(blanks) else f"{bare} "

    def heal(self, ids: Tokens, kept: int, most: int) -> Healing | None:
        """Choose the tokens at the prompt's end that are drawn again; None if there are none.

        Args:
            ids: the prompt's token ids.
            kept: how many leading tokens must stay.
            most: the largest number of bytes to draw again.
        """
        vocabulary = self.vocabulary
        if vocabulary is None:
            return None
        tail = ids[kept:][-MAX_HEALED_TOKENS:].tolist()
        while tail and not self._is_healable(vocabulary, tail, most):
            tail.pop(0)
        return Healing(np.array(tail, np.int32), vocabulary.tree(tuple(tail))) if tail else None

    def _is_healable(self, vocabulary: Vocabulary, tail: list[int], most: int) -> bool:
        whole = b"".join(vocabulary.bytes[token] for token in tail)
        ordinary = len(whole) <= most and vocabulary.ordinary.issuperset(tail)
        return ordinary and vocabulary.is_proper_beginning(whole)

    def _begins_words(self, blanks: str) -> bool:
        return blanks == " " or self._words(blanks) >= max(1, _ENOUGH * self._words(" "))

    def _words(self, blanks: str) -> int:
        """Count the tokens that consist of these blanks and a word."""
        vocabulary = self.vocabulary
        assert vocabulary is not None
        start = blanks.encode()
        found = vocabulary.beginning_with(start).tolist()
        behind = (vocabulary.bytes[one][len(start) :].decode("utf-8", "ignore")[:1] for one in found)
        return sum(map(str.isalpha, behind))


def draw(
    root: Node,
    look: Callable[[tuple[int, ...]], Logits],
    temperature: float,
    chance: float,
    top_k: int = 0,
    top_p: float = 1.0,
    barred: tuple[int, ...] = (),
) -> HealingPath:
    """Draw a path that spells the removed bytes, by the probabilities of the network.

    Args:
        root: the tree of paths.
        look: returns the logits `[V]` after a path; each path extends an earlier path by one token.
        temperature: as in `jet.ops.sampling.sample`; 0 takes the likeliest path.
        chance: uniform in [0, 1).
        top_k: draw from this many likeliest paths; 0 for all.
        top_p: draw from the likeliest paths that together have this probability.
        barred: tokens that must not be the last one.

    Raises:
        FloatingPointError: the logits are NaN or infinite.
        NoPathError: every path ends in a barred token.
    """
    ends: list[tuple[tuple[int, ...], Node]] = []
    found: list[Logits] = []  # log-probabilities of the paths that end at each of `ends`
    waiting: list[tuple[float, tuple[int, ...], Node]] = [(0.0, (), root)]
    known = -math.inf
    while waiting and len(ends) <= MAX_LOOKAHEAD:
        waiting.sort(key=lambda one: one[0])
        weight, path, node = waiting.pop()
        if weight < known + math.log(NEGLIGIBLE):
            break
        chances = weight + log_softmax(look(path), temperature or 1.0)
        ends.append((path, node))
        found.append(np.where(np.isin(node.covers, barred), -math.inf, chances[node.covers]))
        known = float(np.logaddexp(known, np.logaddexp.reduce(found[-1], initial=-math.inf)))
        waiting += [(float(chances[token]), (*path, token), child) for token, child in node.shorter.items()]
    if not math.isfinite(known):
        raise NoPathError
    index = _choose(_kept(np.concatenate(found), top_k, top_p), temperature, chance)
    counts = np.cumsum([len(some) for some in found])
    number = int(np.searchsorted(counts, index, side="right"))
    path, node = ends[number]
    return HealingPath(path, int(node.covers[index - counts[number] + len(node.covers)]), node)


def _kept(logs: Logits, top_k: int, top_p: float) -> Logits:
    """Return log-probabilities `[N]` with -inf for filtered paths; the likeliest always stays."""
    if not math.isfinite(logs.max()) or (top_k == 0 and top_p == 1):
        return logs
    order = (-logs).argsort(kind="stable")
    weights = np.exp(logs[order] - logs.max())
    if top_k:
        weights[top_k:] = 0.0
    likelier = weights.cumsum() - weights
    out = (weights == 0) | (likelier >= top_p * weights.sum())
    out[0] = False
    kept: Logits = logs.copy()
    kept[order[out]] = -math.inf
    return kept


def _choose(logs: Logits, temperature: float, chance: float) -> int:
    """Draw an index in proportion to `exp(logs)` `[N]`; with temperature 0 return the likeliest index."""
    if temperature == 0 or not math.isfinite(logs.max()):
        return int(logs.argmax())
    cumulative = np.exp(logs - logs.max()).cumsum()
    index = int(np.searchsorted(cumulative, chance * cumulative[-1], side="right"))
    last = int(np.flatnonzero(np.diff(cumulative, prepend=0.0))[-1])  # not beyond it by rounding
    return min(index, last)


def log_softmax(logits: Logits, temperature: float) -> Logits:
    """Return log-probabilities `[V]`. Raises FloatingPointError if the largest logit is NaN or infinite."""
    peak = logits.max()
    if not math.isfinite(peak):
        raise FloatingPointError("The network's output is not a number (NaN or infinite logits).")
    scaled = (logits - peak) / temperature
    logs: Logits = scaled - np.log(np.exp(scaled).sum())
    return logs


def nodes(root: Node, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Node]]:
    """Yield every node of a tree with the path to it."""
    yield path, root
    for token, child in root.shorter.items():
        yield from nodes(child, (*path, token))
