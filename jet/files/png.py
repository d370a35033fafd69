"""Find the character card that a PNG picture carries in its text chunks."""

from __future__ import annotations

import base64
import binascii
import zlib

from jet.story.errors import StoryFileError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 20_000
MAX_TEXT = 12_000_000  # bytes of a text chunk, unfolded
_KEYWORDS = (b"ccv3", b"chara")  # version 3 of the cards before the others


def card_in_png(data: bytes) -> str:
    """Return the JSON of the card in a picture. Raises StoryFileError if it has no readable card."""
    texts = _texts(data)
    for keyword in _KEYWORDS:
        if keyword in texts:
            return _decoded(texts[keyword])
    raise StoryFileError("This picture carries no character card, only what can be seen of it.")


def _texts(data: bytes) -> dict[bytes, bytes]:
    """Return the text chunks that have the keywords of character cards, by keyword.

    If a keyword occurs several times, the last chunk counts.
    """
    texts: dict[bytes, bytes] = {}
    at = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if len(kind) < 4 or kind == b"IEND":
            return texts
        if len(body) < length:
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                raise StoryFileError("This picture is damaged: it ends within its character card.")
            return texts
        keyword, _, rest = body.partition(b"\0")
        if keyword.lower() in _KEYWORDS:
            texts[keyword.lower()] = _text(kind, rest, texts.get(keyword.lower(), b""))
        at += 12 + length
    raise StoryFileError("This picture has more parts than a character card needs.")


def _text(kind: bytes, rest: bytes, otherwise: bytes) -> bytes:
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _unfolded(rest[1:])
    if kind == b"iTXt":
        packed = rest[:1] == b"\1"
        body = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        return _unfolded(body) if packed else body
    return otherwise


def _unfolded(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MAX_TEXT)
    except zlib.error:
        raise StoryFileError("This picture is damaged: its character card cannot be unpacked.") from None
    if unpacker.unconsumed_tail:
        raise StoryFileError("The character card in this picture unfolds to more than a story may have.")
    return text


def _decoded(text: bytes) -> str:
    if len(text) > MAX_TEXT:
        raise StoryFileError("The character card in this picture holds more than a story may have.")
    raw = text.strip()
    if not raw.startswith(b"{"):
        try:
            raw = base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=False)
        except (binascii.Error, ValueError):
            raise StoryFileError("This picture is damaged: its character card cannot be read.") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise StoryFileError("This picture is damaged: its character card is not text.") from None
