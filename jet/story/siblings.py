"""What the other branches of a story have beside the one on the page."""

from __future__ import annotations

from jet.story.tree import Tree, shared_length


def seeds_at(tree: Tree, offset: int) -> set[int | None]:
    """The seeds of all continuations that begin at an offset, behind the text that the page has before it."""
    here = tree.branch().pieces
    found: set[int | None] = set()
    for branch in tree.branches.values():
        at = 0
        for span, start, end in branch.pieces:
            if at >= offset:
                made = span.generation
                if at == offset and start == 0 and made and shared_length(branch.pieces, here) >= offset:
                    found.add(made.sampling.seed)
                break
            at += end - start
    return found


def left_behind(tree: Tree, branch: int) -> str:
    """What the writer wrote on that branch and the one on the page does not have."""
    here = set(tree.branch().pieces)
    there = tree.branch(branch).pieces
    return "".join(p.text for p in there if p.span.author == "writer" and p not in here).strip()
