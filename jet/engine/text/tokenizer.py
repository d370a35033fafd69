"""StoryTokenizer: converts text to tokens and back, with stop tokens, chat template and healing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from tokenizers import decoders
from transformers import PreTrainedTokenizerBase

from jet.api import RequestError
from jet.engine.text.chat_template import chat_template, split_special
from jet.engine.text.conversation import Conversation
from jet.engine.text.detokenizer import (
    Detokenizer,
    TokenBytes,
    WithoutLeadingWhitespace,
    make_detokenizer,
    name_in_vocabulary,
)
from jet.engine.text.healing import Healer, Healing
from jet.engine.text.incremental import IncrementalTokenizer
from jet.token_ids import Tokens

# More characters per token than in any language; English has four or five.
_CHARACTERS_PER_TOKEN = 32
_NFC_GROWTH = 3  # the most that NFC normalization multiplies the bytes of a text by
_BREAKING = set('\n:"“”*')


class StoryTokenizer:
    """A transformers tokenizer for prompts that users type.

    Users' text is always plain text: `<|endoftext|>` in a prompt is thirteen characters, not a special token.
    Every prompt gets a start token if the tokenizer's template adds one, or if the tokenizer has a
    `bos_token` without `add_bos_token: false`. An empty prompt gets a start token in any case, if there is
    any.

    Attributes:
        start: tokens before every prompt, none or one.
        stop_ids: tokens that end a text.
        chat: the chat template around a single instruction; None if there is none.
        conversation: encodes whole chats; raises RequestError if there is no chat template.

    The tokenizer passed in is modified and must not be used elsewhere afterwards.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, start_id: int | None, stop_ids: frozenset[int]
    ) -> None:
        """`start_id`: the token of an empty prompt, if other prompts get no start token; None for none."""
        self._backend = tokenizer.backend_tokenizer
        self.start = _tokens_in_front(tokenizer)
        self.stop_ids = stop_ids
        self.chat = chat_template(tokenizer)
        self.conversation = Conversation(tokenizer)
        self._empty = self.start or (() if start_id is None else (start_id,))
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        self._bytes = TokenBytes(self._backend)
        self._longest = self._longest_token()
        self._healer = Healer(self._backend, self._bytes, stop_ids)
        self._incremental = IncrementalTokenizer(self._backend, self._encode)

    @property
    def chat_tokens(self) -> int | None:
        """Return the number of tokens of an empty chat prompt; None without chat template."""
        return None if self.chat is None else len(self.chat.encode("", "", self._incremental.ids))

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """Tokenize a prompt, as the start of a chat model's answer if there is an `instruction`.

        Returns 1 to `max_tokens` ids. Text that the same user has tokenized before is not tokenized again.
        Raises RequestError if the prompt is too long or cannot be tokenized.
        """
        _check_text(prompt)
        _check_whole(prompt, "The prompt")
        _check_whole(instruction, "The prompt")
        if instruction:
            return self._encode_answer(instruction, prompt, max_tokens, cache_salt)
        self._check_size(prompt, max_tokens - len(self.start))
        ids = self._incremental.ids(prompt, cache_salt)
        if len(ids) > max_tokens - len(self.start):
            raise _too_long(f"{len(ids):,} tokens", max_tokens - len(self.start))
        if len(ids):
            return np.concatenate([np.array(self.start, np.int32), ids])
        if not self._empty:
            raise RequestError("This model has no token to start a story from: please type a beginning.")
        return np.array(self._empty, np.int32)

    def encode_healed(
        self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = ""
    ) -> tuple[Tokens, Healing | None, Detokenizer]:
        """Return the tokens to prefill, those at the end to draw again, and the answer's detokenizer.

        At least one token is prefilled: if the whole prompt is drawn again, it is the start token of an empty
        prompt. Raises RequestError as `encode` does.
        """
        _check_text(prompt)
        read = self.normalize_prompt(prompt)
        ids = self.encode(read, max_tokens, instruction, cache_salt)
        normalizer = self._backend.normalizer
        taken = len((read if normalizer is None else normalizer.normalize_str(read)).encode())  # at most
        kept = 0 if instruction else len(self.start)
        if not kept and (not self._empty or len(ids) == max_tokens):
            kept = 1
        healing = self._healer.heal(ids, kept, taken)
        if healing is not None:
            before = ids[: -len(healing.tokens)]
            ids = before if len(before) else np.array(self._empty, np.int32)
        detokenizer = self.detokenizer(ids)
        if not self._healer.by_bytes and read != prompt:
            # Such tokens begin with the blank that the user has typed already.
            detokenizer = WithoutLeadingWhitespace(detokenizer)
        return ids, healing, detokenizer

    def count_prompt(self, prompt: str, instruction: str = "", cache_salt: str = "") -> int:
        """Return the number of tokens of a prompt of any length, start token and chat template included.

        Raises RequestError if the prompt cannot be tokenized.
        """
        ids = partial(self._incremental.ids, user=cache_salt)
        if instruction and self.chat is not None:
            return len(self.chat.encode(instruction, prompt, ids))
        return len(ids(prompt)) + len(self.start)

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as `encode_healed` tokenizes it; trailing blanks may be replaced or removed."""
        return self._healer.normalize_prompt(prompt)

    def _encode_answer(self, instruction: str, prompt: str, max_tokens: int, cache_salt: str) -> Tokens:
        if self.chat is None:
            raise RequestError(
                "This model has no chat template: it goes on with a story, and cannot be asked."
            )
        self._check_size(instruction + prompt, max_tokens)
        ids = self.chat.encode(instruction, prompt, partial(self._incremental.ids, user=cache_salt))
        if len(ids) > max_tokens:
            raise _too_long(f"{len(ids):,} tokens", max_tokens)
        return ids

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Detokenizer:
        """Return a detokenizer for the tokens after `prompt`."""
        return make_detokenizer(self._backend, prompt, self._bytes)

    def token_text(self, token: int, skip: int = 0) -> str:
        """Return a token's text without its first `skip` bytes; U+FFFD for parts of characters."""
        return self._bytes[token][skip:].decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a single token; b"" if there is no such token."""
        if self._healer.by_bytes:
            data: bytes = self._bytes[token]
            return data
        text: str = self._backend.decode([token], skip_special_tokens=False)
        return text.encode()

    def ids_of(self, text: str, cache_salt: str = "") -> Tokens:
        """Return the tokens of a text, without start token. Raises RequestError if it cannot be tokenized."""
        _check_whole(text, "The text")
        return self._incremental.ids(text, cache_salt)

    def ids_with_special(self, text: str) -> list[int]:
        """Return the tokens of a text; names of special tokens in the text are encoded as special tokens."""
        pieces = split_special(text, self.special_tokens())
        return [
            token
            for piece in pieces
            for token in (self.ids_of(piece).tolist() if isinstance(piece, str) else [piece])
        ]

    def special_tokens(self) -> dict[str, int]:
        """Return the special tokens, by name."""
        added = self._backend.get_added_tokens_decoder()
        return {token.content: id for id, token in added.items() if token.special}

    @property
    def chat_template(self) -> str | None:
        """Return the source of the chat template; None if there is none."""
        return self.conversation.template

    def chat_ids(
        self, messages: Sequence[Mapping[str, str]], cache_salt: str = "", answer: bool = True
    ) -> Tokens:
        """Return the tokens of a chat; see `Conversation.encode`. Raises RequestError."""
        for number, message in enumerate(messages):
            _check_whole(message["content"], f"Message {number + 1}")
        ids = partial(self._incremental.ids, user=cache_salt)
        return self.conversation.encode(messages, ids, answer)

    def dry_sequence_breakers(self) -> frozenset[int]:
        """Return the tokens at which DRY ends a repetition.

        These are all tokens with a line break, a double quotation mark, a colon or an asterisk.
        """
        # Names have other characters for some bytes; those of added tokens are plain.
        written = [*_BREAKING, *map(name_in_vocabulary, _BREAKING)]
        likely = re.compile("|".join(map(re.escape, written))).search
        names = self._backend.get_vocab(with_added_tokens=True).items()
        ids = {token for name, token in names if likely(name)}
        return frozenset(token for token in ids if _BREAKING & set(self.token_text(token)))

    def count(self, text: str) -> int:
        """Return the number of tokens of a text, without start token.

        Raises RequestError if the text cannot be tokenized.
        """
        return len(self._encode([text])[0])

    def _encode(self, texts: list[str]) -> list[list[int]]:
        try:
            found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            # The tokenizer panics on some texts (millions of spaces in a row). Python sees a panic as a
            # BaseException of a type that cannot be imported.
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise RequestError(f"The tokenizer cannot read this prompt: {error}") from None
        return [one.ids for one in found]

    def _check_size(self, text: str, max_tokens: int) -> None:
        """Raise RequestError without tokenizing if a text is certainly or almost certainly too long."""
        if len(text) <= max_tokens:
            return
        if self._longest and _NFC_GROWTH * len(text.encode()) > max_tokens * self._longest:
            normalizer = self._backend.normalizer
            normal = text if normalizer is None else normalizer.normalize_str(text)
            at_least = -(-len(normal.encode()) // self._longest)
            if at_least > max_tokens:
                raise _too_long(f"at least {at_least:,} tokens", max_tokens)
        if len(text) > max_tokens * _CHARACTERS_PER_TOKEN:
            raise _too_long(f"{len(text):,} characters", max_tokens)

    def _longest_token(self) -> int | None:
        """Return the most bytes of text in one token; None if there is no bound."""
        if not isinstance(self._backend.decoder, decoders.ByteLevel):
            return None
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        # A name has a character for each byte, unless it is plain text: then it has at most as many.
        longest = max(map(len, vocabulary))
        plain = [token for name, token in vocabulary.items() if len(name.encode()) > longest]
        return max(longest, *(len(self._bytes[token]) for token in plain), 0)


def stop_ids(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> frozenset[int]:
    """Return the tokens that end a text: all eos tokens of configs and tokenizer, and a chat turn's end."""
    found: set[int] = set()
    for source in (*configs, tokenizer):
        eos = getattr(source, "eos_token_id", None)
        found.update(eos if isinstance(eos, (list, tuple)) else () if eos is None else (eos,))
    turn_end = tokenizer.get_added_vocab().get("<|im_end|>")
    return frozenset(found if turn_end is None else found | {turn_end})


def start_id(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> int | None:
    """Return the token that starts a text: the first bos token of tokenizer and configs.

    Returns the first eos token if there is no bos token, and None if there is neither.
    """
    for name in ("bos_token_id", "eos_token_id"):
        for source in (tokenizer, *configs):
            value = getattr(source, name, None)
            if value is not None:
                return int(value[0] if isinstance(value, (list, tuple)) else value)
    return None


def _check_text(prompt: object) -> None:
    if not isinstance(prompt, str):
        raise RequestError(f"The prompt must be text, not {type(prompt).__name__}.")


def _check_whole(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{what} has half a character (an unpaired surrogate) at position {error.start}."
        ) from None


def _tokens_in_front(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    templated, plain = (tokenizer("a", add_special_tokens=special).input_ids for special in (True, False))
    if templated[0] != plain[0]:
        return (templated[0],)
    wanted = tokenizer.bos_token_id is not None and tokenizer.init_kwargs.get("add_bos_token") is not False
    return (tokenizer.bos_token_id,) if wanted else ()


def _too_long(size: str, most: int) -> RequestError:
    return RequestError(
        f"The prompt is too long: it has {size}, and {most:,} tokens fit in the context of this model "
        "with room for one more. Please shorten it."
    )
