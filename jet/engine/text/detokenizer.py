"""Detokenizer: tokens to text, one token at a time; text that has been returned never changes.

All returned texts together are the text that decoding all tokens at once gives. There are two kinds of
tokenizer:

- Byte-level (GPT-2, Qwen, the story model): a token is a byte string, and text is final as soon as its bytes
  are complete characters.
- All others (SentencePiece and similar): a token's text depends on the token before it (a leading space is
  dropped at the start only), so each token is decoded together with the previous one. A run of byte tokens
  such as `<0xE2>` is decoded once it has ended.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from copy import copy
from typing import Protocol

from tokenizers import Tokenizer, decoders

from jet.engine.text.whitespace import strip_leading
from jet.token_ids import Tokens

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer(Protocol):
    """Converts the tokens of one continuation to text."""

    def push(self, token: int, skip: int = 0) -> str:
        """Add a token and return the text that became final with it, possibly "".

        `skip`: how many of the token's first bytes to leave out, since they belong to the prompt.
        """
        ...

    def flush(self) -> str:
        """Return the text still held back at the end; an incomplete character becomes U+FFFD."""
        ...

    def copy(self) -> Detokenizer:
        """Return an independent detokenizer in the same state."""
        ...


class TokenBytes(dict[int, bytes]):
    """The bytes of each token of a byte-level tokenizer, computed on first use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> bytes:
        self[token] = found = token_bytes(self._tokenizer, token)
        return found


def make_detokenizer(
    tokenizer: Tokenizer, prompt: Sequence[int] | Tokens = (), known: TokenBytes | None = None
) -> Detokenizer:
    """Make a detokenizer for the tokens after `prompt`.

    `known`: the bytes of tokens, shared by all detokenizers of this tokenizer.
    """
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        return _ByteDetokenizer(tokenizer, TokenBytes(tokenizer) if known is None else known)
    return _ContextDetokenizer(tokenizer, prompt)


class _ByteDetokenizer:
    def __init__(self, tokenizer: Tokenizer, known: TokenBytes) -> None:
        self._bytes = known
        self._silent = silent_tokens(tokenizer)
        self._decoder = _Utf8Decoder(errors="replace")

    def push(self, token: int, skip: int = 0) -> str:
        return "" if token in self._silent else self._decoder.decode(self._bytes[token][skip:])

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    def copy(self) -> _ByteDetokenizer:
        other = object.__new__(_ByteDetokenizer)  # copies are made for every token that may be taken back
        other._bytes, other._silent = self._bytes, self._silent
        other._decoder = _Utf8Decoder(errors="replace")
        other._decoder.setstate(self._decoder.getstate())
        return other


class _ContextDetokenizer:
    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] | Tokens) -> None:
        self._tokenizer = tokenizer
        self._silent = silent_tokens(tokenizer)
        # The last token with text of its own and all after it, on which the next token's text may depend.
        self._window: list[int] = []
        for token in map(int, reversed(prompt)):
            if self._is_visible(token):
                self._window.insert(0, token)
                if not self._is_byte(token):
                    break
        self._shown = len(self._decode())  # characters of the window's text that have been returned

    def push(self, token: int, skip: int = 0) -> str:
        assert not skip, "tokens that are not bytes are not healed"
        if not self._is_visible(token):
            return ""
        self._window.append(token)
        if self._is_byte(token):
            return ""
        text = self._decode()
        if text.endswith("\N{REPLACEMENT CHARACTER}"):  # perhaps an incomplete character
            return ""
        new = text[self._shown :]
        self._window = [token]
        self._shown = len(self._decode())
        return new

    def flush(self) -> str:
        return self._decode()[self._shown :]

    def copy(self) -> _ContextDetokenizer:
        other = copy(self)
        other._window = list(self._window)
        return other

    def _is_visible(self, token: int) -> bool:
        return token not in self._silent and self._tokenizer.id_to_token(token) is not None

    def _is_byte(self, token: int) -> bool:
        return _BYTE_TOKEN.fullmatch(self._tokenizer.id_to_token(token) or "") is not None

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)


class WithoutLeadingWhitespace:
    """Removes leading blanks from a detokenizer's text, since the prompt ends in a blank already."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._begun = False

    def push(self, token: int, skip: int = 0) -> str:
        """See `Detokenizer.push`."""
        return self._without(self._detokenizer.push(token, skip))

    def flush(self) -> str:
        """See `Detokenizer.flush`."""
        return self._without(self._detokenizer.flush())

    def copy(self) -> WithoutLeadingWhitespace:
        """See `Detokenizer.copy`."""
        other = copy(self)
        other._detokenizer = self._detokenizer.copy()
        return other

    def _without(self, text: str) -> str:
        if not self._begun:
            text = strip_leading(text)
            self._begun = text != ""
        return text


def silent_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the special tokens, which have no text."""
    return frozenset(token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special)


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """Return the bytes of a token of a byte-level tokenizer; b"" if there is no such token."""
    name = tokenizer.id_to_token(token)
    if name is None:  # the network's vocabulary is often padded beyond the tokenizer's
        return b""
    try:
        return bytes(_BYTE_OF[character] for character in name)
    except KeyError:  # an added token, written as plain text
        return name.encode()


def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of GPT-2's byte alphabet stands for.

    Printable Latin-1 characters stand for their own bytes, characters from U+0100 on for the other bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_NAME_OF = {byte: name for name, byte in _BYTE_OF.items()}


def name_in_vocabulary(character: str) -> str:
    """Return the spelling of a character in the vocabulary of a byte-level tokenizer."""
    return "".join(_NAME_OF[byte] for byte in character.encode())


BYTE_NAMES = {byte: name for name, byte in _BYTE_OF.items()}  # how a byte-level vocabulary spells a byte
