"""Count the words of a story by author, and find the word around a place."""

from __future__ import annotations

import re

from jet.story.tree import Branch

# As in assets/web/word_count.js: runs of letters and digits; of Chinese and Japanese each character.
_IDEOGRAM = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_IDEOGRAM}]|(?:(?![{_IDEOGRAM}_])\w)+(?:['’.‑-](?:(?![{_IDEOGRAM}_])\w)+)*")
_LONGEST_WORD = 60  # characters; a longer run is of a script without blanks


def rest_of_word(text: str, start: int, end: int) -> tuple[str, str]:
    """Return the letters before and after `text[start:end]` that complete its first and its last word.

    Words of more than 60 characters are not completed.
    """
    from_ = max(0, start - _LONGEST_WORD)
    near = text[from_ : end + _LONGEST_WORD]
    before = behind = ""
    for word in _WORD.finditer(near):
        first, last = from_ + word.start(), from_ + word.end()
        if last - first > _LONGEST_WORD:
            continue
        if first < start < last:
            before = text[first:start]
        if first < end < last:
            behind = text[end:last]
    return before, behind


def words_by_author(branch: Branch) -> tuple[int, int]:
    """Return the number of the writer's words and the number of the model's words.

    A word that both have written counts for the author of its first character.
    """
    text = branch.text
    ends, authors, at = [], [], 0
    for piece in branch.pieces:
        at += piece.end - piece.start
        ends.append(at)
        authors.append(piece.span.author)
    counts, index = {"writer": 0, "model": 0}, 0
    for match in _WORD.finditer(text):
        while ends[index] <= match.start():
            index += 1
        counts[authors[index]] += 1
    return counts["writer"], counts["model"]
