"""Rewrite a selection by the model's chat template, or by an ordinary continuation if the model has none.

A model without a chat template cannot follow instructions. It continues the text before the selection, and
the result replaces the selection; for expand and describe, it continues the text after the selection. The
reply says which of the two methods was used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jet.api import Engine, Request, RequestError, SamplingParams
from jet.story.document import Continuation, Document
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.story.offsets import from_utf16

# How a passage is rewritten: what a chat model is asked for, new tokens for each of its tokens, and whether a
# model without instructions goes on behind the passage.
_WAYS: dict[str, tuple[str, float, bool]] = {
    "rewrite": ("Write this passage anew: the same events, in other and better words.", 1.3, False),
    "expand": ("Expand this passage: the same events, with more detail, twice as long.", 2.5, True),
    "shorten": ("Shorten this passage to half its length. Keep what matters.", 0.7, False),
    "describe": ("Describe what is seen, heard, smelled and felt in this passage, as part of it.", 2.0, True),
    "tense": ("Write this passage anew: the same events, with more tension.", 1.3, False),
    "gentle": ("Write this passage anew: the same events, in a gentler tone.", 1.3, False),
}
_CONTEXT_CHARACTERS = 6_000  # of the story in front of the passage that a chat model is shown
_MAX_PASSAGE = 20_000
_CHARACTERS_A_TOKEN = 3.5
_FEWEST_TOKENS, _MOST_TOKENS = 24, 2000

INSTRUCTED = "Rewritten as asked. ‹ and › walk the versions; the old words are on their own."
INFILLED = (
    "This model takes no instructions, so it has written on in this place. ‹ and › walk the versions; "
    "the old words are on their own."
)


@dataclass(frozen=True)
class Rewrite:
    """A selection to be rewritten.

    Attributes:
        start, end: offsets of the text that the new words replace.
        way: name in `_WAYS`.
        passage: the words that were selected at first; further versions are made from them, too.
    """

    start: int
    end: int
    way: str
    passage: str


def parse_rewrite(fields: Fields, text: str) -> Rewrite:
    """Parse a command to rewrite. Raises StoryError."""
    start, end = (from_utf16(text, fields.take(name, int)) for name in ("at", "until"))
    way = fields.take("way", str)
    if way not in _WAYS:
        raise StoryError("There is no such way to rewrite: please reload the page.")
    if not 0 <= start < end <= len(text):
        raise StoryError("Select what is to be rewritten first.")
    passage = text[start:end]
    if fields.has("passage"):  # another version of what was rewritten before
        passage = fields.take_text("passage")
    else:
        start += len(passage) - len(passage.lstrip())
        passage = passage.strip()
        end = start + len(passage)
    if not passage.strip():
        raise StoryError("Select what is to be rewritten first.")
    if len(passage) > _MAX_PASSAGE:
        raise StoryError(f"At most {_MAX_PASSAGE:,} characters can be rewritten at once.")
    return Rewrite(start, end, way, passage)


def start(
    document: Document, rewrite: Rewrite, model: str, sampling: SamplingParams, is_instructed: bool
) -> Continuation:
    """Start a continuation that replaces the selection, on a branch of its own.

    Without instructions (`is_instructed` is False), the ways "expand" and "describe" do not replace the
    selection: they continue after it.
    """
    _, _, behind = _WAYS[rewrite.way]
    begin = rewrite.end if behind and not is_instructed else rewrite.start
    return document.start_rewrite(model, sampling, begin, rewrite.end)


def sampling_of(rewrite: Rewrite, sampling: SamplingParams) -> SamplingParams:
    """Return the settings with a length that fits the passage. The text ends with a whole sentence."""
    _, share, _ = _WAYS[rewrite.way]
    tokens = round(share * len(rewrite.passage) / _CHARACTERS_A_TOKEN)
    return replace(sampling, max_new_tokens=min(_MOST_TOKENS, max(_FEWEST_TOKENS, tokens)), end_at="sentence")


def instruct(engine: Engine, request: Request, rewrite: Rewrite) -> Request:
    """Return a request that instructs a chat model to rewrite the passage.

    The instruction includes as much of the story before the passage as fits. Raises RequestError if the
    passage alone is too long.
    """
    asked, _, _ = _WAYS[rewrite.way]
    room = engine.info().context - request.sampling.max_new_tokens
    before = request.prompt[-_CONTEXT_CHARACTERS:]
    while True:
        story = f"The story so far:\n\n{before.strip()}\n\n" if before.strip() else ""
        instruction = (
            f"{story}The passage:\n\n{rewrite.passage.strip()}\n\n{asked} Answer with the passage only."
        )
        made = replace(request, prompt="", instruction=instruction, healing=False)
        if engine.count_prompt(made) <= room:
            return made
        if not before:
            raise RequestError("This passage is too long for the model’s context: select less of it.")
        before = before[len(before) // 2 + 1 :]
