"""Match keywords in text of any script.

Keyword and text are folded first: composed and decomposed accents, straight and curly apostrophes, white
space and invisible characters compare equal. A match is a whole word if there is a word boundary at both of
its ends. The characters on both sides of an end decide this:

- Combining marks belong to the letter before them, so a word never ends before a mark.
- Scripts without spaces between words (Chinese, Japanese, Thai, Khmer and others) have a boundary everywhere.
- A Korean word may be followed by particles.
- Letters of another script, and everything that is not a letter, mark or digit, are boundaries.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import takewhile

# First words of the Unicode names of scripts that put no spaces between words.
_UNSPACED = frozenset(
    re.findall(
        r"\S+",
        "CJK IDEOGRAPHIC HIRAGANA KATAKANA KATAKANA-HIRAGANA VERTICAL BOPOMOFO YI NUSHU TANGUT HENTAIGANA "
        "THAI LAO KHMER MYANMAR TIBETAN TAI NEW JAVANESE BALINESE CHAM EGYPTIAN CUNEIFORM",
    )
)
_HANGUL = "HANGUL"
# What a Korean noun takes: plural and honorific, then particles one after the other, and forms of "to be".
_PARTICLES = re.compile(
    "(?:(?:님|씨|군|양|들|네|쪽|끼리)*"
    "(?:은|는|이|가|을|를|의|에|에서|에게|에게서|에게로|에서부터|께|께서|께서는|한테|한테서|더러|보고|로|으로"
    "|로서|으로서|로써|으로써|로부터|으로부터|와|과|랑|이랑|하고|도|만|만큼|까지|부터|마저|조차|밖에|처럼|같이|보다"
    "|마다|뿐|대로|이나|나|이든|든|이든지|든지|이라도|라도|이야말로|야말로|이며|며|이고|고|이면|면|이여|여|아|야|이야"
    "|치고|커녕|은커녕|는커녕|따라|말고|이란|란|이라는|라는|이라고|라고|이라|라|인|일|이던|던)*"
    "(?:이?다|입니다|입니까|이?었다|였다|였고|였던|였으며|이?었고|이?었던|이?었습니다|였습니다|이에요|예요|이었어요|였어요"
    "|이?지만|였지만|이?니까|이?니|이?라서|이?라면|이?냐|이?지|이?죠|인가|인데|이?네|이?군|이었을|였을|일까|이?로다)?)"
)
_LONGEST_PARTICLES = 12  # syllables
_APOSTROPHES = dict.fromkeys(map(ord, "’‘‛ʼʻʹ′＇`´ˈ՚ꞌ＇‵"), "'")
_HYPHENS = dict.fromkeys(map(ord, "‐‑‒–−⁃﹣－"), "-")
_QUOTES = dict.fromkeys(map(ord, "“”„‟«»″＂"), '"')
_LOOKALIKES = {**_APOSTROPHES, **_HYPHENS, **_QUOTES}
# Written or left out as one likes: points of Arabic and Hebrew, the Arabic stretch, variation selectors.
_OPTIONAL = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670"
    "\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
_JOINERS = re.compile("(?<![\u0600-\u06ff])\u200c")  # in Persian it parts a word from its ending
_SPACES = re.compile(r"\s+")
# Within a syllable of scripts without spaces: vowels written behind and before their consonant, counted as
# letters, and signs that put the next consonant below this one.
_VOWELS_BEHIND = frozenset("ะาๅະາ")
_VOWELS_BEFORE = frozenset("เแโใไເແໂໃໄ")
_STACKERS = frozenset("\u17d2\u1039\u1a60\u1b44\ua9c0")
_TURKISH_I = str.maketrans("İı", "ii")
_LOOKBEHIND = 64  # characters before the searched part that its first word may have begun in


def fold(text: str, case_sensitive: bool = False) -> str:
    """Fold a text for comparison: texts that look alike become equal."""
    if text.isascii():
        text = _SPACES.sub(" ", text.replace("`", "'"))
        return text if case_sensitive else text.lower()
    text = "".join(f" {c} " if unicodedata.category(c) == "So" and _folds_to_letters(c) else c for c in text)
    text = unicodedata.normalize("NFKC", text.translate(_LOOKALIKES))
    text = _JOINERS.sub("", _OPTIONAL.sub("", text.translate(_LOOKALIKES)))
    text = "".join(c for c in text if c == "\u200c" or unicodedata.category(c) != "Cf")
    text = _SPACES.sub(" ", text)
    if not case_sensitive:
        text = text.translate(_TURKISH_I).casefold()
    return unicodedata.normalize("NFKC", text)


class KeywordSearch:
    """Searches the end of a story for many keywords. The folded text is cached."""

    def __init__(self, story: str) -> None:
        self._story = story
        self._folded: dict[tuple[int, bool], tuple[str, str]] = {}

    def contains_any(
        self, keywords: Iterable[str], start: int, case_sensitive: bool, whole_word: bool
    ) -> bool:
        """Return whether one of the keywords is in the story from offset `start` on.

        Empty keywords never match.
        """
        key = (start, case_sensitive)
        if key not in self._folded:
            before = fold(self._story[max(0, start - _LOOKBEHIND) : start], case_sensitive)
            self._folded[key] = (before, fold(self._story[start:], case_sensitive))
        before, text = self._folded[key]
        return any(
            contains_keyword(keyword, text, case_sensitive, whole_word, before) for keyword in keywords
        )


def contains_keyword(
    keyword: str, folded: str, case_sensitive: bool = False, whole_word: bool = True, before: str = ""
) -> bool:
    """Return whether a keyword is in the text `folded`, which `fold` has returned.

    `before`: the folded text that precedes `folded`, to find where its first word begins.
    """
    folded_keyword = fold(keyword, case_sensitive).strip()
    if not folded_keyword:
        return False
    at = folded.find(folded_keyword)
    while at >= 0:
        end = at + len(folded_keyword)
        if not whole_word or (
            _is_word_start(before + folded[:at], folded_keyword) and _is_word_end(folded_keyword, folded, end)
        ):
            return True
        at = folded.find(folded_keyword, at + 1)
    return False


def is_word(character: str) -> bool:
    """Return whether a character is part of words: a letter, a combining mark or a digit."""
    return unicodedata.category(character)[0] in "LMN"


def words(text: str) -> list[str]:
    """Split a text into words. Marks stay with their letters."""
    return "".join(c if is_word(c) or c == "_" else " " for c in text).split()


def _is_word_start(before: str, folded_keyword: str) -> bool:
    """Return whether a word can start between the text `before` and the keyword that follows it."""
    first = folded_keyword[0]
    if unicodedata.category(first)[0] == "M":
        return not before or not is_word(before[-1])
    if not before or not is_word(first) or not is_word(before[-1]):
        return True
    if before[-1] in _VOWELS_BEFORE or before[-1] in _STACKERS:
        return False
    last = next((c for c in reversed(before) if unicodedata.category(c)[0] != "M"), before[-1])
    return _is_boundary(last, first)


def _is_word_end(folded_keyword: str, text: str, end: int) -> bool:
    """Return whether a word can end at offset `end` of `text`, where the keyword ends."""
    if end == len(text):
        return True
    if unicodedata.category(text[end])[0] == "M" or text[end] in _VOWELS_BEHIND:
        return not is_word(folded_keyword[-1])
    if not is_word(folded_keyword[-1]) or not is_word(text[end]):
        return True
    last = next(
        (c for c in reversed(folded_keyword) if unicodedata.category(c)[0] != "M"), folded_keyword[-1]
    )
    if _is_boundary(last, text[end]):
        return True
    if script(last) == script(text[end]) == _HANGUL:
        rest = "".join(takewhile(lambda c: script(c) == _HANGUL, text[end : end + _LONGEST_PARTICLES + 1]))
        return len(rest) <= _LONGEST_PARTICLES and _PARTICLES.fullmatch(rest) is not None
    return False


def _is_boundary(left: str, right: str) -> bool:
    """Return whether two adjacent letters or digits can belong to two words."""
    left_script, right_script = script(left), script(right)
    if (
        left_script in _UNSPACED
        or right_script in _UNSPACED
        or (left_script == _HANGUL) != (right_script == _HANGUL)
    ):
        return True
    return bool(left_script and right_script) and left_script != right_script


@lru_cache(maxsize=8192)
def _folds_to_letters(sign: str) -> bool:
    """Return whether a sign folds to letters, as ™ does, which are not part of the word before the sign."""
    return any(map(is_word, unicodedata.normalize("NFKC", sign)))


@lru_cache(maxsize=8192)
def script(character: str) -> str:
    """Return the script of a letter: the first word of its Unicode name, such as "LATIN".

    The result is empty for digits and for characters without a name.
    """
    if unicodedata.category(character)[0] == "N" and character != "〇":
        return ""
    return unicodedata.name(character, "").partition(" ")[0]
