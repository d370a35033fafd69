"""Find where sentences, paragraphs and scenes end in prose, for many scripts and all usual quotation marks.

The text may still grow, so an `End` has a field that tells whether the following text confirms it. The rules
are heuristics, not a parser. An ambiguous full stop does not count as an end, so a continuation runs a few
words longer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from jet.engine.text.abbreviations import MONTHS, NEVER_LAST, NUMBERED, OFTEN_LAST, STARTERS

LATIN_TERMINATORS = ".!?…"
# Full stops and question marks that no abbreviation, decimal or letter case makes ambiguous.
OTHER_TERMINATORS = "。．｡！？؟۔।॥։՜՞።፧፨។៕။།༎‼⁇⁈⁉‽⸮꓿᙮᠃"
TERMINATORS = LATIN_TERMINATORS + OTHER_TERMINATORS
_BRACKETS = dict(
    zip("([{（［｛「『【《〈〔〖﹁﹃‹〝“„‚«‘｢", ")]}）］｝」』】》〉〕〗﹂﹄›〞”“‘»’｣", strict=True)
) | {"„": "“”", "‚": "‘’"}
CLOSERS = set("\"'”’“‘»›«)]}）］｝」』】》〉〕〗﹂﹄〞｣")
_QUOTES = set("\"'”’“‘»›«」』〞｣﹂﹄")
_DASHES = set("—–―-‒─")
_NBSP = "\u00a0\u202f "
_NOT_QUOTED = frozenset(  # words that begin with an apostrophe
    {
        *("tis", "twas", "twill", "twere", "em", "im", "er", "bout", "cause", "cos", "cuz", "til", "till"),
        *("round", "neath", "ere", "gainst", "n", "nuff", "tween", "ol", "kay"),
    }
)
_UNWRITTEN_ENDS = ("THAI", "LAO")  # scripts without full stops
_ELLIPSIS = re.compile(r"\.(?:[ \u00a0]?\.)+")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_HEADING = re.compile(
    r"#{1,6}\s|(?:chapter|part|book|prologue|epilogue|chapitre|kapitel|teil|cap[íi]tulo|capitolo|глава|часть)\b"
    r"|第\S{1,4}[章節节回部]",
    re.IGNORECASE,
)
_KNOWN_BREAKS = frozenset({"***", "* * *", "---", "* * * * *", "⁂", "#", "###", "~~~", "~", "•••", "• • •"})
MAX_BREAK_CHARACTERS = 24  # of a line that breaks a scene

SENTENCE, QUOTED, LINE = 0, 1, 2  # ranks


@dataclass(frozen=True)
class End:
    """A place where a sentence may end.

    Attributes:
        position: characters before it, closing marks included.
        settled: whether the text that follows confirms it.
        sure: whether the sentence ends here whatever text follows; set only at the end of the text.
        rank: SENTENCE; QUOTED inside of open quotation marks or brackets; LINE at the end of a line without
            any full stop.
    """

    position: int
    settled: bool
    sure: bool = False
    rank: int = SENTENCE


def sentence_ends(text: str) -> list[End]:
    """Return all places where sentences end or may end, in order."""
    return _Scanner(text).run()


def paragraph_ends(text: str) -> list[End]:
    """Return the ends of paragraphs, all settled: lines that end a sentence or precede a blank line."""
    sentences = {end.position for end in sentence_ends(text) if end.rank == SENTENCE}
    found = []
    for line in re.finditer(r"[^\n]*\S[^\S\n]*(\n\s*)", text):
        position = len(text[: line.start(1)].rstrip())
        if position in sentences or line.group(1).count("\n") > 1:
            found.append(End(position, settled=True))
    return found


def scene_ends(text: str) -> list[End]:
    """Return the ends of scenes: before a line of symbols, a chapter's heading or two blank lines."""
    found, start = list[End](), 0
    for line in text.split("\n"):
        ended = start + len(line) < len(text)
        if _breaks_scene(line.strip(), ended) and (before := text[:start].rstrip()):
            found.append(End(len(before), settled=True))
        start += len(line) + 1
    for gap in re.finditer(r"\n[^\S\n]*\n[^\S\n]*\n", text):
        if before := text[: gap.start()].rstrip():
            found.append(End(len(before), settled=True))
    return sorted(dict.fromkeys(found), key=lambda end: end.position)


def may_break_scene(line: str) -> bool:
    """Return whether an incomplete line may become a scene break or a heading."""
    symbols = not any(character.isalnum() or character in CLOSERS for character in line)
    return symbols or (_HEADING.match(line) is not None and len(line) <= 4 * MAX_BREAK_CHARACTERS)


def _breaks_scene(line: str, ended: bool) -> bool:
    if not line or len(line) > 4 * MAX_BREAK_CHARACTERS:
        return False
    if line in _KNOWN_BREAKS or _HEADING.match(line):
        return ended
    symbols = not any(character.isalnum() or character in CLOSERS for character in line)
    return ended and symbols and len(line) <= MAX_BREAK_CHARACTERS and not set(line) <= set(TERMINATORS + " ")


class _Scanner:
    """Scans a text once, and keeps track of open quotation marks and brackets."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open: list[str] = []  # what closes each
        self._ends: list[End] = []
        self._unit = 0  # where the sentence at hand begins
        self._line = 0

    def run(self) -> list[End]:
        at = 0
        while at < len(self._text):
            character = self._text[at]
            if character == "\n":
                self._end_line(at)
                at += 1
            elif self._is_terminator(at):
                at = self._terminate(at)
            else:
                self._quote(at)
                at += 1
        return self._ends

    def _is_terminator(self, at: int) -> bool:
        character = self._text[at]
        if character in TERMINATORS:
            return True
        # The Greek question mark is typed as a semicolon.
        return character in ";\u037e" and at > 0 and _script(self._text[at - 1]) == "GREEK"

    # --- quotation marks ---------------------------------------------------------------------------------

    def _quote(self, at: int) -> bool:
        """Process the quotation mark or bracket at an offset; return whether it closes an open one."""
        character = self._text[at]
        if character not in CLOSERS and character not in _BRACKETS:
            return False
        before, after = self._around(at)
        if character in "\"'":
            return self._straight_quote(character, before, after, at)
        is_apostrophe = character == "’" and after.isalnum()
        if not is_apostrophe and self._close(character):
            return True
        begins = (not before or before.isspace() or before in _DASHES or before in _BRACKETS) and not (
            not after or after.isspace()
        )
        if character == "‘":
            if begins and not self._begins_contraction(at):
                self._open.append("’")
        elif character == "»" and begins:
            self._open.append("«")
        elif character == "”" and begins:
            self._open.append("”")
        elif character in _BRACKETS:
            self._open.append(_BRACKETS[character])
        return False

    def _straight_quote(self, character: str, before: str, after: str, at: int) -> bool:
        follows_space = not before or before.isspace()
        begins = follows_space or before in _DASHES or before in _BRACKETS or before in "\"'“‘*_"
        if character == "'":
            if before.isalnum() and after.isalnum():
                return False
            if not (follows_space or after.isalnum()) and self._close("'"):
                return True
            opens = begins and (after.isalpha() or after in '"“…') and not self._begins_contraction(at)
            if opens:
                self._open.append("'")
            return False
        is_open = any('"' in closers for closers in self._open)
        if is_open and not (follows_space and after and not after.isspace()):
            return self._close('"')
        if is_open:  # one that opens, though another is open: that one has never been closed
            self._close('"')
        if begins:
            self._open.append('"')
        return False

    def _close(self, character: str) -> bool:
        for depth in reversed(range(len(self._open))):
            if character in self._open[depth]:
                del self._open[depth:]
                return True
        return False

    def _begins_contraction(self, at: int) -> bool:
        word = re.match(r"\w+", self._text[at + 1 :])
        return word is None or word.group().lower() in _NOT_QUOTED or word.group()[0].isdecimal()

    def _around(self, at: int) -> tuple[str, str]:
        return self._text[at - 1 : at] if at else "", self._text[at + 1 : at + 2]

    # --- ends --------------------------------------------------------------------------------------------

    def _terminate(self, start: int) -> int:
        """Parse sentence-ending punctuation and the closing marks after it; return the offset after both."""
        text, end, closed = self._text, start, False
        stop = ""
        while True:
            first = end
            if spaced := _ELLIPSIS.match(text, end):
                end = spaced.end()
            while end < len(text) and self._is_terminator(end):
                end += 1
            stop = text[first:end] or stop
            before = end
            end, quoted = self._take_closers(end)
            closed = closed or quoted
            if end == before or end >= len(text) or text[end] not in TERMINATORS:
                break
        found = self._judge(start, end, text[start:end], stop, closed)
        if found is not None:
            self._ends.append(found)
            self._unit = end
        return end

    def _take_closers(self, end: int) -> tuple[int, bool]:
        text, quoted = self._text, False
        while end < len(text):
            character, after = text[end], text[end + 1 : end + 2]
            if character in _NBSP and after in ("»", "›") and any(after in one for one in self._open):
                end += 1  # as in French
                continue
            if character in CLOSERS and (not after.isalnum() or _is_caseless(after)):
                was = len(self._open)
                closes = self._quote(end)
                del self._open[was:]  # it is seen again if it opens
                stray = character in '"”’)]' and (not after or after.isspace())
                if not (closes or stray):
                    return end, quoted
            elif not (character in "*_" and not after.isalnum()):
                return end, quoted
            quoted = quoted or character in _QUOTES
            end += 1
        return end, quoted

    def _judge(self, start: int, end: int, cluster: str, stop: str, quoted: bool) -> End | None:
        """Return the end of a sentence at full stops from `start` to `end`; None if there is none."""
        text = self._text
        if not (quoted or any(character.isalnum() for character in text[self._unit : start])):
            return None
        rank = QUOTED if self._open else SENTENCE
        gap = re.compile(r"\s*").match(text, end)
        assert gap is not None
        after = text[gap.end() : gap.end() + 1]
        if "\n" in gap.group():
            wrapped = gap.group().count("\n") == 1 and after.islower()  # lines of a fixed width
            return None if wrapped else End(end, settled=True)
        if not after:
            return self._judge_last(start, end, stop, quoted, rank)
        other = any(character in OTHER_TERMINATORS for character in cluster)
        if not gap.group():
            if other and not quoted:
                ends = after not in "、，,;：:—…" and not unicodedata.combining(after)
            else:
                ends = (after in _BRACKETS and other) or unicodedata.category(after).startswith("S")
            return End(end, settled=True, rank=rank) if ends else None
        word = self._next_word(gap.end())
        if after.islower() or after in ",;:)]}، ؛،":
            return None
        if after in _DASHES:
            return None if word[:1].islower() else End(end, settled=bool(word), rank=rank)
        if _is_ellipsis(stop):
            if word[:1].islower() or re.match(r"I\b", word):
                return None
            return End(end, settled=bool(word), rank=rank)
        if stop == "." and not quoted and not self._word_ends(start, word):
            return None
        return End(end, settled=bool(word) or after in _BRACKETS or not after.isalnum(), rank=rank)

    def _judge_last(self, start: int, end: int, stop: str, quoted: bool, rank: int) -> End | None:
        """Return the possible sentence end at full stops at the end of the text; None if it cannot be one."""
        if stop == "." and not quoted:
            if not self._word_ends(start, ""):
                return None
            word = self._word_before(start)
            plain = len(word) > 1 and word.isalpha() and word.lower().rstrip(".") not in OFTEN_LAST | NUMBERED
            return End(end, settled=False, sure=plain and rank == SENTENCE, rank=rank)
        sure = not quoted and rank == SENTENCE and not _is_ellipsis(stop)
        sure = sure or (stop == "." and rank == SENTENCE)
        return End(end, settled=False, sure=sure, rank=rank)

    def _word_ends(self, stop: int, following: str) -> bool:
        """Return whether a full stop after a word ends a sentence, given the next word `following`."""
        word = self._word_before(stop)
        name = word.lower()
        begins = following in STARTERS
        if not word:
            return True
        if name in NEVER_LAST:
            return False
        if name in NUMBERED:
            return not following[:1].isdecimal()
        if len(word) == 1 and word.isupper():
            if word == "I":
                return not (len(following) == 1 and following.isupper())
            return begins
        if name in OFTEN_LAST:
            return not following or begins or name in ("etc", "a.m", "p.m", "am", "pm")
        if _ACRONYM.fullmatch(word):
            return begins or not following
        if word.isdecimal():
            listed = not self._text[self._line : stop - len(word)].strip(" \t*_-")
            return not listed and not (len(word) < 3 and following in MONTHS)
        return True

    def _word_before(self, stop: int) -> str:
        begin = stop
        while begin > self._unit and (self._text[begin - 1].isalnum() or self._text[begin - 1] in ".'’&"):
            begin -= 1
        return self._text[begin:stop].strip("'’.&")

    def _next_word(self, at: int) -> str:
        """Return the next word after opening marks and dashes; "" if the text ends before it."""
        found = re.compile(r"[^\w\n]*(\w+)").match(self._text, at)
        return "" if found is None else found.group(1)

    def _end_line(self, at: int) -> None:
        text = self._text
        line = text[self._line : at].rstrip()
        position = self._line + len(line)
        if line and (not self._ends or self._ends[-1].position != position):
            stripped = line.rstrip("".join(_QUOTES))
            broken_off = stripped != line and stripped[-1:] in _DASHES
            letters = [character for character in line if character.isalpha()]
            unwritten = bool(letters) and _script(letters[-1]) in _UNWRITTEN_ENDS
            last = bool(broken_off or unwritten)
            self._ends.append(End(position, settled=True, rank=SENTENCE if last else LINE))
        self._open.clear()
        self._line = self._unit = at + 1


def _is_ellipsis(stop: str) -> bool:
    return "…" in stop[-1:] or stop.endswith("..") or bool(re.search(r"\.[ \u00a0]\.$", stop))


def _is_caseless(character: str) -> bool:
    return character.isalpha() and unicodedata.category(character) == "Lo"


def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


def last_end(ends: Sequence[End], after: int, rank: int) -> End | None:
    """Return the last end of a rank after position `after`; None if there is none."""
    return next((end for end in reversed(ends) if end.position > after and end.rank == rank), None)
