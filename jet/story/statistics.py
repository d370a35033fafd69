"""Count the words of a story by author."""

from __future__ import annotations

import re

from jet.story.tree import Branch

# As in assets/web/word_count.js: runs of letters and digits; of Chinese and Japanese each character.
_IDEOGRAM = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_IDEOGRAM}]|(?:(?![{_IDEOGRAM}_])\w)+(?:['’.‑-](?:(?![{_IDEOGRAM}_])\w)+)*")


def words_by_author(branch: Branch) -> tuple[int, int]:
    """Return the numbers of the writer's and of the model's words.

    A word that both have written is counted for whoever began it.
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
