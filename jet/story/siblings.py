"""What the other branches of a story have beside the one on the page."""

from __future__ import annotations

from jet.story.tree import Tree, shared_length


def seeds_at(tree: Tree, offset: int) -> set[int | None]:
    """The seeds of all continuations that begin at an offset, behind the text that the page has before it."""
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
    """What the writer wrote on that branch and the one on the page does not have."""
    current_pieces = set(tree.branch().pieces)
    other_pieces = tree.branch(branch).pieces
    return "".join(
        p.text for p in other_pieces if p.span.author == "writer" and p not in current_pieces
    ).strip()
