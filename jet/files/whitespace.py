"""Convert control characters and white space for files of word processors and web pages, and back.

XML cannot contain control characters, and word processors turn separators into line breaks. Files that this
program writes have a visible sign for each, in a style of its own; reading restores the character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from jet.files.markup import Run

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SIGNS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}  # "␁"
_SIGNS |= {0x85: 0x2424, 0x2028: 0x21B5, 0x2029: 0xB6, 0xFFFE: 0xF8FE, 0xFFFF: 0xF8FF}
_CHARACTERS = {sign: code for code, sign in _SIGNS.items()}
_CONTROLS = re.compile(f"([{re.escape(''.join(map(chr, _SIGNS)))}]+)")


def xml_text(text: str) -> str:
    """Drop the characters that XML cannot contain: control characters and lone surrogates."""
    return _NOT_XML.sub("", text)


def with_signs(run: Run) -> Iterator[Run]:
    """Split a run into plain runs and runs of control characters, each replaced by its visible sign."""
    for number, part in enumerate(_CONTROLS.split(run.text)):
        if part:
            is_control = number % 2 == 1
            yield Run(part.translate(_SIGNS) if is_control else part, run.mark, is_control)


def without_signs(text: str) -> str:
    """Replace the visible signs of control characters by the characters themselves."""
    return text.translate(_CHARACTERS)


def tidy_runs(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Join neighboring runs of one format, and move blanks at the edges of a marked run out of it.

    Word processors split runs at will, and often make the blank after an italic word italic as well. In plain
    text a mark must touch a word.
    """
    parts: list[Run] = []
    for text, mark in _joined((run.text, run.mark) for run in runs):
        bare = text.strip()
        if not mark or not bare:
            parts.append(Run(text))
            continue
        start = text.index(bare)
        around = (Run(text[:start]), Run(bare, mark), Run(text[start + len(bare) :]))
        parts.extend(part for part in around if part.text)
    return tuple(Run(text, mark) for text, mark in _joined((part.text, part.mark) for part in parts))


def _joined(parts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Merge neighbors with the same mark, and drop empty texts."""
    joined: list[tuple[list[str], str]] = []
    for text, mark in parts:
        if not text:
            continue
        if joined and joined[-1][1] == mark:
            joined[-1][0].append(text)
        else:
            joined.append(([text], mark))
    return [("".join(texts), mark) for texts, mark in joined]
