"""Words that are offered behind the text, and become the model's part of the story once they are taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jet.api import SamplingParams, TokenChunk
from jet.story.document import Document
from jet.story.tree import Tree


@dataclass(frozen=True)
class Offer:
    """Words that are offered, and the story that they go on from.

    Attributes:
        number: of the command that asked for them.
        tree: the story then; in any other they have no place.
        chunk: everything the model wrote.
        text: the part of it that is offered.
    """

    number: int
    tree: Tree
    model: str
    sampling: SamplingParams
    chunk: TokenChunk
    text: str

    def put_into(self, document: Document) -> bool:
        """Put the words behind the text, as the model's. Returns False if the text has changed since."""
        if document.tree is not self.tree:
            return False
        rest = self.chunk.text[len(self.text) :]
        stats = replace(self.chunk.stats, finish_reason="length", unfinished=rest)
        with document.start_continuation(self.model, self.sampling) as continuation:
            continuation.add_chunk(replace(self.chunk, stats=stats))
        return True
