"""Split HTML into tags and text in one pass, in time linear in the length of any input.

Python's own parser takes quadratic time for some damaged pages. An incomplete tag becomes text.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

from jet.story.errors import StoryFileError

_RAW = (
    "script",
    "style",
    "textarea",
    "title",
    "xmp",
    "noscript",
    "iframe",
)  # up to their own end they are text
_TAG = re.compile(r"<(/?)([a-zA-Z][\w:.-]{0,60})((?:\"[^\"<]*\"|'[^'<]*'|[^\"'<>]){0,50000})>")
_ATTRIBUTE = re.compile(r"([\w:.-]{1,60})(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?")
MAX_ELEMENTS = 200_000  # tags of an index
_MAX_ATTRIBUTES = 5_000  # characters of a tag that are looked at


class Token(NamedTuple):
    """A tag, or text.

    Attributes:
        kind: "start", "end", "text", or "raw" for the content of an element in `_RAW`, such as a script.
        name: the tag's name in lowercase; for "raw" the name of the element around it.
        text: the text of "text" and "raw", with entities replaced.
        attributes: the attributes of a start tag, by lowercase name.
        closed: whether a start tag is self-closing.
    """

    kind: str
    name: str
    text: str
    attributes: dict[str, str]
    closed: bool = False


def tokens(page: str) -> Iterator[Token]:
    """Yield the tokens of a page in order."""
    at, missing = 0, set[str]()  # ends of raw elements and comments that never come
    while at < len(page):
        if page[at] != "<":
            end = page.find("<", at)
            end = len(page) if end < 0 else end
            yield _text(page[at:end])
            at = end
            continue
        skipped = _skipped(page, at, missing)
        if skipped:
            at = skipped
            continue
        found = _TAG.match(page, at)
        if found is None:  # text up to what may be a tag again
            end = page.find("<", at + 1)
            end = len(page) if end < 0 else end
            yield _text(page[at:end])
            at = end
            continue
        at = found.end()
        name = found[2].lower()
        if found[1]:
            yield Token("end", name, "", {})
            continue
        closed = found[3].rstrip().endswith("/")
        yield Token("start", name, "", _attributes(found[3]), closed)
        if name in _RAW and not closed and name not in missing:
            end = _end_of_raw(page, at, name)
            if end < 0:
                missing.add(name)
            else:
                yield Token("raw", name, html.unescape(page[at:end]), {})
                at = end


class Element(NamedTuple):
    """An element of a small XML file: name without namespace, attributes, and text after its start tag."""

    name: str
    attributes: dict[str, str]
    text: str


def elements(page: str) -> list[Element]:
    """Return the elements of a small XML file in order; entities that the file defines are not expanded.

    Raises StoryFileError if the file has too many elements.
    """
    if page.count("<") > MAX_ELEMENTS:
        raise StoryFileError("This file holds more than a story may have.")
    found: list[Element] = []
    for token in tokens(page):
        if token.kind == "start":
            found.append(Element(token.name.rpartition(":")[2], token.attributes, ""))
        elif token.kind in ("text", "raw") and found and not found[-1].text:
            found[-1] = found[-1]._replace(text=" ".join(token.text.split()))
    return found


def text_of_element(row: list[Element], name: str) -> str:
    """Return the text of the first element with this name and any text; "" if there is none."""
    return next((element.text for element in row if element.name == name and element.text), "")


def _skipped(page: str, at: int, missing: set[str]) -> int:
    """Return the end of the comment, declaration or instruction that begins at `at`; 0 if there is none.

    `missing` collects the end marks that the rest of the page does not have, so that each is searched once.
    """
    for start, end in (("<!--", "-->"), ("<![CDATA[", "]]>"), ("<!", ">"), ("<?", ">")):
        if page.startswith(start, at) and end not in missing:
            found = page.find(end, at + len(start))
            if found >= 0:
                return found + len(end)
            missing.add(end)
    return 0


def _end_of_raw(page: str, at: int, name: str) -> int:
    found = re.compile(f"</{name}", re.IGNORECASE).search(page, at)
    return found.start() if found else -1


def _text(text: str) -> Token:
    return Token("text", "", html.unescape(text) if "&" in text else text, {})


def _attributes(given: str) -> dict[str, str]:
    found = _ATTRIBUTE.finditer(given[:_MAX_ATTRIBUTES])
    return {match[1].lower(): html.unescape(match[2] or match[3] or match[4] or "") for match in found}
