"""Detect the encoding of text files, including old Windows and East Asian ones, and convert to UTF-8."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable

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
_SAMPLE_BYTES = 200_000  # bytes that are examined


def to_utf8(data: bytes) -> tuple[bytes, str | None]:
    """Convert a text file to UTF-8. Returns its bytes, and the name of its encoding if that was another.

    Raises StoryError if the encoding cannot be detected.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _decode(data, encoding).encode(), _ENCODING_NAMES[encoding]
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        if b"\0" not in data:
            return data, None
    encoding = _detect_utf16(data) or _detect(data)
    text = _decode(data, encoding)
    json_like = text.lstrip()[:1] in ("{", "[") and _is_json(text)
    return text.encode(), None if json_like else _ENCODING_NAMES.get(
        encoding.removesuffix("-le").removesuffix("-be")
    )


def _decode(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise StoryError(SAVE_AS) from None
    if "\0" in text:
        raise StoryError(SAVE_AS)
    return text


def _detect_utf16(data: bytes) -> str | None:
    """Detect UTF-16 without a byte order mark: every other byte of ASCII letters is zero."""
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
    """Return the most likely encoding. Raises StoryError if the bytes are no text."""
    if b"\0" in data or sum(byte < 9 or 13 < byte < 27 for byte in data[:_SAMPLE_BYTES]):
        raise StoryError(SAVE_AS)
    for encoding in ("cp932", "euc_jp"):
        if _fraction_in(_try_decode(data, encoding), [(0x3041, 0x30FF)]) > 0.2:
            return encoding
    turkish = _try_decode(data, "cp1254")
    if (
        "ı" in turkish
        and ("ş" in turkish or "ğ" in turkish)
        and _is_western_european(turkish, _WESTERN_CHARACTERS | set("ğĞışŞİ"))
    ):
        return "cp1254"
    eight_bits = [name for name in _ENCODING_NAMES if not name.startswith("utf")]
    best = from_bytes(data[:_SAMPLE_BYTES], cp_isolation=eight_bits).best()
    found = None if best is None else best.encoding
    if found == "cp949" and 20 * data.count(b" ") < len(data):
        found = "gb18030"  # Korean has blanks between its words
    if found in (None, "cp1250", "cp1257"):  # of what is short it knows little
        cyrillic = [name for name in ("cp1251", "koi8_r") if _is_russian(_try_decode(data, name))]
        western = ["cp1252"] if _is_western_european(_try_decode(data, "cp1252")) else []
        found = next(iter([*cyrillic, *western]), found)
    if found is None or sum(char.isalpha() for char in _try_decode(data, found)) < 2:
        raise StoryError(SAVE_AS)
    return found


def _try_decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _fraction_in(text: str, ranges: Iterable[tuple[int, int]]) -> float:
    """Return the fraction of non-ASCII characters that lie in some ranges."""
    beyond = [ord(char) for char in text if char > "\x7f"]
    found = sum(any(low <= code <= high for low, high in ranges) for code in beyond)
    return found / len(beyond) if beyond else 0.0


_WESTERN_CHARACTERS = set("äöüÄÖÜßéèêëÉÈàâÀçÇîïôœŒùûáíóúñÑ¿¡ÁÍÓÚåÅæÆøØãõÃÕ“”‘’„–—…«»‹›•€£§°· ")


def _is_western_european(text: str, known: set[str] = _WESTERN_CHARACTERS) -> bool:
    """Return whether all non-ASCII characters are Western European."""
    return bool(text) and all(char <= "\x7f" or char in known for char in text)


def _is_russian(text: str) -> bool:
    """Return whether nearly all letters are lower-case Cyrillic with a usual share of vowels."""
    letters = [char for char in text if char.isalpha()]
    small = sum("а" <= char <= "я" or char == "ё" for char in letters)
    vowels = sum(char in "аеёиоуыэюя" for char in letters)
    return small > 0.6 * len(letters) and 0.25 * len(letters) < vowels < 0.65 * len(letters)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
