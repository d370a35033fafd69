"""Token healing: the border between a writer's text and the model's is no border of tokens.

A tokenizer reads "The lighth" as " light", "h" and "the door and " as " and", " ", and no model has often
seen what follows such tokens. So the last tokens of a prompt that together are a proper beginning of some
token are taken back, and their bytes are drawn again, in whichever tokens the model finds likely. The answer
is what comes behind those bytes.

How likely a way to write the bytes again is must be known before it is chosen. " light" is likelier than
" lighthouse" in most places, but not where "h" follows; only a look behind " light" tells. A `Healing` holds
the ways worth a look, as a tree made when a request is submitted, and `draw` chooses among all of them at
once. The last token of a way begins with all bytes that are left, so one choice is all that healing takes.

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

MAX_HEALED_TOKENS = 8  # taken back
MAX_LOOKAHEAD = 8  # tokens read to learn how likely a way is
NEGLIGIBLE = 0.01  # ways that are less likely than this share of the known ones are not looked at
_MAX_NODES = 16
_TRIED = 64  # tokens, the commonest, by which a way is judged
_ENOUGH = 0.1  # times as many tokens as begin with a space and a letter make another blank a beginning, too

Logits = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Node:
    """A place on a way to write the bytes again.

    Attributes:
        left: the bytes that are still to be written, at least one.
        covers: ids `[N]` of the ordinary tokens that begin with all of them.
        exact: those of them that are these bytes and nothing more.
        shorter: ordinary tokens that are a proper beginning of them, and the place behind each.
    """

    left: bytes
    covers: Tokens
    exact: frozenset[int]
    shorter: dict[int, Node] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Healing:
    """What is to be drawn again at the end of a prompt.

    Attributes:
        tokens: those taken back, `[K]`, K from 1 to 8.
        root: the ways to write their bytes again.
    """

    tokens: Tokens
    root: Node


class HealingPath(NamedTuple):
    """A way that was chosen: `path`, tokens that only write again, and the one that writes what is left.

    That token begins with the bytes that are left at `node`; often it is nothing more.
    """

    path: tuple[int, ...]
    token: int
    node: Node

    @property
    def adds(self) -> bool:
        """Whether the last token has new text behind the bytes."""
        return self.token not in self.node.exact


class Vocabulary:
    """The ordinary tokens of a byte-level tokenizer by their bytes: none that are added or end texts."""

    def __init__(self, tokenizer: Tokenizer, known: TokenBytes, stop_ids: frozenset[int]) -> None:
        self._model, self.bytes = tokenizer.model, known
        added = set(tokenizer.get_added_tokens_decoder()) | stop_ids
        ids = [token for token in tokenizer.get_vocab(with_added_tokens=False).values() if token not in added]
        pairs = sorted((known[token], token) for token in ids if known[token])
        self._sorted = [spelling for spelling, _ in pairs]
        self._ids = np.array([token for _, token in pairs], np.int32)
        self._first = dict(reversed(pairs))  # of tokens that are the same bytes, one
        self.ordinary = frozenset(ids)
        self.tree = lru_cache(1024)(self._tree)

    def beginning_with(self, start: bytes) -> Tokens:
        """The tokens that begin with these bytes, by their bytes."""
        return self._ids[slice(*self._range(start))]

    def is_proper_beginning(self, start: bytes) -> bool:
        """Whether a token begins with these bytes and goes on."""
        low, high = self._range(start)
        return high > low and self._sorted[high - 1] != start

    def _range(self, start: bytes) -> tuple[int, int]:
        low = bisect_left(self._sorted, start)
        bare = start.rstrip(b"\xff")
        behind = bare[:-1] + bytes([bare[-1] + 1]) if bare else b""
        return low, bisect_left(self._sorted, behind, low) if behind else len(self._sorted)

    def _tree(self, path: tuple[int, ...]) -> Node:
        """The ways to write the bytes of `path` again, `path` itself among them."""
        whole = b"".join(self.bytes[token] for token in path)
        root = self._node(whole)
        nodes = [(root, path)]  # and what `path` has there, if it leads there
        for node, canonical in nodes:
            for end in range(1, len(node.left)):
                token = self._first.get(node.left[:end])
                if token is None or len(nodes) == _MAX_NODES:
                    continue
                on_path = len(canonical) > 1 and canonical[0] == token
                child = self._node(node.left[end:])
                if on_path or self._is_parted(token, child.covers):
                    node.shorter[token] = child
                    nodes.append((child, canonical[1:] if on_path else ()))
        return root

    def _node(self, left: bytes) -> Node:
        covers = self.beginning_with(left)
        return Node(left, covers, frozenset(one for one in covers.tolist() if self.bytes[one] == left))

    def _is_parted(self, token: int, following: Tokens) -> bool:
        """Whether the tokenizer itself ever puts one of those tokens behind this one, in one word."""
        for other in np.sort(following)[:_TRIED].tolist():
            name = "".join(BYTE_NAMES[byte] for byte in self.bytes[token] + self.bytes[other])
            if [one.id for one in self._model.tokenize(name)] == [token, other]:
                return True
        return False


class Healer:
    """Takes back the ends of prompts; for one tokenizer, from any thread."""

    def __init__(
        self, tokenizer: Tokenizer, known: TokenBytes, stop_ids: frozenset[int] = frozenset()
    ) -> None:
        self.by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._given = tokenizer, known, stop_ids

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """None where tokens are no bytes. Made when it is first needed."""
        return Vocabulary(*self._given) if self.by_bytes else None

    def normalize_prompt(self, text: str) -> str:
        """A text as it is read: blanks at its end that no token continues are one space.

        Which ones are is for the vocabulary to say. At the beginning of a line hardly a token that begins
        with a blank ever stands, so there they are not read at all; nor where tokens are no bytes.
        """
        bare = strip_trailing(text)
        if len(bare) == len(text):
            return text
        if not bare or bare[-1] in LINE_BREAKS or not self.by_bytes:
            return bare
        blanks = text[len(bare) :]
        return text if self._begins_words(blanks) else f"{bare} "

    def heal(self, ids: Tokens, kept: int, most: int) -> Healing | None:
        """What to take back of a prompt, up to `most` bytes; the first `kept` tokens stay. None: nothing."""
        vocabulary = self.vocabulary
        if vocabulary is None:
            return None
        tail = ids[kept:][-MAX_HEALED_TOKENS:].tolist()
        while tail and not self._can_be_taken(vocabulary, tail, most):
            tail.pop(0)
        return Healing(np.array(tail, np.int32), vocabulary.tree(tuple(tail))) if tail else None

    def _can_be_taken(self, vocabulary: Vocabulary, tail: list[int], most: int) -> bool:
        whole = b"".join(vocabulary.bytes[token] for token in tail)
        ordinary = len(whole) <= most and vocabulary.ordinary.issuperset(tail)
        return ordinary and vocabulary.is_proper_beginning(whole)

    def _begins_words(self, blanks: str) -> bool:
        return blanks == " " or self._words(blanks) >= max(1, _ENOUGH * self._words(" "))

    def _words(self, blanks: str) -> int:
        """How many tokens are these blanks with a letter behind them."""
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
) -> HealingPath:
    """One of the ways to write the bytes again, each as likely as the network says.

    Args:
        look: the logits `[V]` behind a path of tokens; a path that is looked at follows from one before.
        temperature: as of `jet.ops.sampling.sample`; 0 takes the likeliest way.
        chance: uniform in [0, 1).
        top_k: how many of the likeliest ways may be chosen; 0 for all.
        top_p: the likeliest ways that together have this part of the probability may be.

    Raises:
        FloatingPointError: the logits are NaN.
    """
    places: list[tuple[tuple[int, ...], Node]] = []
    found: list[Logits] = []  # the logarithms of the ways that end at each place
    waiting: list[tuple[float, tuple[int, ...], Node]] = [(0.0, (), root)]
    known = -math.inf
    while waiting and len(places) <= MAX_LOOKAHEAD:
        waiting.sort(key=lambda one: one[0])
        weight, path, node = waiting.pop()
        if weight < known + math.log(NEGLIGIBLE):
            break
        chances = weight + log_softmax(look(path), temperature or 1.0)
        places.append((path, node))
        found.append(chances[node.covers])
        known = float(np.logaddexp(known, np.logaddexp.reduce(found[-1], initial=-math.inf)))
        waiting += [(float(chances[token]), (*path, token), child) for token, child in node.shorter.items()]
    index = _choose(_kept(np.concatenate(found), top_k, top_p), temperature, chance)
    counts = np.cumsum([len(some) for some in found])
    number = int(np.searchsorted(counts, index, side="right"))
    path, node = places[number]
    return HealingPath(path, int(node.covers[index - counts[number] + len(node.covers)]), node)


def _kept(logs: Logits, top_k: int, top_p: float) -> Logits:
    """The logarithms `[N]`, -inf for what the filters take out; the likeliest always stays."""
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
    """An index `[N]`, each as likely as its logarithm says, which need not be normalized."""
    if temperature == 0 or not math.isfinite(logs.max()):
        return int(logs.argmax())
    cumulative = np.exp(logs - logs.max()).cumsum()
    index = int(np.searchsorted(cumulative, chance * cumulative[-1], side="right"))
    last = int(np.flatnonzero(np.diff(cumulative, prepend=0.0))[-1])  # rounding must not go beyond it
    return min(index, last)


def log_softmax(logits: Logits, temperature: float) -> Logits:
    """Logarithms of probabilities `[V]`. Raises FloatingPointError if there are none."""
    peak = logits.max()
    if not math.isfinite(peak):
        raise FloatingPointError("The network's output is not a number (NaN or infinite logits).")
    scaled = (logits - peak) / temperature
    logs: Logits = scaled - np.log(np.exp(scaled).sum())
    return logs


def nodes(root: Node, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Node]]:
    """Every place of a tree with the tokens that lead there."""
    yield path, root
    for token, child in root.shorter.items():
        yield from nodes(child, (*path, token))
