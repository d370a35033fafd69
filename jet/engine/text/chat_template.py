"""ChatTemplate: a tokenizer's chat template, for instructions such as "Write me a story about …".

The template surrounds the instruction, and the prompt is the beginning of the model's answer. Special tokens
come from the template alone; in the user's text they are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from jet.token_ids import Tokens

_INSTRUCTION = "The instruction goes here."  # placeholder to find in the rendered template

TemplatePart = int | str  # a special token, or plain text


@dataclass(frozen=True)
class ChatTemplate:
    """The parts of a template around the instruction.

    Attributes:
        before: special tokens and plain texts before the instruction.
        between: special tokens and plain texts between the instruction and the answer.
    """

    before: tuple[TemplatePart, ...]
    between: tuple[TemplatePart, ...]

    def encode(self, instruction: str, answer: str, ids: Callable[[str], Tokens]) -> Tokens:
        """Return the tokens of an instruction and the beginning of its answer.

        `ids` tokenizes plain text. Adjacent texts are tokenized as one, since a token may cross the border
        between them.
        """
        parts = [*self.before, instruction.strip(), *self.between, answer]
        found: list[Tokens] = []
        for plain, group in groupby(parts, lambda part: isinstance(part, str)):
            row = list(group)
            found.append(ids("".join(map(str, row))) if plain else np.array(row, np.int32))
        return np.concatenate(found)


def chat_template(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """Return a tokenizer's template; None if it has none that renders a single user turn."""
    if not tokenizer.chat_template:
        return None
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": _INSTRUCTION}], add_generation_prompt=True, tokenize=False
        )
    except Exception:  # a template is a program and may require other inputs
        return None
    if not isinstance(rendered, str) or rendered.count(_INSTRUCTION) != 1:
        return None
    before, between = rendered.split(_INSTRUCTION)
    special = {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return ChatTemplate(split_special(before, special), split_special(between, special))


def split_special(text: str, special: dict[str, int]) -> tuple[TemplatePart, ...]:
    """Split a text into the ids of special tokens and the plain texts between them.

    `special`: the ids of special tokens by name.
    """
    longest_first = sorted(special, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if special else [text]
    return tuple(special.get(part, part) for part in parts if part)
