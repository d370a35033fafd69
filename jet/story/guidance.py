"""Guidance for the model beside the story: memory, author's note, lorebook, instruction. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from jet.story.errors import StoryError

NoteUnit = Literal["lines", "paragraphs"]
ScanUnit = Literal["characters", "paragraphs"]

MAX_DEPTH = 1_000
MAX_SCAN = 1_000_000
MAX_ORDER = 1_000_000


@dataclass(frozen=True)
class AuthorsNote:
    """A note that stands close to where the model continues, where it weighs most.

    Attributes:
        text: empty for no note.
        depth: the note stands before the last `depth` lines or paragraphs of the story; 1 to `MAX_DEPTH`.
        unit: unit of `depth`. Blank lines do not count as lines; paragraphs are separated by blank lines.
    """

    text: str = ""
    depth: int = 3
    unit: NoteUnit = "lines"

    def __post_init__(self) -> None:
        _check("The depth of the author's note", self.depth, 1, MAX_DEPTH)
        _check_unit("The depth of the author's note", self.unit, get_args(NoteUnit))


@dataclass(frozen=True)
class LoreEntry:
    """A text that the model is given when the story mentions one of its keywords.

    Attributes:
        title: for the writer only; not in the prompt.
        keywords: any of them triggers the entry. Empty ones trigger nothing.
        content: the text for the model.
        enabled: whether the entry is used at all.
        constant: whether the entry is always in the prompt, without a keyword.
        case_sensitive: whether "Rose" and "rose" differ.
        whole_word: whether "rose" matches that word only, not "roses"; `matching` defines words for every
            script.
        order: entries with a lower number come first, and are omitted last.
        scan_depth: how much of the story's end is scanned for keywords; 1 to `MAX_SCAN`.
        scan_unit: unit of `scan_depth`.
        secondary_keywords: if there are any, one of them must match as well.
        anti_keywords: a match of any of them suppresses the entry.
    """

    title: str = ""
    keywords: tuple[str, ...] = ()
    content: str = ""
    enabled: bool = True
    constant: bool = False
    case_sensitive: bool = False
    whole_word: bool = True
    order: int = 100
    scan_depth: int = 4_000
    scan_unit: ScanUnit = "characters"
    secondary_keywords: tuple[str, ...] = ()
    anti_keywords: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("The order of a lore entry", self.order, -MAX_ORDER, MAX_ORDER)
        _check("The scan depth of a lore entry", self.scan_depth, 1, MAX_SCAN)
        _check_unit("The scan depth of a lore entry", self.scan_unit, get_args(ScanUnit))


@dataclass(frozen=True)
class Guidance:
    """All guidance of a story.

    Attributes:
        memory: the text at the top of the prompt.
        note: the author's note.
        lore: the lorebook.
        about: the subject that a chat model is asked to write about. If it is empty, the model only continues
            the story.
    """

    memory: str = ""
    note: AuthorsNote = field(default_factory=AuthorsNote)
    lore: tuple[LoreEntry, ...] = ()
    about: str = ""


def _check(what: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise StoryError(f"{what} must be a whole number from {low} to {high}, not {value!r}.")


def _check_unit(what: str, value: object, units: tuple[str, ...]) -> None:
    if value not in units:
        raise StoryError(f"{what} counts {' or '.join(units)}, not {value!r}.")
