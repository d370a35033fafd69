"""Encode a document as JSON of bounded size, by dropping its least important parts first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from jet.story.document import Document
from jet.story.format import branch_to_dict, dump, span_to_dict, to_dict
from jet.story.pieces import Piece, Span
from jet.story.tree import Branch, Tree


@dataclass(frozen=True)
class BoundedStory:
    """A document as JSON, or as much of it as fits.

    Attributes:
        text: the JSON, which `format.decode` reads. It always contains the text on the page.
        dropped: descriptions of what the JSON lacks, for the writer.
        fits: whether the JSON is within the limit.
    """

    text: str
    dropped: tuple[str, ...]
    fits: bool


def shrink(document: Document, limit: int, keep_branches: bool = False) -> BoundedStory:
    """Encode the document as JSON of at most `limit` bytes of UTF-8, if text and guidance allow.

    As far as necessary, parts are dropped in this order: alternatives of tokens, tokens, and the guidance of
    spans, each from the oldest span on; branches, oldest first, but ancestors of the branch on the page last;
    deleted text of the model's spans. With `keep_branches`, branches and deleted text are not dropped.
    Authorship is never dropped.
    """
    shrinker = _Shrinker(document, limit)
    shrinker.simplify_spans(_drop_alternatives, "the alternatives to the model's words in {} passages")
    shrinker.simplify_spans(_drop_tokens, "the probabilities of the model's words in {} passages")
    shrinker.simplify_spans(_drop_guidance, "what was sent to the model beside the story in {} passages")
    if not keep_branches:
        shrinker.drop_branches()
        shrinker.drop_deleted()
    return BoundedStory(shrinker.text, tuple(shrinker.dropped), shrinker.overflow <= 0)


class _Shrinker:
    def __init__(self, document: Document, limit: int) -> None:
        self.dropped: list[str] = []
        self._document = document
        self._limit = limit
        self._encode(document.tree)

    def simplify_spans(self, simplify: Callable[[Span], Span], what: str) -> None:
        """Replace spans by `simplify(span)`, oldest first, until the JSON fits.

        `what`: a description of the parts that are dropped, with {} for the number of spans.
        """
        if self.overflow <= 0:
            return
        spans = {p.span.id: p.span for branch in self._tree.branches.values() for p in branch.pieces}
        simplified: dict[int, Span] = {}
        for _, span in sorted(spans.items()):
            if self.overflow > 0 and (found := simplify(span)) is not span:
                simplified[span.id] = found
                self.overflow -= _size(span_to_dict(span)) - _size(span_to_dict(found))
        if simplified:
            self.dropped.append(what.format(len(simplified)))
            branches = {branch.id: _with_spans(branch, simplified) for branch in self._tree.branches.values()}
            self._encode(Tree(branches, self._tree.current))

    def drop_branches(self) -> None:
        """Drop branches, oldest first, until the JSON fits or only the branch on the page is left.

        Ancestors of the branch on the page are dropped last.
        """
        tree = self._tree
        ancestors = tree.ancestors(tree.current)
        others = [id for id in sorted(tree.branches) if id != tree.current and id not in ancestors]
        used = Counter(span for branch in tree.branches.values() for span in _spans(branch))
        dropped = 0
        for id in [*others, *sorted(ancestors)]:
            if self.overflow <= 0:
                self._encode(tree)  # exactly: children of a dropped branch have another parent
                if self.overflow <= 0:
                    break
            branch = tree.branches[id]
            self.overflow -= _size(branch_to_dict(branch)) + 1
            for span_id, span in _spans(branch).items():
                used[span_id] -= 1
                self.overflow -= 0 if used[span_id] else _size(span_to_dict(span)) + 1
            tree = tree.without(id)
            dropped += 1
        if dropped:
            self.dropped.append(f"{dropped} of {dropped + len(tree.branches)} branches")
            self._encode(tree)

    def drop_deleted(self) -> None:
        """If the JSON does not fit, reduce the spans of the only branch to the text on the page."""
        if self.overflow <= 0:
            return
        branch = self._tree.branch()
        kept: dict[int, str] = {}
        places: list[tuple[int, int, int]] = []
        for piece in branch.pieces:
            before = kept.get(piece.span.id, "")
            kept[piece.span.id] = before + piece.text
            places.append((piece.span.id, len(before), len(before) + len(piece.text)))
        spans = {id: replace(span, text=kept[id]) for id, span in _spans(branch).items()}
        if spans != _spans(branch):
            pieces = tuple(Piece(spans[id], start, end) for id, start, end in places)
            self._encode(Tree({branch.id: replace(branch, pieces=pieces)}, branch.id))
            self.dropped.append("what was deleted of the model's text")

    def _encode(self, tree: Tree) -> None:
        self._tree = tree
        self.text = dump(to_dict(self._document, tree))
        self.overflow = len(self.text.encode()) - self._limit


def _size(plain: object) -> int:
    return len(dump(plain).encode())


def _spans(branch: Branch) -> dict[int, Span]:
    return {piece.span.id: piece.span for piece in branch.pieces}


def _with_spans(branch: Branch, spans: dict[int, Span]) -> Branch:
    pieces = (piece._replace(span=spans.get(piece.span.id, piece.span)) for piece in branch.pieces)
    return replace(branch, pieces=tuple(pieces))


def _drop_alternatives(span: Span) -> Span:
    generation = span.generation
    if generation is None or not any(token.alternatives for token in generation.tokens):
        return span
    tokens = tuple(replace(token, alternatives=()) for token in generation.tokens)
    return replace(span, generation=replace(generation, tokens=tokens))


def _drop_tokens(span: Span) -> Span:
    generation = span.generation
    if generation is None or not generation.tokens:
        return span
    return replace(span, generation=replace(generation, tokens=()))


def _drop_guidance(span: Span) -> Span:
    generation = span.generation
    if generation is None or generation.guidance is None:
        return span
    return replace(span, generation=replace(generation, guidance=None))
