"""Read RTF, as older word processors save it: text, headings, italics and bold.

Nested groups are read without recursion, so that no file can exhaust the stack.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from jet.files.losses import Losses
from jet.files.markup import Manuscript, Run, free_block, spaced
from jet.files.whitespace import tidy_runs
from jet.story.errors import StoryFileError

MAX_GROUPS = 2_000  # nested
MAX_MARKS = 200_000  # braces and control words that mean something here
MAX_CONTROLS = 2_500_000  # of all kinds
_TOKEN = re.compile(
    rb"((?:\\u-?\d{1,6} ?(?:\?|\\'[0-9a-fA-F]{2})?){1,2000})|((?:\\'[0-9a-fA-F]{2}){1,2000})"
    rb"|\\(?:([a-zA-Z]{1,40})(-?\d{1,10})? ?|([^a-zA-Z0-9]))|([{}])|[\r\n]+|([^\\{}\r\n]+)|\\",
    re.DOTALL,
)
_UNIT = re.compile(rb"\\u(-?\d+) ?(\?|\\'..)?")  # a character of such a run, and its stand-in
_SIGNS = {
    "par": "\n", "sect": "\n", "page": "\n", "row": "\n", "cell": "\n", "line": "\v", "tab": "\t",
    "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“", "rdblquote": "”",
    "bullet": "•",
    "emspace": "\u2003", "enspace": "\u2002", "zwj": "\u200d", "zwnj": "\u200c", "ltrmark": "\u200e",
    "rtlmark": "\u200f",
}  # fmt: skip
_SYMBOLS = {
    "~": "\N{NO-BREAK SPACE}",
    "_": "\N{NON-BREAKING HYPHEN}",
    "\\": "\\",
    "{": "{",
    "}": "}",
    "\n": "\n",
    "\r": "\n",
}
_SILENT = frozenset(
    [
        "fonttbl",
        "colortbl",
        "listtable",
        "listoverridetable",
        "revtbl",
        "rsidtbl",
        "generator",
        "xmlnstbl",
        "themedata",
        "header",
        "headerl",
        "headerr",
        "headerf",
        "footer",
        "footerl",
        "footerr",
        "footerf",
        "fldinst",
        "datastore",
        "latentstyles",
        "pgdsctbl",
        "nonshppict",
        "object",
        "bkmkstart",
        "bkmkend",
        "filetbl",
        "listtext",
        "pntext",
    ]
)
_LOST = {
    "pict": ("picture", "pictures"),
    "footnote": ("footnote", "footnotes"),
    "annotation": ("comment", "comments"),
}
_PAGES = {"ansi": "cp1252", "mac": "mac_roman", "pc": "cp437", "pca": "cp850"}


_KNOWN = frozenset(
    word.encode()
    for word in (
        *_SIGNS, *_SILENT, *_LOST, *_PAGES,
        *("u", "uc", "i", "b", "plain", "pard", "s", "outlinelevel", "ansicpg"),
        *("info", "title", "author", "stylesheet", "trowd", "deleted"),
    )
)  # fmt: skip


class _State(NamedTuple):
    italic: bool = False
    bold: bool = False
    silent: bool = False
    keeps: str = ""  # what its text is kept as instead: "title", "author", "style"
    unicode_skip: int = 1
    style: int = 0
    level: int = 0

    @property
    def mark(self) -> str:
        return ("**" if self.bold else "") + ("*" if self.italic else "")


def read_rtf(data: bytes, losses: Losses) -> tuple[Manuscript, str, str]:
    """Read an RTF file: its text, title and author. Raises StoryFileError for other and damaged files."""
    if not data.lstrip()[:5].startswith(b"{\\rtf"):
        raise StoryFileError("This is no RTF file.")
    reader = _Reader(losses)
    reader.read(data)
    return (
        reader.manuscript(),
        " ".join(reader.kept["title"].split()),
        " ".join(reader.kept["author"].split()),
    )


class _Reader:
    def __init__(self, losses: Losses) -> None:
        self.kept = {"title": "", "author": "", "style": ""}
        self._losses = losses
        self._stack: list[_State] = []
        self._state = _State()
        self._page = "cp1252"
        self._bytes = bytearray()  # of a character that may have several
        self._skip = 0
        self._high = 0  # the first half of a surrogate pair
        self._lines: list[list[Run]] = [[]]
        self._paragraphs: list[tuple[int, list[list[Run]]]] = []
        self._styles: dict[int, int] = {}

    def read(self, data: bytes) -> None:
        marks = 0
        for count, found in enumerate(_TOKEN.finditer(data)):
            units, codes, word, number, symbol, brace, text = found.groups()
            if marks > MAX_MARKS or count > MAX_CONTROLS:
                raise StoryFileError("This RTF file holds more than a story may have.")
            if text is not None:
                self._plain(text)
                continue
            if codes is not None:
                self._plain(bytes.fromhex(codes.replace(b"\\'", b"").decode()))
                continue
            if word is not None and word not in _KNOWN:
                continue
            if units is not None:
                self._units(units)
                continue
            marks += 1
            self._flush()
            if brace is not None:
                self._brace(brace)
            elif word is not None:
                self._word(word.decode(), None if number is None else int(number))
            elif symbol is not None:
                self._symbol(symbol.decode("latin-1"))
        self._flush()
        self._end_paragraph()

    def _brace(self, brace: bytes) -> None:
        self._skip = 0
        if brace == b"{":
            if len(self._stack) >= MAX_GROUPS:
                raise StoryFileError("This RTF file is damaged: it is nested too deeply.")
            self._stack.append(self._state)
        elif self._stack:
            if self._state.keeps == "style":
                self._name_style()
            self._state = self._stack.pop()

    def _symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._state = self._state._replace(silent=True)
        elif symbol in _SYMBOLS:
            self._put(_SYMBOLS[symbol])

    def _word(self, word: str, number: int | None) -> None:
        if word == "u" and number is not None:
            self._unicode(number)
        elif word in _SIGNS:
            self._put(_SIGNS[word])
        elif word in ("i", "b"):
            on = number != 0
            self._state = self._state._replace(italic=on) if word == "i" else self._state._replace(bold=on)
        elif word == "plain":
            self._state = self._state._replace(italic=False, bold=False)
        elif word == "pard":
            self._state = self._state._replace(style=0, level=0)
        elif word == "uc":
            self._state = self._state._replace(unicode_skip=max(0, min(10, number or 0)))
        elif word == "s" and number is not None:
            self._state = self._state._replace(style=number, level=self._styles.get(number, 0))
        elif word == "outlinelevel" and number is not None and 0 <= number < 6:
            self._state = self._state._replace(level=number + 1)
        else:
            self._setting(word, number)

    def _setting(self, word: str, number: int | None) -> None:
        if word in _PAGES or word == "ansicpg":
            name = _PAGES.get(word) or {65001: "utf-8", 10000: "mac_roman"}.get(number or 0, f"cp{number}")
            self._page = name if _is_known(name) else self._page
        elif word in ("title", "author"):
            self._state = self._state._replace(keeps=word, silent=False)
        elif word == "stylesheet":
            self._state = self._state._replace(keeps="style", silent=False)
        elif word in _LOST:
            self._losses.count(*_LOST[word])
            self._state = self._state._replace(silent=True)
        elif word in _SILENT or word == "info":
            self._state = self._state._replace(silent=True)
        elif word == "trowd":
            self._losses.count(
                "row of a table, of which the words were kept", "rows of tables, of which the words were kept"
            )
        elif word == "deleted" and number != 0:
            self._state = self._state._replace(silent=True)

    def _unicode(self, number: int) -> None:
        number %= 0x10000
        self._skip = 0
        if 0xD800 <= number < 0xDC00:
            self._high = number
        elif 0xDC00 <= number < 0xE000:
            if self._high:
                self._put(chr(0x10000 + ((self._high - 0xD800) << 10) + number - 0xDC00))
            self._high = 0
        else:
            self._put(chr(number))
        self._skip = self._state.unicode_skip

    def _units(self, units: bytes) -> None:
        """Append UTF-16 code units, and skip the plain-text fallback that may follow each."""
        found = _UNIT.findall(units)
        self._flush()
        standing = {bool(instead) for _, instead in found}
        if standing == {bool(self._state.unicode_skip)} and self._state.unicode_skip < 2 and not self._high:
            numbers = [int(number) % 0x10000 for number, _ in found]
            if not 0xD800 <= numbers[-1] < 0xDC00:
                packed = b"".join(number.to_bytes(2, "little") for number in numbers)
                self._put(packed.decode("utf-16-le", "ignore"))
                self._skip = 0
                return
        for number, instead in found:
            self._unicode(int(number))
            self._plain(bytes.fromhex(instead[2:].decode()) if len(instead) > 1 else instead)
            self._flush()

    def _plain(self, text: bytes) -> None:
        dropped, self._skip = min(self._skip, len(text)), max(0, self._skip - len(text))
        self._bytes += text[dropped:]

    def _flush(self) -> None:
        if self._bytes:
            self._put(self._bytes.decode(self._page, "replace"))
            self._bytes.clear()

    def _put(self, text: str) -> None:
        if self._state.keeps:
            self.kept[self._state.keeps] += text
            return
        if self._state.silent:
            return
        if "\n" not in text and "\v" not in text:
            self._lines[-1].append(Run(text, self._state.mark))
            return
        for number, line in enumerate(text.split("\n")):
            if number:
                self._end_paragraph()
            for place, part in enumerate(line.split("\v")):
                if place:
                    self._lines.append([])
                if part:
                    self._lines[-1].append(Run(part, self._state.mark))

    def _end_paragraph(self) -> None:
        if any(self._lines):
            self._paragraphs.append((self._state.level, self._lines))
        self._lines = [[]]

    def _name_style(self) -> None:
        """Record the heading level of a style by its name, such as "heading 2;".

        The name is the text at the end of the style's group.
        """
        name = self.kept["style"].strip().rstrip(";").lower()
        self.kept["style"] = ""
        found = re.fullmatch(r"heading ([1-6])|title", name)
        if found and self._state.style:
            self._styles[self._state.style] = int(found[1] or 1)

    def manuscript(self) -> Manuscript:
        """Return the paragraphs that have text as a manuscript."""
        blocks = []
        for level, lines in self._paragraphs:
            tidy = tuple(tidy_runs(line) for line in lines)
            if any(run.text.strip() for line in tidy for run in line):
                blocks.append(free_block(tidy, level))
        return spaced(blocks)


def _is_known(name: str) -> bool:
    try:
        return bool(codecs.lookup(name))
    except LookupError:
        return False
