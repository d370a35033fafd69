"""Stories with what rules found in them: headings, people, facts and stock phrases, as JSON lines."""

from __future__ import annotations

import dataclasses
import json
import lzma
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.training.facts import Fact, find_facts
from scripts.training.headings import body_start, find_headings
from scripts.training.people import find_people
from scripts.training.stock_phrases import PhraseFinder

Span = tuple[int, int]
PICTURE_BOOK = 5_500  # characters; shorter modern texts are picture books
RARE = 4  # copies of a story told by an "I", of which there are few
_QUOTED = re.compile(r"[“\"][^”\"\n]*[”\"]")
_I = re.compile(r"\b(?:I|my|me)\b")


@dataclass(frozen=True)
class PreparedStory:
    """One story, ready to be made into rows.

    Attributes:
        text: the whole story, title and headings included.
        body: first character after the title and the headings under it.
        headings: spans of the headings after `body`, each with the blank line behind it.
        people: gender of each person, "f", "m" or "".
        facts: facts of the body, in their order.
        stock: spans of stock phrases.
        is_tale: a classic or a picture book: read whole, behind its mark.
        copies: how often an epoch reads it.
    """

    text: str
    body: int
    headings: tuple[Span, ...] = ()
    people: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: tuple[Fact, ...] = ()
    stock: tuple[Span, ...] = ()
    is_tale: bool = False
    copies: int = 1

    def dump(self) -> str:
        """Return the story as one line of JSON."""
        facts = [[f.start, f.kind, f.subject, list(f.says)] for f in self.facts]
        return json.dumps({**vars(self), "facts": facts}, ensure_ascii=False)

    @staticmethod
    def parse(line: str) -> PreparedStory:
        """Read a line that `dump` returned."""
        values = json.loads(line)
        for name in ("headings", "stock"):
            values[name] = tuple((start, end) for start, end in values[name])
        facts = ((start, kind, subject, tuple(says)) for start, kind, subject, says in values["facts"])
        values["facts"] = tuple(Fact(*fact) for fact in facts)
        return PreparedStory(**values)


def prepare(text: str, phrases: PhraseFinder | None) -> PreparedStory:
    """Apply all rules to a cleaned story.

    For classics, whose `phrases` are None, and for picture books, apply only the rules for headings.
    """
    body = body_start(text)
    headings = tuple(find_headings(text, body))
    if phrases is None or len(text) < PICTURE_BOOK:
        return PreparedStory(text, body, headings, is_tale=True)
    people = find_people(text)
    facts = tuple(find_facts(text, people, body))
    stock = tuple(phrases.spans(text))
    return PreparedStory(
        text, body, headings, people, facts, stock, copies=RARE if is_first_person(text) else 1
    )


def is_first_person(text: str) -> bool:
    """Return whether the narrator, outside of quotation marks, says "I"."""
    narration = _QUOTED.sub("", text)
    return len(_I.findall(narration)) > len(narration) / 500


def write_prepared(stories: Iterable[PreparedStory], path: Path) -> None:
    """Write stories to an xz-compressed file of JSON lines."""
    with lzma.open(path, "wt", encoding="utf-8", preset=6) as file:
        file.writelines(story.dump() + "\n" for story in stories)


def read_prepared(path: Path) -> list[PreparedStory]:
    """Read a file that `write_prepared` wrote."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [PreparedStory.parse(line) for line in file]
