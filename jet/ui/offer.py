"""Words that the page offers after the text. If the writer takes them, they join the model's text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jet.api import SamplingParams, TokenChunk
from jet.story.document import Document
from jet.story.tree import Tree


@dataclass(frozen=True)
class Offer:
    """Words that are offered, and the story that they continue.

    Attributes:
        number: the number of the command that asked for the words.
        tree: the story at that time; the words fit no other story.
        model: the model that generated the words.
        sampling: the settings of the generation.
        chunk: everything that the model generated.
        text: the part of it that is offered.
    """

    number: int
    tree: Tree
    model: str
    sampling: SamplingParams
    chunk: TokenChunk
    text: str

    def put_into(self, document: Document) -> bool:
        """Append the words to the document as the model's. Returns False if the story has changed since."""
        if document.tree is not self.tree:
            return False
        rest = self.chunk.text[len(self.text) :]
        stats = replace(self.chunk.stats, finish_reason="length", unfinished=rest)
        with document.start_continuation(self.model, self.sampling) as continuation:
            continuation.add_chunk(replace(self.chunk, stats=stats))
        return True
