"""Tokens and texts: what the API needs of an engine's tokenizer, and how tokens are written in answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

from jet.api import Engine
from jet.token_ids import Tokens


class Decoder(Protocol):
    """Turns tokens into text, one after the other."""

    def push(self, token: int, skip: int = 0) -> str:
        """The text that became final."""
        ...

    def flush(self) -> str:
        """Whatever is still held back."""
        ...


class Codec(Protocol):
    """A tokenizer, as far as the API goes."""

    stop_ids: frozenset[int]
    start: tuple[int, ...]

    @property
    def chat_template(self) -> str | None:
        """The chat template's source; None without one."""
        ...

    def special_tokens(self) -> Mapping[str, int]:
        """The special tokens by name."""
        ...

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """The tokens of a prompt, at most so many, with the one in front. Raises RequestError."""
        ...

    def ids_of(self, text: str, cache_salt: str = "") -> Tokens:
        """The tokens of a text by itself."""
        ...

    def ids_with_special(self, text: str) -> list[int]:
        """The same, with the names of special tokens read as these."""
        ...

    def chat_ids(
        self, messages: Sequence[Mapping[str, str]], cache_salt: str = "", answer: bool = True
    ) -> Tokens:
        """The tokens of a chat. Raises RequestError without a template."""
        ...

    def bytes_of(self, token: int) -> bytes:
        """The bytes of a token."""
        ...

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Decoder:
        """Return a decoder of the tokens that follow these."""
        ...


def codec_of(engine: Engine) -> Codec | None:
    """Return the tokenizer of an engine; None if that is another server's."""
    found = getattr(engine, "tokenizer", None)
    return cast(Codec, found) if hasattr(found, "ids_with_special") else None


def token_name(codec: Codec, token: int) -> str:
    """Return how OpenAI writes a token: as text, or `bytes:\\x…` where it is only a part of a character.

    A token that stands for no text, since networks have more ids than tokenizers, is `token_id:…`.
    """
    data = codec.bytes_of(token)
    try:
        return data.decode("utf-8") or f"token_id:{token}"
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def decode(codec: Codec, ids: Sequence[int], special: bool = False) -> str:
    """Return the text of tokens; with `special`, special tokens stand in it by name."""
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
