"""The branches of a story. Every operation on a tree returns a new tree, which shares unchanged parts.

Each branch holds its whole text as pieces of spans, so no branch depends on another: an edit of text that two
branches share changes one of them only. Common text is found by comparing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jet.affixes import common_prefix
from jet.story.errors import StoryError
from jet.story.guidance import Guidance
from jet.story.matching import is_word
from jet.story.pieces import Pieces, length_of, text_of

MAX_BRANCHES = 256
MAX_CHARACTERS = 4_000_000  # of one branch: about twelve times a long novel
MAX_NAME = 200
PREVIEW = 80  # characters


@dataclass(frozen=True)
class Branch:
    """One version of the story, from its first word to its last."""

    id: int
    pieces: Pieces = ()
    name: str = ""
    parent: int | None = None  # the branch it was made from; None for the first

    @property
    def text(self) -> str:
        """Return the whole text."""
        return text_of(self.pieces)


@dataclass(frozen=True)
class BranchView:
    """A branch as the page lists it.

    Attributes:
        depth: 0 for a branch without parent, otherwise the parent's depth plus one.
        fork: the offset from which the branch differs from its parent; 0 without a parent.
        length: the number of characters of the whole text.
        preview: the first words from the fork on, on one line.
        current: whether this is the branch on the page.
        number: the place among all branches by order of creation, from 1.
    """

    id: int
    name: str
    parent: int | None
    depth: int
    fork: int
    length: int
    preview: str
    current: bool
    number: int


@dataclass(frozen=True)
class Comparison:
    """The text that two branches have in common at their start, and the rest of each."""

    common: str
    first: str
    second: str


@dataclass(frozen=True)
class Tree:
    """The branches of a story, and the guidance.

    Attributes:
        branches: id → branch, oldest first. Parents never form a cycle.
        current: the id of the branch on the page.
        guidance: memory, note, lorebook and instruction.
    """

    branches: Mapping[int, Branch]
    current: int
    guidance: Guidance = field(default_factory=Guidance)

    def branch(self, branch: int | None = None) -> Branch:
        """Return the branch with that id, or the branch on the page for None.

        Raises StoryError if there is no such branch.
        """
        found = self.branches.get(self.current if branch is None else branch)
        if found is None:
            raise StoryError(f"This story has no branch {branch}: it may have been pruned.")
        return found

    def with_branch(self, branch: Branch, show: bool = False) -> Tree:
        """Return the tree with a branch added or replaced; with `show`, it is on the page.

        Raises StoryError if there are too many branches or characters.
        """
        if branch.id not in self.branches and len(self.branches) >= MAX_BRANCHES:
            raise StoryError(f"A story can have {MAX_BRANCHES} branches: prune some first.")
        check_length(length_of(branch.pieces))
        branches = {**self.branches, branch.id: branch}
        return replace(self, branches=branches, current=branch.id if show else self.current)

    def selecting(self, branch: int) -> Tree:
        """Return the tree with another branch on the page."""
        return replace(self, current=self.branch(branch).id)

    def without(self, branch: int) -> Tree:
        """Return the tree without one branch, whose parent adopts its children.

        If the removed branch has no parent, its oldest child takes its place. If the removed branch was on
        the page, its parent or this child goes on the page, or else the oldest branch. Raises StoryError for
        the only branch.
        """
        removed = self.branch(branch)
        rest = [other for other in self.branches.values() if other.id != removed.id]
        if not rest:
            raise StoryError("The only branch cannot be pruned.")
        parent = removed.parent
        if parent is None:  # its oldest child takes its place, and the other children
            parent = next((other.id for other in rest if other.parent == removed.id), None)
        branches = {
            other.id: replace(other, parent=None if other.id == parent and removed.parent is None else parent)
            if other.parent == removed.id
            else other
            for other in rest
        }
        current = self.current
        if current == removed.id:
            current = parent if parent is not None else rest[0].id
        return replace(self, branches=branches, current=current)

    def origin(self, branch: int, offset: int) -> int:
        """Return the oldest ancestor of a branch, or the branch itself, with the same text up to the offset.

        A branch that is forked at the offset becomes a child of the result, so that several attempts at one
        place are siblings.
        """
        found = self.branch(branch)
        while found.parent is not None:
            parent = self.branches[found.parent]
            if shared_length(found.pieces, parent.pieces) < offset:
                break
            found = parent
        return found.id

    def ancestors(self, branch: int) -> list[int]:
        """Return the ids of the branch's parent, of the parent's parent, and so on."""
        found: list[int] = []
        parent = self.branch(branch).parent
        while parent is not None:
            found.append(parent)
            parent = self.branches[parent].parent
        return found

    def outline(self) -> list[BranchView]:
        """Return all branches, each followed by its children."""
        children: dict[int | None, list[Branch]] = {}
        for branch in self.branches.values():
            children.setdefault(branch.parent, []).append(branch)
        found: list[BranchView] = []
        stack = [(branch, 0) for branch in reversed(children.get(None, []))]
        while stack:
            branch, depth = stack.pop()
            found.append(self._view(branch, depth))
            stack += [(child, depth + 1) for child in reversed(children.get(branch.id, []))]
        return found

    def number(self, branch: int) -> int:
        """Return the place of a branch in the order of creation, from 1. Ids are given in that order."""
        return 1 + sum(id < branch for id in self.branches)

    def compare(self, first: int, second: int) -> Comparison:
        """Return the common beginning of two branches and how each continues."""
        a, b = self.branch(first).text, self.branch(second).text
        common = common_prefix(a, b)
        return Comparison(a[:common], a[common:], b[common:])

    def _view(self, branch: Branch, depth: int) -> BranchView:
        fork = 0
        if branch.parent is not None:
            fork = shared_length(branch.pieces, self.branches[branch.parent].pieces)
        text = branch.text
        # The word in which they part is shown whole; and a long run of white space would leave nothing of the
        # words, so a little more is looked at.
        start, first = fork, max(0, fork - PREVIEW // 2)
        while start > first and is_word(text[start - 1]):
            start -= 1
        preview = " ".join(text[start : start + 4 * PREVIEW].split())[:PREVIEW]
        current = branch.id == self.current
        return BranchView(
            branch.id,
            branch.name,
            branch.parent,
            depth,
            fork,
            len(text),
            preview,
            current,
            self.number(branch.id),
        )


def shared_length(a: Pieces, b: Pieces) -> int:
    """Return the number of characters that two sequences of pieces have in common at their start."""
    shared = shared_pieces(a, b)
    return length_of(a[:shared]) + common_prefix(text_of(a[shared:]), text_of(b[shared:]))


def shared_pieces(a: Pieces, b: Pieces) -> int:
    """Return the number of pieces that two sequences have in common at their start."""
    shared = 0
    for one, other in zip(a, b, strict=False):
        if one is not other and one != other:
            break
        shared += 1
    return shared


def check_length(characters: int) -> None:
    """Raise StoryError if a branch cannot have that many characters."""
    if characters > MAX_CHARACTERS:
        raise StoryError(
            f"A story can have {MAX_CHARACTERS:,} characters; this one would have {characters:,}."
        )


def check_name(name: str) -> str:
    """Return the name on one line, shortened to `MAX_NAME` characters."""
    return " ".join(name.split())[:MAX_NAME].rstrip()
