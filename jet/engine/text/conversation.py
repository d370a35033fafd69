"""Encode whole chats by the checkpoint's own template, for chat completions.

    messages ─ template over placeholders ─ special tokens and plain texts ─ contents put in ─ ids

The template is rendered with random placeholders, which are then replaced by the messages' contents. So only
special tokens of the template itself are encoded as such; in the contents, their names are plain text.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from jet.api import RequestError
from jet.engine.text.chat_template import split_special
from jet.token_ids import Tokens

NO_TEMPLATE = "This model has no chat template: it goes on with a text. Use /v1/completions."


class Conversation:
    """Encodes the messages of a chat as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        self._special = {token.content: id for id, token in added.items() if token.special}

    @property
    def template(self) -> str | None:
        """Return the template's source; None if the checkpoint has none."""
        found = self._tokenizer.chat_template
        return found if isinstance(found, str) else None

    def encode(
        self, messages: Sequence[Mapping[str, str]], ids: Callable[[str], Tokens], answer: bool = True
    ) -> Tokens:
        """Return the token ids of messages, which have a `role` and a `content` each.

        `ids` encodes a plain text. With `answer`, the ids end with the beginning of a new answer; without it,
        the last message is an answer that is to be continued. Raises RequestError if there is no template, or
        if the template rejects the messages.
        """
        if not self._tokenizer.chat_template:
            raise RequestError(NO_TEMPLATE)
        mark = f"\ue000{secrets.token_hex(16)}\ue001"
        stand_ins = [f"{mark}{number}\ue002" for number in range(len(messages))]
        posed = [
            {"role": message["role"], "content": stand_in}
            for message, stand_in in zip(messages, stand_ins, strict=True)
        ]
        try:
            rendered = self._tokenizer.apply_chat_template(
                posed, add_generation_prompt=answer, tokenize=False
            )
        except Exception as error:  # a template is a program of the checkpoint's
            raise RequestError(f"This model's chat template refuses these messages: {error}") from None
        assert isinstance(rendered, str)
        if not answer:
            rendered = rendered[: rendered.rindex(stand_ins[-1]) + len(stand_ins[-1])]
        contents = dict(zip(stand_ins, (message["content"] for message in messages), strict=True))
        return self._join(rendered, contents, mark, ids)

    def _join(
        self, rendered: str, contents: dict[str, str], mark: str, ids: Callable[[str], Tokens]
    ) -> Tokens:
        pieces: list[int | str] = []
        first, *parts = rendered.split(mark)
        pieces += split_special(first, self._special)
        seen = []
        for part in parts:
            number, _, rest = part.partition("\ue002")
            seen.append(f"{mark}{number}\ue002")
            pieces += [contents[seen[-1]], *split_special(rest, self._special)]
        if sorted(seen) != sorted(contents):
            raise RequestError("This model's chat template leaves out, or repeats, one of these messages.")
        found: list[Tokens] = [np.empty(0, np.int32)]
        for plain, group in groupby(pieces, lambda piece: isinstance(piece, str)):
            row = list(group)
            found.append(ids("".join(map(str, row))) if plain else np.array(row, np.int32))
        return np.concatenate(found)
