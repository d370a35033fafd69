"""Import stories from EPUB books and HTML pages."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from urllib.parse import unquote

from jet.files.html_tokens import Element, Token, elements, text_of_element, tokens
from jet.files.losses import Losses
from jet.files.markup import Block, Manuscript, Run, free_block, spaced
from jet.files.package import open_zip, read_member
from jet.files.whitespace import tidy_runs, without_signs
from jet.story.errors import StoryFileError

MAX_MEMBER = 20_000_000
MAX_INDEX = 4_000_000  # bytes of a book's index
MAX_CSS = 1_000_000
MAX_RULES = 4_000  # characters of a rule in a style sheet that are looked at
MAX_DEPTH = 2_000
MAX_TAGS = 200_000  # of all pages
MAX_BLOCKS = 400_000
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "blockquote",
        "li",
        "dd",
        "dt",
        "td",
        "th",
        "pre",
        "body",
        "header",
        "footer",
        "aside",
        "main",
        "figcaption",
        "center",
        "address",
        "tr",
        "table",
        "ul",
        "ol",
        "dl",
    ]
) | frozenset(_HEADINGS)
_SILENT = frozenset(
    [
        "script",
        "style",
        "head",
        "nav",
        "template",
        "title",
        "svg",
        "math",
        "rt",
        "rp",
        "noscript",
        "iframe",
        "textarea",
        "select",
        "object",
    ]
)
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
_ITALIC, _BOLD = {"em", "i", "cite", "dfn", "var"}, {"strong", "b"}
_LOST = {
    "img": ("picture", "pictures"), "svg": ("picture", "pictures"), "audio": ("sound", "sounds"),
    "video": ("film", "films"), "math": ("formula", "formulas"),
    "table": ("table, of which the words were kept", "tables, of which the words were kept"),
}  # fmt: skip
_NOT_STORY = ("titlepage", "cover", "toc", "landmarks")  # what pages of a book may be besides its text
_CLASS = re.compile(r"(?:/\*.*\*/)?\s*(?:span|p|em|i|b|strong)?\.([\w-]{1,80})", re.DOTALL)
_SPACES = re.compile(r"[ \t\r\n\f]+")

Looks = dict[str, tuple[bool, bool]]  # whether a class is italic, and bold


def read_html(text: str, losses: Losses) -> tuple[Manuscript, str, str]:
    """Read an HTML page: its text, title and author. Raises StoryFileError."""
    _check([text])
    page = _Page(text, {}, losses)
    return _manuscript([page]), " ".join(page.title.split()), " ".join(page.author.split())


def read_epub(data: bytes, losses: Losses) -> tuple[Manuscript, str, str]:
    """Read an EPUB book: the text of its spine's pages, title and author. Raises StoryFileError."""
    with open_zip(data) as book:
        names = set(book.namelist())
        if "META-INF/rights.xml" in names or "META-INF/sinf.xml" in names:
            raise StoryFileError("This book is copy-protected: it cannot be read here.")
        opf_name = _opf_name(book)
        opf = elements(_text(read_member(book, opf_name, MAX_INDEX)))
        looks = _looks(
            _text(read_member(book, name, MAX_CSS)) for name in sorted(names) if name.endswith(".css")
        )
        spine = _spine(opf, opf_name, names, losses)
        texts = [_text(read_member(book, name, MAX_MEMBER)) for name in spine]
    _check(texts)
    pages = [_Page(text, looks, losses) for text in texts]
    return _manuscript(pages), text_of_element(opf, "title"), text_of_element(opf, "creator")


def _check(pages: Iterable[str]) -> None:
    """Raise StoryFileError if the pages are too large to be parsed."""
    if sum(page.count("<") for page in pages) > MAX_TAGS:
        raise StoryFileError("This file holds more than a story may have.")


# --- EPUB ------------------------------------------------------------------------------------------------


def _opf_name(book: zipfile.ZipFile) -> str:
    for element in elements(_text(read_member(book, "META-INF/container.xml", MAX_INDEX))):
        if element.name == "rootfile" and element.attributes.get("full-path"):
            return element.attributes["full-path"]
    raise StoryFileError("This book is damaged: it does not say where its text is.")


def _spine(opf: list[Element], opf_name: str, names: set[str], losses: Losses) -> list[str]:
    folder = posixpath.dirname(opf_name)
    items = {element.attributes.get("id"): element.attributes for element in opf if element.name == "item"}
    found: dict[str, None] = {}
    for reference in (element.attributes for element in opf if element.name == "itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "nav" in item.get("properties", "").split():
            continue
        href = unquote(item.get("href", "")).partition("#")[0]
        name = posixpath.normpath(posixpath.join(folder, href))
        if name not in names:
            losses.count("page that is missing in the book", "pages that are missing in the book")
        elif "html" in item.get("media-type", "html"):
            found[name] = None
    if not found:
        raise StoryFileError("This book is damaged: it has no text.")
    return [*found]


def _text(data: bytes) -> str:
    declared = re.search(rb"""(?:encoding|charset)=["']?([\w.-]{1,40})""", data[:1000])
    names = ["utf-8-sig", *([declared[1].decode("ascii", "replace")] if declared else []), "windows-1252"]
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        names = ["utf-16", *names]
    return next(filter(None, (_try(data, name) for name in names)), "") or data.decode("latin-1")


def _try(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return ""


def _looks(sheets: Iterable[str]) -> Looks:
    """Return the classes that style sheets make italic or bold: (italic, bold) by class name."""
    looks: Looks = {}
    for sheet in sheets:
        for rule in sheet.split("}"):
            selectors, _, rules = rule.rpartition("{")
            look = _look(rules[:MAX_RULES])
            for selector in selectors[-MAX_RULES:].split(",") if any(look) else ():
                found = _CLASS.fullmatch(selector.strip())
                if found:
                    old = looks.get(found[1], (False, False))
                    looks[found[1]] = (old[0] or look[0], old[1] or look[1])
    return looks


def _look(rules: str) -> tuple[bool, bool]:
    flat = rules.replace(" ", "").lower()
    italic = "font-style:italic" in flat or "font-style:oblique" in flat
    return italic, bool(re.search(r"font-weight:(?:bold|[6-9]00)", flat))


# --- pages -----------------------------------------------------------------------------------------------


class _Page:
    """Collects the blocks of an HTML page, in time linear in the page's length and without recursion."""

    def __init__(self, text: str, looks: Looks, losses: Losses) -> None:
        self.title = self.author = ""
        self.ours, self.is_story = False, True
        self.blocks: list[tuple[str, str, list[list[Run]]]] = []  # tag, classes, lines
        self._looks, self._losses = dict(looks), losses
        self._tag, self._classes = "body", ""
        self._lines: list[list[Run]] = [[]]
        self._open: list[tuple[str, tuple[str, ...]]] = []  # each tag with what it turns on
        self._names: Counter[str] = Counter()
        self._on: Counter[str] = Counter()
        self._around: list[str] = []  # blocks that are open
        for token in tokens(text):
            getattr(self, f"_{token.kind}")(token)
        self._close_block()

    def _start(self, token: Token) -> None:
        name, given = token.name.rpartition(":")[2], token.attributes
        if not self._on["silent"]:
            self._start_shown(name)
        if name == "meta" and given.get("name", "").lower() == "author":
            self.author = given.get("content", "")
        if name in _VOID or (token.closed and name not in _BLOCKS):
            return
        classes = given.get("class", "")
        if name in ("body", "section"):
            self._note_kind(name, given, classes.split())
        if name in _BLOCKS:
            self._close_block()
            self._tag, self._classes = name, classes
            self._around.append(name)
        if token.closed:
            self._close_block()
            self._leave_block()
            return
        if len(self._open) >= MAX_DEPTH:
            raise StoryFileError("This page is damaged: it is nested too deeply.")
        turned = self._turned(name, classes, given)
        self._open.append((name, turned))
        self._names[name] += 1
        self._on.update(turned)

    def _start_shown(self, name: str) -> None:
        if name in _LOST:
            self._losses.count(*_LOST[name])
        if name == "br":
            self._lines.append([])
        elif name == "hr":
            self._close_block()
            self.blocks.append(("hr", "", [[Run("* * *")]]))

    def _note_kind(self, name: str, given: dict[str, str], classes: list[str]) -> None:
        """Record whether this program wrote the page, and whether it is part of the story."""
        if name == "body":
            self.ours = "jet-story" in classes
        kinds = {*given.get("epub:type", "").split(), given.get("role", "").removeprefix("doc-"), *classes}
        if kinds & {*_NOT_STORY, "jet-title"}:
            self.is_story = False

    def _turned(self, name: str, classes: str, given: dict[str, str]) -> tuple[str, ...]:
        """Return the formats that an element turns on for its content, such as "italic"."""
        italic, bold = _look(given.get("style", ""))
        for one in classes.split()[:20]:
            look = self._looks.get(one, (False, False))
            italic, bold = italic or look[0], bold or look[1]
        turned = {
            "silent": name in _SILENT or (name == "header" and "title" in f"{classes} {given.get('id', '')}"),
            "control": self.ours and name == "span" and classes == "control",
            "lined": name == "em" and "lined" in classes.split(),
            "italic": name in _ITALIC or (italic and name not in _HEADINGS),
            "bold": name in _BOLD or (bold and name not in _HEADINGS),
        }
        return tuple(what for what, is_on in turned.items() if is_on)

    def _end(self, token: Token) -> None:
        tag = token.name.rpartition(":")[2]
        if not self._names[tag]:
            return
        while self._open:
            name, turned = self._open.pop()
            self._names[name] -= 1
            self._on.subtract(turned)
            if name in _BLOCKS:
                self._close_block()
                self._leave_block()
            if name == tag:
                break

    def _text(self, token: Token) -> None:
        if not self._on["silent"]:
            text = without_signs(token.text) if self._on["control"] else token.text
            self._lines[-1].append(Run(text, self._mark()))

    def _raw(self, token: Token) -> None:
        if token.name == "title" and not self.title:
            self.title = token.text
        elif token.name == "style":
            self._looks |= _looks([token.text[:MAX_CSS]])

    def _mark(self) -> str:
        if self._on["lined"]:
            return "_"
        return ("**" if self._on["bold"] else "") + ("*" if self._on["italic"] else "")

    def _leave_block(self) -> None:
        self._around.pop()
        self._tag, self._classes = (self._around[-1] if self._around else "body"), ""

    def _close_block(self) -> None:
        if any(self._lines):
            self.blocks.append((self._tag, self._classes, self._lines))
        elif "gap" in self._classes.split():
            self.blocks.append(("p", "gap", [[]]))
        if len(self.blocks) > MAX_BLOCKS:
            raise StoryFileError("This file holds more than a story may have.")
        self._lines = [[]]
        self._classes = ""


def _manuscript(pages: list[_Page]) -> Manuscript:
    if any(page.ours for page in pages):
        return _exact([block for page in pages if page.ours for block in page.blocks])
    read = [page for page in pages if page.is_story] or pages
    blocks = []
    for page in read:
        for tag, _, lines in page.blocks:
            made = tuple(line for line in map(_collapsed, lines) if any(run.text.strip() for run in line))
            if made:
                blocks.append(free_block(made, _HEADINGS.get(tag, 0)))
    return spaced(blocks)


def _exact(raw: list[tuple[str, str, list[list[Run]]]]) -> Manuscript:
    """Read a page that this program wrote; white space between blocks is ignored."""
    blocks: list[Block] = []
    gaps = 0
    for tag, given, lines in raw:
        classes = given.split()
        if tag == "body":
            continue
        if "gap" in classes:
            gaps += 1
            continue
        before = (1 if "close" in classes else 2 + gaps) if blocks else gaps
        made = tuple(map(tidy_runs, lines))
        if "scene" in classes:
            blocks.append(Block("scene", made[:1], before))
        elif tag in _HEADINGS:
            blocks.append(Block("heading", made[:1], before, 0 if "chapter" in classes else _HEADINGS[tag]))
        else:
            blocks.append(Block("paragraph", made, before))
        gaps = 0
    return Manuscript(tuple(blocks), gaps, exact=True)


def _collapsed(line: list[Run]) -> tuple[Run, ...]:
    """Collapse white space in a line as browsers do."""
    runs: list[Run] = []
    for run in tidy_runs(Run(_SPACES.sub(" ", run.text), run.mark) for run in line):
        text = run.text
        if text.startswith(" ") and (not runs or runs[-1].text.endswith(" ")):
            text = text[1:]
        if text:
            runs.append(Run(text, run.mark))
    if runs and runs[-1].text.endswith(" "):
        runs[-1] = Run(runs[-1].text.rstrip(" "), runs[-1].mark)
    return tuple(run for run in runs if run.text)
