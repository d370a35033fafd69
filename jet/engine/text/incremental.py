"""Token ids of texts that are mostly those of a moment ago: only what is new is tokenized.

A byte-level tokenizer parts a text into words and looks at each by itself. Where two words part whatever
else stands in the text, both sides can be tokenized alone, and the tokens of the whole are those of one side
and of the other. So a text is tokenized in pieces that end at such places; and of a text that begins or ends
like one that the same user has had read before, the pieces that both have are taken over.

Which places those are follows from the expression that parts words, so it was thought through for the few
that are listed here. Other tokenizers read every text whole.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from jet.affixes import common_prefix, common_suffix
from jet.token_ids import Tokens

PIECE = 1_000  # characters of a piece, at least; what an edit costs
TEXTS = 4  # of one user that are remembered: a story before and after an edit, and beside it another
CHARACTERS = 2**24  # of all of them together

# How words are parted. In all of these a word with a space in it begins with that space or is nothing but
# white space, and behind letters and digits none goes on with a line break or a mark: so words part before
# a space that follows anything but white space, and before the marks below where they follow a letter. What
# comes before such a place parts alike without what comes after, since no expression looks further than
# whether a letter or white space follows.
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_STORY = (
    r"['’](?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)(?!\p{L})| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+\n*|\n+"
    r"|\s+(?!\S)|\s+"
)
_PLAIN = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
EXPRESSIONS = frozenset({_QWEN, _STORY, _PLAIN})
# Letters that every version of Unicode has had for long, and marks that do not compose with one.
_MARKS = "\n。，、！？；："
_PARTING = re.compile(
    rf"(?<=\S) |(?<=[a-zA-Z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])[{_MARKS}]"
)


@dataclass(frozen=True, eq=False)
class _Read:
    """A text and its tokens.

    Attributes:
        cuts: places where it may be parted, in ascending order, from 0 to its length.
        counts: how many of the tokens stand before each.
    """

    text: str
    ids: Tokens
    cuts: list[int]
    counts: list[int]


_NOTHING = _Read("", np.empty(0, np.int32), [0], [0])


class IncrementalTokenizer:
    """The ids of texts, for any thread. What one user's texts have left is never used for another's."""

    def __init__(
        self, backend: Tokenizer, encode: Callable[[list[str]], list[list[int]]], characters: int = CHARACTERS
    ) -> None:
        """`encode` gives the ids of texts, each by itself. As many `characters` are remembered at most."""
        self._encode = encode
        self._parts = can_be_parted(backend)
        self._most = characters
        self._lock = threading.Lock()
        self._remembered: OrderedDict[_Read, str] = OrderedDict()  # and whose it is; the latest last
        self._users: dict[str, list[_Read]] = {}  # in the same order
        self._characters = 0

    def ids(self, text: str, user: str = "") -> Tokens:
        """All ids of a text. Of the user "" nothing is remembered."""
        if not self._parts:
            return np.array(self._encode([text])[0], np.int32)
        read = self._read(text, self._most_alike(text, user))
        if user:
            self._remember(user, read)
        return read.ids

    def _most_alike(self, text: str, user: str) -> _Read:
        """Of what the user has had tokenized, the text that has most in common with this one."""
        with self._lock:
            mine = self._users.get(user, [])[::-1]
        found, most = _NOTHING, 0
        for one in mine:
            alike = common_prefix(one.text, text)
            alike += common_suffix(one.text[alike:], text[alike:])
            if alike >= most:
                found, most = one, alike
            if alike == len(one.text) > len(text) - PIECE:
                break  # there can be no better one
        return found

    def _read(self, text: str, known: _Read) -> _Read:
        """A text of which some beginning and some end may be those of a known one."""
        if text == known.text:
            return known
        # A place is the same in both if what stands before it is, and the character behind it.
        same = common_prefix(text, known.text)
        first = max(0, bisect_left(known.cuts, same) - 1)
        start = known.cuts[first]
        same = common_suffix(text[start:], known.text[start:])
        last = bisect_right(known.cuts, len(known.text) - same)  # one character before it is the same too
        longer = len(text) - len(known.text)
        end = known.cuts[last] + longer if last < len(known.cuts) else len(text)
        new = self._read_new(text, start, end)
        counts = [known.counts[first] + count for count in new.counts]
        behind = known.counts[last] if last < len(known.cuts) else len(known.ids)
        return _Read(
            text,
            np.concatenate([known.ids[: counts[0]], new.ids, known.ids[behind:]]),
            [*known.cuts[:first], *new.cuts, *(cut + longer for cut in known.cuts[last + 1 :])],
            [
                *known.counts[:first],
                *counts,
                *(count - behind + counts[-1] for count in known.counts[last + 1 :]),
            ],
        )

    def _read_new(self, text: str, start: int, end: int) -> _Read:
        """A stretch of a text, between two places where it may be parted, in pieces."""
        cuts = [start]
        while (found := _PARTING.search(text, cuts[-1] + PIECE, end)) is not None:
            cuts.append(found.start())
        if end > start:
            cuts.append(end)
        pieces = [text[begin:stop] for begin, stop in pairwise(cuts)]
        ids = self._encode(pieces) if pieces else []
        counts = list(accumulate(map(len, ids), initial=0))
        return _Read("", np.array([token for piece in ids for token in piece], np.int32), cuts, counts)

    def _remember(self, user: str, read: _Read) -> None:
        with self._lock:
            self._forget(read)
            mine = self._users.setdefault(user, [])
            mine.append(read)
            self._remembered[read] = user
            self._characters += len(read.text)
            if len(mine) > TEXTS:
                self._forget(mine[0])
            while self._characters > self._most:
                self._forget(next(iter(self._remembered)))

    def _forget(self, read: _Read) -> None:
        user = self._remembered.pop(read, None)
        if user is not None:
            self._characters -= len(read.text)
            self._users[user].remove(read)
            if not self._users[user]:
                del self._users[user]


def can_be_parted(backend: Tokenizer) -> bool:
    """Whether a tokenizer reads texts as this module takes for granted."""
    plan: dict[str, Any] = json.loads(backend.to_str())
    match plan["pre_tokenizer"]:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            known = expression in EXPRESSIONS
        case _:
            known = False
    normal = plan["normalizer"] in (None, {"type": "NFC"})
    model = plan["model"]["type"] == "BPE" and not plan["model"].get("dropout")
    return known and normal and model and all(map(_stays_whole, plan["added_tokens"]))


def _stays_whole(token: dict[str, Any]) -> bool:
    """Whether an added token is found wherever its text stands, and never lies across a parting place."""
    picky = token["single_word"] or token["lstrip"] or token["rstrip"]
    return not picky and not set(token["content"]) & {" ", *_MARKS}
