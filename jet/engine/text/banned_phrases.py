"""PhraseMatcher: finds banned phrases, in any spelling, in a text that comes in parts.

A phrase is one or more words. The rules of matching:

- Case and accents do not count, nor do apostrophes: "couldnt" and "Couldn’t" are one word.
- Between two words there may be up to `MAX_GAP` characters that are not letters or digits: spaces, line
  breaks, hyphens, quotation marks. Punctuation in front of a phrase and behind it does not count.
- Only whole words are found: "her" is not found in "here". Scripts without spaces between words have no whole
  words, and a Korean word may have any ending.
- An English word of three letters or more stands for its regular forms, too: "whisper" for "whispers",
  "whispered", "whispering" and "whisper's". Function words such as "his" have none. A phrase in quotation
  marks stands for exactly its words.
- A word with an asterisk at its end has any ending: "shimmer*". An asterisk by itself
  stands for any one word: "squared * shoulders".
- A phrase without letters and digits, such as "—" or "...", is found as it is written, anywhere.

A phrase ends where its last word ends. Only the next character shows whether the word has ended: "testament"
may become "testamentary".

A matcher is a graph whose edges are characters. The state of a search is immutable. To take text back, a
caller continues from an earlier state.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

MAX_GAP = 16  # characters between two words of a phrase
MAX_WORDS = 16  # of a phrase
_MAX_THREADS = 1000  # beginnings of phrases that are followed at once; only phrases made for it have more
_GAP = ""  # what a character folds to that belongs to no word
_ANY_ENDING = 24  # letters that an asterisk surely stands for; phrases far longer are not followed to the end
_MIN_INFLECTED = 3  # letters of a word that has other forms
_MOST_MOVES = 16_384  # remembered moves of one matcher
_LONG = 32  # characters; longer texts are no tokens, or rare ones
_VOWELS = frozenset("aeiou")
_APOSTROPHES = frozenset("'’‘‛ʼʻʹ′＇`´ˈ՚ꞌ‵")
_QUOTES = frozenset('"“”„«»')
# Words that have no regular forms: some would be other words ("herring").
_FIXED = frozenset(
    re.findall(
        r"\S+",
        "about above after again all also always and another any are away because been before behind being "
        "below between both but can cannot could does done down each even ever every for from had has have "
        "her here him his how into its just least less like more most much must near never nor not now off "
        "often once one only onto other ought our ours out over per quite rather same shall she should "
        "since some such than that the their them then there these they this those though three through "
        "thus too two under until upon very was were what when where which while who whom whose why will "
        "with within without would yes yet you your didnt dont doesnt couldnt wouldnt shouldnt wasnt werent "
        "isnt arent cant wont hadnt hasnt havent",
    )
)
# First words of the Unicode names of scripts that put no spaces between words.
_UNSPACED = frozenset(
    re.findall(
        r"\S+",
        "CJK IDEOGRAPHIC HIRAGANA KATAKANA KATAKANA-HIRAGANA BOPOMOFO YI THAI LAO KHMER MYANMAR TIBETAN TAI "
        "JAVANESE BALINESE",
    )
)


class BannedPhraseError(ValueError):
    """A phrase that cannot be banned. The message is for the person who wrote it."""


@dataclass(eq=False, slots=True)
class _Node:
    """A node of the graph: a position in one or more phrases.

    Attributes:
        children: the node after each folded character.
        gaps: the nodes at the beginnings of the words that may follow after a gap.
        ends: whether a phrase ends here if the word does.
        at_once: whether a phrase ends here whatever follows.
        any_ending: the node for further letters of a word with any ending, whose child is itself.
    """

    children: dict[str, _Node] = field(default_factory=dict)
    gaps: list[_Node] = field(default_factory=list)
    ends: bool = False
    at_once: bool = False
    any_ending: _Node | None = None


class _Thread(NamedTuple):
    """A match in progress: the start of its phrase, its node, and the characters of the present gap."""

    start: int
    node: _Node
    gap: int = 0


class State(NamedTuple):
    """The state of a search after a part of a text.

    Attributes:
        position: the number of characters of the answer so far; negative in the text before it.
        letter: the position of the last letter or digit.
        in_word: whether the next character may continue a word.
        words: matches in progress of phrases of words.
        literal: matches in progress of phrases and stop strings that are compared as they are written.
    """

    position: int
    letter: int
    in_word: bool
    words: tuple[_Thread, ...] = ()
    literal: tuple[_Thread, ...] = ()

    @property
    def held_from(self) -> int | None:
        """Return the position where the earliest match in progress starts; None if there is none."""
        starts = [one.start for one in (*self.words, *self.literal)]
        return max(min(starts), 0) if starts else None

    @property
    def banned_if_ended(self) -> int | None:
        """Return the position where a phrase starts that would be complete if the text ended here.

        Returns None if there is no such phrase.
        """
        if self.letter < 0:
            return None
        starts = [one.start for one in self.words if one.node.ends and not one.gap]
        return max(max(starts), 0) if starts else None


class _Move(NamedTuple):
    """The change that a text makes to a state. Positions are relative to the state's position.

    Attributes:
        length: the number of characters that were read.
        letter: the position of the last letter or digit; None if there is none.
        in_word, words, literal: as in `State`.
        start: the position where a complete phrase starts; None if no phrase is complete.
    """

    length: int
    letter: int | None
    in_word: bool
    words: tuple[_Thread, ...]
    literal: tuple[_Thread, ...]
    start: int | None


class PhraseMatcher:
    """Finds banned phrases in answers. Used by any number of requests, in any threads.

    The transitions of the automaton are cached by state and token text, since most tokens are frequent and
    begin no phrase. Matching every character would take a noticeable part of a small network's step.
    """

    def __init__(self, phrases: Iterable[str], stops: Iterable[str] = ()) -> None:
        """`stops`: stop strings, at which the answer is cut. A phrase also ends where one of them begins.

        Raises BannedPhraseError for a phrase that is blank or has too many words.
        """
        self._words, self._literal, self._stops = _Node(), _Node(), _Node()
        self._beginnings: dict[tuple[tuple[object, ...], ...], _Node] = {}  # of words, by the words before
        self._moves: dict[tuple[object, ...], _Move] = {}
        self.reach = 0  # characters before an answer that a phrase may begin in
        for phrase in phrases:
            self.reach = max(self.reach, self._add(phrase))
        for stop in stops:
            _insert(self._stops, _spelled(stop)).at_once = True

    def start(self, before: str = "") -> State:
        """Return the state at the beginning of an answer.

        Phrases may have begun in `before`, the text before it.
        """
        before = before[-self.reach - 1 :]  # one more tells whether the first one is within a word
        state, _ = self._advance(State(-len(before), -1, False), before)
        return state

    def advance(self, state: State, text: str) -> tuple[State, int | None]:
        """Read the next part of the answer.

        Reading stops at the first character that completes a phrase. Returns the new state and the position
        where this phrase starts; None for the latter if no phrase is complete. If several phrases are
        complete, the latest start is returned. A phrase that starts before the answer has the start 0.
        Phrases that end before the answer do not count.
        """
        position = state.position
        if state.letter < 0 or position < 0 or len(text) > _LONG:  # what counts depends on the answer's begin
            state, start = self._advance(state, text)
            return state, None if start is None else max(start, 0)
        words, literal = _moved(state.words, -position), _moved(state.literal, -position)
        key = text, state.in_word, words, literal
        move = self._moves.get(key)
        if move is None:
            if len(self._moves) >= _MOST_MOVES:
                self._moves.clear()
            move = self._moves[key] = self._move(state, text)
        letter = state.letter if move.letter is None else position + move.letter
        words, literal = _moved(move.words, position), _moved(move.literal, position)
        after = State(position + move.length, letter, move.in_word, words, literal)
        return after, None if move.start is None else max(position + move.start, 0)

    def _move(self, state: State, text: str) -> _Move:
        """Read a text and return the change that it makes to a state."""
        at = state.position
        after, start = self._advance(state, text)
        letter = None if after.letter == state.letter else after.letter - at
        words, literal = _moved(after.words, -at), _moved(after.literal, -at)
        begin = None if start is None else start - at
        return _Move(after.position - at, letter, after.in_word, words, literal, begin)

    def _advance(self, state: State, text: str) -> tuple[State, int | None]:
        """Read a text character by character, up to the first character that completes a phrase."""
        for character in text:
            state, found = self._read(state, character)
            if found:
                return state, max(found)
        return state, None

    def _read(self, state: State, character: str) -> tuple[State, list[int]]:
        """Read one character; return the new state and the starts of the phrases that it completes."""
        at, letter, in_word, words, literal = state
        found: list[int] = []
        if self._stops.children and letter >= 0:
            literal += tuple(
                _Thread(one.start, self._stops) for one in words if one.node.ends and not one.gap
            )
        if literal or self._literal.children:
            literal, found = self._read_literal(at, character, literal)
        for folded in _fold(character):
            if folded == _GAP:
                if letter >= 0:
                    found += (one.start for one in words if one.node.ends and not one.gap)
                words = tuple(
                    one._replace(gap=one.gap + 1) for one in words if one.node.gaps and one.gap < MAX_GAP
                )
                in_word = False
                continue
            steps = [step for one in words for step in _walk(one, folded)]
            if folded in self._words.children and (not in_word or _is_unspaced(folded)):
                steps += _reach(at, self._words.children[folded])
            words = tuple(one for one in dict.fromkeys(steps) if at - one.start <= self.reach)[:_MAX_THREADS]
            letter, in_word = at, True
            if at >= 0:
                found += (one.start for one in words if one.node.at_once)
        return State(at + 1, letter, in_word, words, literal), found

    def _read_literal(
        self, at: int, character: str, literal: tuple[_Thread, ...]
    ) -> tuple[tuple[_Thread, ...], list[int]]:
        threads = [*literal, _Thread(at, self._literal)]
        found: list[int] = []
        for spelled in _spelled(character):
            threads = [
                _Thread(one.start, child)
                for one in threads
                if (child := one.node.children.get(spelled)) is not None
            ]
            if at >= 0:
                found += (one.start for one in threads if one.node.at_once)
        return tuple(one for one in threads if one.node.children), found

    def _add(self, phrase: str) -> int:
        """Add a phrase to the graph; return the greatest length of a match in characters.

        Raises BannedPhraseError if the phrase is blank or has too many words.
        """
        words = _words_of(phrase)
        if not words:
            if not phrase.strip(" "):
                raise BannedPhraseError("A banned phrase has nothing in it: please write a word.")
            _insert(self._literal, _spelled(phrase)).at_once = True
            return len(phrase)
        if len(words) > MAX_WORDS:
            raise BannedPhraseError(
                f"A banned phrase can have {MAX_WORDS} words, and “{phrase[:20]}…” has more."
            )
        beginning, length = self._words, 0
        path: tuple[tuple[object, ...], ...] = ()
        for _, any_ending, forms in words:
            ends = [_insert(beginning, form) for form in forms]
            if any_ending:
                ends = [_with_any_ending(node) for node in ends]
            path = (*path, (any_ending, *forms))
            if len(path) < len(words):
                beginning = self._beginnings.setdefault(path, _Node())
                for node in ends:
                    if beginning not in node.gaps:
                        node.gaps.append(beginning)
            length += max(map(len, forms)) + MAX_GAP + (_ANY_ENDING if any_ending else 0)
        word, any_ending, _ = words[-1]
        for node in ends:
            node.ends = True
            node.at_once = node.at_once or any_ending or _is_unspaced(word[-1]) or _is_korean(word[-1])
        return length


def _moved(threads: tuple[_Thread, ...], by: int) -> tuple[_Thread, ...]:
    """Return matches in progress with `by` added to the starts of their phrases."""
    return tuple(_Thread(start + by, node, gap) for start, node, gap in threads) if threads else ()


def _walk(thread: _Thread, folded: str) -> Iterator[_Thread]:
    """Yield the matches in progress that continue `thread` with the folded character `folded`."""
    start, node, gap = thread
    for place in node.gaps if gap else (node,):
        child = place.children.get(folded)
        if child is not None:
            yield from _reach(start, child)
        if gap and place.any_ending is not None:  # any word
            yield _Thread(start, place.any_ending)
    if not gap and node.any_ending is node:
        yield thread


def _reach(start: int, node: _Node) -> Iterator[_Thread]:
    yield _Thread(start, node)
    if node.any_ending is not None and node.any_ending is not node:
        yield _Thread(start, node.any_ending)


def _with_any_ending(node: _Node) -> _Node:
    if node.any_ending is None:
        node.any_ending = _Node()
        node.any_ending.any_ending = node.any_ending
    return node.any_ending


def _insert(node: _Node, characters: str) -> _Node:
    for character in characters:
        node = node.children.setdefault(character, _Node())
    return node


class _Word(NamedTuple):
    folded: str
    any_ending: bool
    forms: list[str]


def _words_of(phrase: str) -> list[_Word]:
    """Split a phrase into folded words with their inflected forms."""
    text = phrase.strip()
    exact = len(text) > 2 and text[0] in _QUOTES and text[-1] in _QUOTES
    chunks = [""]
    for character in text:
        folded = _fold(character)
        if _GAP in folded and character != "*":
            chunks.append("")
        else:
            chunks[-1] += "*" if character == "*" else "".join(folded)
    found: list[_Word] = []
    for chunk in filter(None, chunks):
        parts = chunk.strip("*").split("*")
        found += (_Word(part, False, [part] if exact else inflections(part)) for part in parts[:-1])
        last, any_ending = parts[-1], chunk.endswith("*")
        found.append(_Word(last, any_ending, [last] if exact or any_ending else inflections(last)))
    while found and not found[0].folded:
        found.pop(0)
    while found and not found[-1].folded:
        found.pop()
    return [word for word in found if word.folded or word.any_ending]


def inflections(word: str) -> list[str]:
    """Return a folded word and its regular English forms, without apostrophes.

    Returns only the word if it has no such forms, such as a function word.
    """
    if len(word) < _MIN_INFLECTED or not (word.isascii() and word.isalpha()) or word in _FIXED:
        return [word]
    forms = [word]
    before, last = word[-2], word[-1]
    if last != "s" or before == "s":
        forms.append(f"{word}s")
    if last in "sxzo" or word.endswith(("ch", "sh")):
        forms.append(f"{word}es")
    consonant_y = last == "y" and before not in _VOWELS
    if consonant_y:
        forms += [f"{word[:-1]}ies", f"{word[:-1]}ied", f"{word}ing"]
    elif last == "e":
        forms += [f"{word}d"] * (before != "e" or len(word) > 3)  # not "seed" for "see"
        forms.append(
            f"{word[:-2]}ying" if before == "i" else f"{word}ing" if before in "eo" else f"{word[:-1]}ing"
        )
    else:
        doubles = last not in _VOWELS and last not in "wxy" and before in _VOWELS and word[-3] not in _VOWELS
        short = sum(letter in _VOWELS for letter in word) == 1
        stems = [word] * (not (doubles and short)) + [f"{word}{last}"] * doubles
        forms += [f"{stem}{ending}" for stem in stems for ending in ("ed", "ing")]
    return list(dict.fromkeys(forms))


@lru_cache(4096)
def _fold(character: str) -> tuple[str, ...]:
    """Return the folded letters of a character.

    Contains `_GAP` for a character that separates words; empty for a character to ignore.
    """
    if character in _APOSTROPHES:
        return ()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    plain = "".join(one for one in plain if not "\u0300" <= one <= "\u036f")
    plain = unicodedata.normalize("NFC", plain)
    kept = [one for one in plain if unicodedata.category(one) != "Cf"]
    if not kept:
        return ()
    return tuple(one if one.isalnum() or unicodedata.category(one)[0] == "M" else _GAP for one in kept)


@lru_cache(4096)
def _spelled(text: str) -> str:
    """Return a text in NFKD form, for comparisons that respect case and accents."""
    return unicodedata.normalize("NFKD", text)


@lru_cache(4096)
def _is_unspaced(letter: str) -> bool:
    """Return whether a letter is of a script without spaces between words."""
    return unicodedata.name(letter, "").split(" ")[0] in _UNSPACED


def _is_korean(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("HANGUL")
