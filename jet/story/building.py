"""Build the prompt of a request for an engine: what the page does before every generation."""

from __future__ import annotations

from dataclasses import replace

from jet.api import Engine, Request
from jet.story.context import ContextBuilder, Prompt
from jet.story.guidance import Guidance


def build_prompt(builder: ContextBuilder, engine: Engine, request: Request, guidance: Guidance) -> Prompt:
    """Build the prompt for continuing `request.prompt` with guidance.

    At most half of the context is reserved for new tokens, even if the request asks for more, since
    generation may end sooner. `builder` must count with `engine.count_tokens`. Raises RequestError if the
    guidance leaves no room for the story.
    """

    def count_prompt(text: str, instruction: str) -> int:
        return engine.count_prompt(replace(request, prompt=text, instruction=instruction))

    info = engine.info()
    max_new_tokens = max(1, min(request.sampling.max_new_tokens, info.context // 2))
    return builder.build(
        request.prompt, guidance, info.context, max_new_tokens, info.chat_tokens, count_prompt
    )


def guided(request: Request, prompt: Prompt) -> Request:
    """Return `request` with the text and the instruction of `prompt`."""
    return replace(request, prompt=prompt.text, instruction=prompt.instruction)
