"""What a writer tells the model beside the story: memory, author's note, lorebook. Plain data."""

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
    """A hint that stands close to where the model goes on, where it weighs most.

    Attributes:
        text: without text there is no note.
        depth: it stands before the last `depth` lines or paragraphs of the story; 1 to `MAX_DEPTH`.
        unit: what is counted. Lines are those with something on them; paragraphs stand between empty lines.
    """

    text: str = ""
    depth: int = 3
    unit: NoteUnit = "lines"

    def __post_init__(self) -> None:
        _check("The depth of the author's note", self.depth, 1, MAX_DEPTH)
        _check_unit("The depth of the author's note", self.unit, get_args(NoteUnit))


@dataclass(frozen=True)
class LoreEntry:
    """Something the model is told when the story comes to speak of it.

    Attributes:
        title: for the writer only; the model does not see it.
        keywords: any of them calls the entry up. Empty ones call nothing.
        content: what the model is told.
        enabled: whether the entry takes part at all.
        constant: it is told always, keyword or not.
        case_sensitive: whether "Rose" and "rose" differ.
        whole_word: whether "rose" does not match in "roses"; `matching` says where words end in which script.
        order: entries with a lower number come first, and are the last to be left out.
        scan_depth: how much of the story's end is searched for keywords; 1 to `MAX_SCAN`.
        scan_unit: what `scan_depth` counts.
        secondary_keywords: if there are any, one of them must come up as well.
        anti_keywords: the entry is not told where one of them comes up.
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
    """All that the model is told beside the story. `memory` always stands at the very top.

    Attributes:
        about: what a chat model was asked to write about; empty for a story that only goes on.
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
