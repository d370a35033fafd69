"""Compare the branch on the page with the other branches."""

from __future__ import annotations

from jet.story.tree import Tree, shared_length


def seeds_at(tree: Tree, offset: int) -> set[int | None]:
    """Return the seeds of all continuations that begin at an offset behind the same text as the page's."""
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
    """Return the writer's text on a branch that the branch on the page does not have."""
    current_pieces = set(tree.branch().pieces)
    other_pieces = tree.branch(branch).pieces
    return "".join(
        p.text for p in other_pieces if p.span.author == "writer" and p not in current_pieces
    ).strip()
