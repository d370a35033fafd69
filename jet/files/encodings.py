"""Decode text files of any usual encoding, such as Windows code pages, UTF-16 and Asian encodings.

The detected encoding is reported, and the user can choose another one.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass

from charset_normalizer import from_bytes

from jet.story.errors import StoryError

_BOMS = (  # what some files begin with, the longer marks first
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ENCODING_NAMES = {
    "cp1252": "Windows-1252, Western European",
    "cp1250": "Windows-1250, Central European",
    "cp1251": "Windows-1251, Cyrillic",
    "koi8_r": "KOI8-R, Cyrillic",
    "cp1253": "Windows-1253, Greek",
    "cp1254": "Windows-1254, Turkish",
    "cp1255": "Windows-1255, Hebrew",
    "cp1256": "Windows-1256, Arabic",
    "cp1257": "Windows-1257, Baltic",
    "cp932": "Shift-JIS, Japanese",
    "euc_jp": "EUC-JP, Japanese",
    "gb18030": "GB 18030, Chinese",
    "big5": "Big5, Chinese",
    "cp949": "EUC-KR, Korean",
    "utf-16": "UTF-16",
    "utf-32": "UTF-32",
}
SAVE_AS = (
    "This is not a text file in UTF-8, nor in another encoding that is known here: "
    "save it as UTF-8 in your editor, and open it again."
)
_SAMPLE_BYTES = 200_000  # bytes by which the encoding is told
_GUESSED_AT = 20_000  # bytes by which the library tells it
_UTF8 = "utf-8"
_AROUND = 24  # characters of a sample around the first letter beyond ASCII


@dataclass(frozen=True)
class Encoding:
    """An encoding in which a file can be decoded.

    Attributes:
        name: Python's name.
        label: the name shown to the writer.
        sample: some words of the file in this encoding, around its first non-ASCII character; "" if the file
            is all ASCII.
    """

    name: str
    label: str
    sample: str = ""


@dataclass(frozen=True)
class Decoded:
    """A decoded text, its encoding, and other encodings that are plausible.

    Attributes:
        text: the text.
        encoding: the encoding in which it was decoded.
        certain: True if no other encoding is plausible, so that the writer need not be asked.
        others: the other plausible encodings, likelier ones first.
    """

    text: str
    encoding: Encoding
    certain: bool
    others: tuple[Encoding, ...] = ()


def decode(data: bytes, chosen: str = "") -> Decoded:
    """Decode a text file in the `chosen` encoding; if `chosen` is "", in the likeliest one.

    Raises StoryError if the bytes are no text in this encoding, or if `chosen` is not supported.
    """
    if chosen:
        if chosen not in _ENCODING_NAMES and chosen != _UTF8:
            raise StoryError(f"Text files are not read as {chosen[:40]!r}.")
        text = _decode(data, "utf-8-sig" if chosen == _UTF8 else chosen)
        return Decoded(text, _encoding(chosen, text), False, _others(data, chosen))
    text, name = _likeliest(data)
    if name is None:
        return Decoded(text, Encoding(_UTF8, "UTF-8"), True)
    certain = name.startswith("utf") or text.isascii()
    return Decoded(text, _encoding(name, text), certain, () if certain else _others(data, name))


def _encoding(name: str, text: str) -> Encoding:
    label = _ENCODING_NAMES.get(
        name, _ENCODING_NAMES.get(name.removesuffix("-le").removesuffix("-be"), "UTF-8")
    )
    at = next((place for place, char in enumerate(text) if char > "\x7f"), None)
    sample = "" if at is None else " ".join(text[max(0, at - _AROUND) : at + _AROUND].split())
    return Encoding(name, label, sample)


def _others(data: bytes, chosen: str) -> tuple[Encoding, ...]:
    """Return the encodings in which the file is plausible text other than its text in `chosen`."""
    head = data[:_SAMPLE_BYTES]
    if max(head, default=0) < 0x80:
        return ()
    found, seen = [], {_try(head, chosen)}
    for name in (_UTF8, *_ENCODING_NAMES):
        wide = name.startswith(("utf-16", "utf-32"))  # in which nearly all bytes are text of some kind
        text = "" if wide or name == chosen else _try(head, name)
        if text and text not in seen and not any(char in text for char in "\0\ufffd"):
            seen.add(text)
            found.append(_encoding(name, text))
    return tuple(found)


def _likeliest(data: bytes) -> tuple[str, str | None]:
    """Return the text in the likeliest encoding, and the encoding's name. The name is None for UTF-8."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _decode(data, encoding), encoding
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    else:
        if b"\0" not in data:
            return text, None
    encoding = _detect_utf16(data) or _detect(data)
    return _decode(data, encoding), encoding


def _decode(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise StoryError(SAVE_AS) from None
    if "\0" in text:
        raise StoryError(SAVE_AS)
    return text


def _detect_utf16(data: bytes) -> str | None:
    """Return the encoding of UTF-16 text without a byte order mark; None for other data.

    The encoding is "utf-16-le" or "utf-16-be". In UTF-16, every other byte of ASCII letters is zero.
    """
    sample = data[: _SAMPLE_BYTES & ~1]
    half = len(sample) // 2
    if len(data) % 2 or half == 0:
        return None
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = sample[first::2].count(0), sample[1 - first :: 2].count(0)
        if zeros > 0.3 * half and others == 0:
            return encoding
    return None


def _detect(data: bytes) -> str:
    """Return the likeliest encoding of bytes that are not Unicode. Raises StoryError if they are not text."""
    if b"\0" in data or sum(byte < 9 or 13 < byte < 27 for byte in data[:_SAMPLE_BYTES]):
        raise StoryError(SAVE_AS)
    for encoding in ("cp932", "euc_jp"):
        if _share(_try(data, encoding), [(0x3041, 0x30FF)]) > 0.2:
            return encoding
    turkish = _try(data, "cp1254")
    if (
        "ı" in turkish
        and ("ş" in turkish or "ğ" in turkish)
        and _is_western(turkish, _WESTERN | set("ğĞışŞİ"))
    ):
        return "cp1254"
    eight_bits = [name for name in _ENCODING_NAMES if not name.startswith("utf")]
    best = from_bytes(_guessed_at(data), cp_isolation=eight_bits).best()
    found = None if best is None else best.encoding
    if found == "cp949" and 20 * data.count(b" ") < len(data):
        found = "gb18030"  # Korean has blanks between its words
    if found in (None, "cp1250", "cp1257"):  # of what is short it knows little
        likely = [name for name in ("cp1251", "koi8_r") if _is_russian(_try(data, name))]
        western = ["cp1252"] if _is_western(_try(data, "cp1252")) else []
        found = next(iter([*likely, *western]), found)
    if found is None or sum(char.isalpha() for char in _try(data, found)) < 2:
        raise StoryError(SAVE_AS)
    return found


def _guessed_at(data: bytes) -> bytes:
    """Return the bytes around the first non-ASCII byte, from which the encoding is guessed."""
    first = next((place for place, byte in enumerate(data[:_SAMPLE_BYTES]) if byte > 0x7F), 0)
    return data[max(0, first - 200) : first + _GUESSED_AT]


def _try(data: bytes, encoding: str) -> str:
    """Decode `data`, ignoring an incomplete last character.

    Returns "" if `data` is not valid in this encoding.
    """
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return ""


def _share(text: str, ranges: Iterable[tuple[int, int]]) -> float:
    """Return the fraction of a text's non-ASCII characters that lie in given ranges of code points."""
    beyond = [ord(char) for char in text if char > "\x7f"]
    found = sum(any(low <= code <= high for low, high in ranges) for code in beyond)
    return found / len(beyond) if beyond else 0.0


_WESTERN = set("äöüÄÖÜßéèêëÉÈàâÀçÇîïôœŒùûáíóúñÑ¿¡ÁÍÓÚåÅæÆøØãõÃÕ“”‘’„–—…«»‹›•€£§°· ")


def _is_western(text: str, known: set[str] = _WESTERN) -> bool:
    """Return whether all non-ASCII characters of a text are in `known`: by default, Western European ones."""
    return bool(text) and all(char <= "\x7f" or char in known for char in text)


def _is_russian(text: str) -> bool:
    """Return whether most letters of a text are lowercase Cyrillic, with as many vowels as Russian has."""
    letters = [char for char in text if char.isalpha()]
    small = sum("а" <= char <= "я" or char == "ё" for char in letters)
    vowels = sum(char in "аеёиоуыэюя" for char in letters)
    return small > 0.6 * len(letters) and 0.25 * len(letters) < vowels < 0.65 * len(letters)
