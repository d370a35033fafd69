"""Tokens to text, one token at a time, in pieces that never have to be taken back.

What the pieces add up to is exactly what decoding all tokens at once would give. There are two kinds of
tokenizer, and each has its own way to know what is final:

- Byte-level (GPT-2, Qwen, our story model): a token is some bytes, and text is final as soon as its
  bytes are whole characters.
- All others (SentencePiece style and the like): a token's text depends on its neighbor, a leading space
  for instance is dropped at the very start only, so each token is decoded behind the one before it; and
  a run of byte tokens such as `<0xE2>` is only known to be text or rubbish when the run is over.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer, decoders

from jet.engine.text.whitespace import strip_leading
from jet.token_ids import Tokens

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer(Protocol):
    """Turns the tokens of one continuation into text."""

    def push(self, token: int, skip: int = 0) -> str:
        """The text that became final with this token, often that of the token, sometimes nothing.

        Its first `skip` bytes are not shown: they stand in the prompt already.
        """
        ...

    def flush(self) -> str:
        """Whatever is still held back, at the end of the stream; half a character becomes U+FFFD."""
        ...


class TokenBytes(dict[int, bytes]):
    """The bytes that the tokens of a byte-level tokenizer stand for, found out when they are first needed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> bytes:
        self[token] = found = token_bytes(self._tokenizer, token)
        return found


def make_detokenizer(
    tokenizer: Tokenizer, prompt: Sequence[int] | Tokens = (), known: TokenBytes | None = None
) -> Detokenizer:
    """A detokenizer for what follows the tokens of `prompt`, as `tokenizer` decodes it.

    `known` is what all detokenizers of this tokenizer may share.
    """
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        return _ByteDetokenizer(tokenizer, TokenBytes(tokenizer) if known is None else known)
    return _ContextDetokenizer(tokenizer, prompt)


class _ByteDetokenizer:
    def __init__(self, tokenizer: Tokenizer, known: TokenBytes) -> None:
        self._bytes = known
        self._silent = silent_tokens(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int, skip: int = 0) -> str:
        return "" if token in self._silent else self._decoder.decode(self._bytes[token][skip:])

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _ContextDetokenizer:
    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] | Tokens) -> None:
        self._tokenizer = tokenizer
        self._silent = silent_tokens(tokenizer)
        # The last token that stands for text of its own, and all after it: what the next one may depend on.
        self._window: list[int] = []
        for token in map(int, reversed(prompt)):
            if self._is_visible(token):
                self._window.insert(0, token)
                if not self._is_byte(token):
                    break
        self._shown = len(self._decode())  # characters of the window's text that are out

    def push(self, token: int, skip: int = 0) -> str:
        assert not skip, "tokens of this kind are not bytes, and are not healed"
        if not self._is_visible(token):
            return ""
        self._window.append(token)
        if self._is_byte(token):
            return ""
        text = self._decode()
        if text.endswith("\N{REPLACEMENT CHARACTER}"):  # perhaps a character that is not whole yet
            return ""
        piece = text[self._shown :]
        self._window = [token]
        self._shown = len(self._decode())
        return piece

    def flush(self) -> str:
        return self._decode()[self._shown :]

    def _is_visible(self, token: int) -> bool:
        return token not in self._silent and self._tokenizer.id_to_token(token) is not None

    def _is_byte(self, token: int) -> bool:
        return _BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(token) or "") is not None

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)


class WithoutLeadingWhitespace:
    """A detokenizer whose text begins without blanks, since the writer has typed some before it."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._begun = False

    def push(self, token: int, skip: int = 0) -> str:
        """As of any detokenizer."""
        return self._without(self._detokenizer.push(token, skip))

    def flush(self) -> str:
        """As of any detokenizer."""
        return self._without(self._detokenizer.flush())

    def _without(self, text: str) -> str:
        if not self._begun:
            text = strip_leading(text)
            self._begun = text != ""
        return text


def silent_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The special tokens: those that never appear in text."""
    return frozenset(token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special)


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes that a token of a byte-level tokenizer stands for; none if there is no such token."""
    name = tokenizer.id_to_token(token)
    if name is None:  # the network's vocabulary is often padded beyond the tokenizer's
        return b""
    try:
        return bytes(_BYTE_OF[character] for character in name)
    except KeyError:  # an added token, written as plain text
        return name.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the rest follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
BYTE_NAMES = {byte: name for name, byte in _BYTE_OF.items()}  # how a byte-level vocabulary spells a byte
