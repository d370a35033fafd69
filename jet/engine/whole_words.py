"""Cut the beginning of a continuation so that it can stand by itself."""

from __future__ import annotations

import re

from jet.engine.text.sentence_end import SENTENCE, sentence_ends

_LAST_WORD = re.compile(r"\s\S*$")


def whole_words(text: str, is_complete: bool) -> str:
    """Return the beginning of a continuation up to the first end of a sentence or line, without half a word.

    Returns "" if this beginning has no letters or digits.

    Args:
        text: the continuation.
        is_complete: whether its last word is known to be whole.
    """
    line, line_break, _ = text.partition("\n")
    ends = [end.position for end in sentence_ends(line) if end.rank == SENTENCE]
    if ends:
        line = line[: ends[0]]
    elif not is_complete and not line_break and line.strip():
        cut = _LAST_WORD.search(line)
        line = line[: cut.start()] if cut and cut.start() else line if cut is None else ""
    line = line.rstrip()
    return line if any(map(str.isalnum, line)) else ""
