"""Compare the branch on the page with the other branches."""

from __future__ import annotations

from dataclasses import dataclass

from jet.story.tree import Tree, shared_length, shared_pieces


def seeds_at(tree: Tree, offset: int) -> set[int | None]:
    """Return the seeds of all continuations that begin at an offset, after the same text as on the page.

    Continuations on all branches count. None stands for a continuation without a seed.
    """
    current_pieces = tree.branch().pieces
    seeds: set[int | None] = set()
    for branch in tree.branches.values():
        at = 0
        for span, start, end in branch.pieces:
            if at >= offset:
                generation = span.generation
                if (
                    at == offset
                    and start == 0
                    and generation
                    and shared_length(branch.pieces, current_pieces) >= offset
                ):
                    seeds.add(generation.sampling.seed)
                break
            at += end - start
    return seeds


def writer_text_missing_here(tree: Tree, branch: int) -> str:
    """Return the writer's text on `branch` that is not on the page's branch, without outer white space."""
    current_pieces = set(tree.branch().pieces)
    other_pieces = tree.branch(branch).pieces
    return "".join(
        p.text for p in other_pieces if p.span.author == "writer" and p not in current_pieces
    ).strip()


@dataclass(frozen=True)
class Versions:
    """The versions of one continuation, oldest first, and the index of the version on the page.

    Attributes:
        branches: for each version, the id of a branch that has it.
        at: the index of the version on the page.
    """

    branches: tuple[int, ...]
    at: int


def versions(tree: Tree) -> Versions | None:
    """Return the versions of the latest continuation on the page that has more than one; None if none has.

    Versions are continuations that begin after the same pieces. A branch counts as having a version also if
    it was continued after that version.
    """
    current = tree.branch().pieces
    found: dict[int, dict[int, int]] = {}  # by index of the first piece: spans, and a branch with each
    for branch in tree.branches.values():
        index = shared_pieces(branch.pieces, current)
        if index < min(len(branch.pieces), len(current)):
            one, other = branch.pieces[index], current[index]
            both = (one, other)
            if one.span.id != other.span.id and all(p.start == 0 and p.span.generation for p in both):
                found.setdefault(index, {})[one.span.id] = branch.id
    if not found:
        return None
    index = max(found)
    span = current[index].span.id
    spans = sorted(found[index].keys() | {span})
    branches = {**found[index], span: tree.current}
    return Versions(tuple(branches[one] for one in spans), spans.index(span))
