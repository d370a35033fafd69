"""IncrementalTokenizer: tokenizes only those parts of a text that an earlier text does not share.

A byte-level tokenizer splits a text into words and tokenizes each word separately. At some positions words
are split regardless of the rest of the text. Both sides of such a position can be tokenized separately, and
together they have the tokens of the whole. So a text is tokenized in segments that end at such positions.
Segments that the text shares with an earlier text of the same user, at its beginning or end, are reused.

These positions depend on the regular expression that splits words, so they were derived for the few
expressions listed here. With other tokenizers every text is tokenized whole.
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
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from jet.affixes import common_prefix, common_suffix
from jet.token_ids import Tokens

SEGMENT = 1_000  # fewest characters of a segment, and about what an edit tokenizes
TEXTS = 4  # texts remembered for each user: two stories, before and after an edit
CHARACTERS = 2**24  # characters remembered for all users

# Regular expressions that split words. In all of them, a word that contains a space begins with it or is all
# white space, and no word continues with a line break or a mark after a letter or digit. So words split
# before a space that follows anything but white space, and before the marks below after a letter. The text
# before such a position splits in the same way without the text after it, since no expression looks ahead
# further than whether a letter or white space follows.
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
# Letters in all versions of Unicode in use, and marks that do not compose with them.
_MARKS = "\n。，、！？；："
_SPLIT = re.compile(rf"(?<=\S) |(?<=[a-zA-Z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])[{_MARKS}]")


@dataclass(frozen=True, eq=False)
class _TokenizedText:
    """A tokenized text.

    Attributes:
        cuts: positions where it may be split, ascending, from 0 to its length.
        counts: the number of tokens before each of `cuts`.
    """

    text: str
    ids: Tokens
    cuts: list[int]
    counts: list[int]


_NOTHING = _TokenizedText("", np.empty(0, np.int32), [0], [0])


class IncrementalTokenizer:
    """Tokenizes texts, reusing earlier ones of the same user only; thread-safe."""

    def __init__(
        self, backend: Tokenizer, encode: Callable[[list[str]], list[list[int]]], characters: int = CHARACTERS
    ) -> None:
        """`encode` tokenizes each of several texts. At most `characters` characters are remembered."""
        self._encode = encode
        self._can_split = can_be_split(backend)
        self._most = characters
        self._lock = threading.Lock()
        self._remembered: OrderedDict[_TokenizedText, str] = OrderedDict()  # text → user, the latest last
        self._users: dict[str, list[_TokenizedText]] = {}  # in the same order
        self._characters = 0

    def ids(self, text: str, user: str = "") -> Tokens:
        """Return the token ids of a text; remember the text for reuse, unless the user is ""."""
        if not self._can_split:
            return np.array(self._encode([text])[0], np.int32)
        read = self._tokenize(text, self._most_alike(text, user))
        if user:
            self._remember(user, read)
        return read.ids

    def _most_alike(self, text: str, user: str) -> _TokenizedText:
        """Return the user's earlier text that shares most with this one."""
        with self._lock:
            mine = self._users.get(user, [])[::-1]
        found, most = _NOTHING, 0
        for one in mine:
            alike = common_prefix(one.text, text)
            alike += common_suffix(one.text[alike:], text[alike:])
            if alike >= most:
                found, most = one, alike
            if alike == len(one.text) > len(text) - SEGMENT:
                break  # none can share more
        return found

    def _tokenize(self, text: str, known: _TokenizedText) -> _TokenizedText:
        """Tokenize a text, reusing the segments that it shares with a known one."""
        if text == known.text:
            return known
        # A position splits both texts if the text before it and the character after it are the same.
        same = common_prefix(text, known.text)
        first = max(0, bisect_left(known.cuts, same) - 1)
        start = known.cuts[first]
        same = common_suffix(text[start:], known.text[start:])
        last = bisect_right(known.cuts, len(known.text) - same)  # the character before it is the same, too
        longer = len(text) - len(known.text)
        end = known.cuts[last] + longer if last < len(known.cuts) else len(text)
        new = self._tokenize_new(text, start, end)
        counts = [known.counts[first] + count for count in new.counts]
        behind = known.counts[last] if last < len(known.cuts) else len(known.ids)
        return _TokenizedText(
            text,
            np.concatenate([known.ids[: counts[0]], new.ids, known.ids[behind:]]),
            [*known.cuts[:first], *new.cuts, *(cut + longer for cut in known.cuts[last + 1 :])],
            [
                *known.counts[:first],
                *counts,
                *(count - behind + counts[-1] for count in known.counts[last + 1 :]),
            ],
        )

    def _tokenize_new(self, text: str, start: int, end: int) -> _TokenizedText:
        """Tokenize `text[start:end]` in segments; the text may be split at `start` and `end`.

        The result's `text` is "" and its `cuts` are positions in `text`.
        """
        cuts = [start]
        while (found := _SPLIT.search(text, cuts[-1] + SEGMENT, end)) is not None:
            cuts.append(found.start())
        if end > start:
            cuts.append(end)
        segments = [text[begin:stop] for begin, stop in pairwise(cuts)]
        ids = self._encode(segments) if segments else []
        counts = list(accumulate(map(len, ids), initial=0))
        return _TokenizedText(
            "", np.array([token for segment in ids for token in segment], np.int32), cuts, counts
        )

    def _remember(self, user: str, read: _TokenizedText) -> None:
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

    def _forget(self, read: _TokenizedText) -> None:
        user = self._remembered.pop(read, None)
        if user is not None:
            self._characters -= len(read.text)
            self._users[user].remove(read)
            if not self._users[user]:
                del self._users[user]


def can_be_split(backend: Tokenizer) -> bool:
    """Return whether a tokenizer splits words by an expression that this module knows."""
    match _plan(backend.pre_tokenizer):
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
    normal = _plan(backend.normalizer) in (None, {"type": "NFC"})
    model = isinstance(backend.model, BPE) and not backend.model.dropout
    return known and normal and model and all(map(_stays_whole, backend.get_added_tokens_decoder().values()))


def _plan(part: Any) -> Any:
    """Return the description of one part of a tokenizer, as in its file; None for None.

    Writing the whole file would take a second.
    """
    return None if part is None else json.loads(part.__getstate__())


def _stays_whole(token: AddedToken) -> bool:
    """Return whether an added token is always recognized and never crosses a splitting position."""
    picky = token.single_word or token.lstrip or token.rstrip
    return not picky and not set(token.content) & {" ", *_MARKS}
