"""Stories to test with."""

from __future__ import annotations

from hypothesis import strategies as st

from jet.api import SamplingParams, TokenLogprob
from jet.files.reading import read
from jet.story.document import Continuation, Document
from jet.story.pieces import Token

MODEL = "a/model"
SAMPLING = SamplingParams(seed=7)

# Few different characters, so that texts repeat themselves and edits are ambiguous; and difficult ones.
texts = st.text(st.sampled_from("ab \n.é語😀\u202e\u0301"), max_size=24)
any_text = st.text(max_size=40)


def tokens(*texts: str, alternatives: tuple[str, ...] = ()) -> list[Token]:
    """Return one token per text, each with these alternatives."""
    others = tuple(TokenLogprob(100 + n, text, -1.5 - n) for n, text in enumerate(alternatives))
    return [Token(n, len(text), -0.25, others) for n, text in enumerate(texts)]


def fill(continuation: Continuation, *texts: str, alternatives: tuple[str, ...] = ()) -> None:
    """Append these tokens as a finished generation of the model."""
    with continuation:
        for text, token in zip(texts, tokens(*texts, alternatives=alternatives), strict=True):
            continuation.append(text, [token])
        continuation.finish("length")


def story(*texts: str) -> Document:
    """Return a story written by writer and model in turns, the writer first."""
    document = Document()
    for number, text in enumerate(texts):
        if number % 2:
            fill(document.start_continuation(MODEL, SAMPLING), text)
        else:
            document.edit(document.text + text)
    return document


def owners(document: Document) -> str:
    """Return the author of each character, "w" for the writer or "m" for the model."""
    return "".join((found.end - found.start) * found.author[0] for found in document.ranges())


def read_file(name: str, data: bytes) -> Document:
    """Return the story in a file."""
    return read(name, data).document
