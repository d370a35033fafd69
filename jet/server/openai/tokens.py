"""Codec: the tokenizer that the API needs, and functions that format tokens for answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from jet.api import Engine
from jet.token_ids import Tokens


class Decoder(Protocol):
    """Converts tokens to text, one after the other."""

    def push(self, token: int, skip: int = 0) -> str:
        """Add a token; return the text that became final with it.

        `skip`: how many of the token's first bytes to leave out.
        """
        ...

    def flush(self) -> str:
        """Return the text still held back at the end."""
        ...


class Codec(Protocol):
    """The tokenizer methods that the API uses."""

    stop_ids: frozenset[int]
    start: tuple[int, ...]

    @property
    def chat_template(self) -> str | None:
        """Return the chat template's source; None without one."""
        ...

    def special_tokens(self) -> Mapping[str, int]:
        """Return the special tokens by name."""
        ...

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """Return the token ids of a prompt, with the start token. Raises RequestError.

        Args:
            prompt: the text.
            max_tokens: most ids; a longer prompt raises RequestError.
            instruction: what a chat model is to write, with the prompt as the start of its answer; "" for no
                chat.
            cache_salt: the user's salt; earlier texts with the same salt are not tokenized again.
        """
        ...

    def ids_of(self, text: str, cache_salt: str = "") -> Tokens:
        """Return the ids of a text alone, without a start token."""
        ...

    def ids_with_special(self, text: str) -> list[int]:
        """Return the ids of a text alone, in which names of special tokens are read as special tokens."""
        ...

    def chat_ids(
        self, messages: Sequence[Mapping[str, str]], cache_salt: str = "", answer: bool = True
    ) -> Tokens:
        """Return the token ids of a chat.

        `answer`: whether an answer to the last message follows; otherwise the last message is continued.
        Raises RequestError if the model has no chat template.
        """
        ...

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token."""
        ...

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Decoder:
        """Return a decoder for the tokens that follow `prompt`."""
        ...


def codec_of(engine: Engine) -> Codec | None:
    """Return the tokenizer of an engine; None for an engine on another server."""
    found = getattr(engine, "tokenizer", None)
    return cast(Codec, found) if hasattr(found, "ids_with_special") else None


def token_name(codec: Codec, token: int) -> str:
    """Return OpenAI's name of a token: its text, or `bytes:\\x…` if it is a part of a character.

    The name of an id that the model has and the tokenizer lacks is `token_id:…`.
    """
    data = codec.bytes_of(token)
    try:
        return data.decode("utf-8") or f"token_id:{token}"
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def decode(codec: Codec, ids: Sequence[int], special: bool = False) -> str:
    """Return the text of tokens; with `special`, special tokens are written as their names."""
    if not special:
        decoder = codec.detokenizer(())
        return "".join([*(decoder.push(token) for token in ids), decoder.flush()])
    names = {id: name for name, id in codec.special_tokens().items()}
    parts, decoder = [], codec.detokenizer(())
    for token in ids:
        if token in names:
            parts += [decoder.flush(), names[token]]
            decoder = codec.detokenizer(())
        else:
            parts.append(decoder.push(token))
    return "".join([*parts, decoder.flush()])
