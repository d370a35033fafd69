"""A tokenizer's chat template, for stories that are asked for: "Write me a story about …".

The template stands around what the writer asks, and the story is the answer that the model goes on with. Only
what the template itself says counts as its special tokens; in what a person typed they are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from jet.token_ids import Tokens

_ASKED = "What is asked for stands here."  # looked for in the rendered template

TemplatePart = int | str  # a special token, or plain text


@dataclass(frozen=True)
class ChatTemplate:
    """What stands before a request, and between it and the answer.

    Attributes:
        before, between: special tokens and plain texts, in a row.
    """

    before: tuple[TemplatePart, ...]
    between: tuple[TemplatePart, ...]

    def encode(self, instruction: str, answer: str, ids: Callable[[str], Tokens]) -> Tokens:
        """The tokens of a request and the beginning of its answer. `ids` gives those of a plain text.

        Texts next to each other are read as one, since a tokenizer may join across the seam.
        """
        pieces = [*self.before, instruction.strip(), *self.between, answer]
        found: list[Tokens] = []
        for plain, group in groupby(pieces, lambda piece: isinstance(piece, str)):
            row = list(group)
            found.append(ids("".join(map(str, row))) if plain else np.array(row, np.int32))
        return np.concatenate(found)


def chat_template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The tokenizer's template, if it has one that can be used like this."""
    if not tokenizer.chat_template:
        return None
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": _ASKED}], add_generation_prompt=True, tokenize=False
        )
    except Exception:  # a template is a program of the checkpoint's: it may want what is not given here
        return None
    if not isinstance(rendered, str) or rendered.count(_ASKED) != 1:
        return None
    before, between = rendered.split(_ASKED)
    special = {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ChatTemplate(_pieces(before, special), _pieces(between, special))


def _pieces(text: str, special: dict[str, int]) -> tuple[TemplatePart, ...]:
    """A stretch of the template, its special tokens told from its text."""
    longest_first = sorted(special, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if special else [text]
    return tuple(special.get(part, part) for part in parts if part)
