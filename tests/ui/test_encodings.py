"""Text files of any usual encoding are read as what they are, or it is said what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.story.errors import StoryError
from jet.ui.encodings import to_utf8

TEXTS = {
    "cp1252": (
        "“It’s café time” – she said…",
        "Der Müller ging über die Brücke, weil er grüßen wollte.",
        "El niño comió una piña en la montaña. ¿Dónde está?",
        "café",
    ),
    "cp1251": ("Старый смотритель маяка открыл дверь и увидел море.", "Привет, мир"),
    "koi8_r": ("Старый смотритель маяка открыл дверь и увидел море.",),
    "cp1250": ("Zażółć gęślą jaźń. Stary latarnik otworzył drzwi.", "Příliš žluťoučký kůň úpěl."),
    "cp1253": ("Ο γέρος φαροφύλακας άνοιξε την πόρτα.",),
    "cp1254": ("Yaşlı fener bekçisi kapıyı açtı ve içeri girdi. Şimdi gülüyor.",),
    "cp1255": ("השומר הזקן של המגדלור פתח את הדלת וראה את הים.",),
    "cp1256": ("فتح حارس المنارة العجوز الباب ورأى البحر.",),
    "cp932": ("古い灯台の番人がドアを開けた。彼は海を見た。",),
    "euc_jp": ("古い灯台の番人がドアを開けた。彼は海を見た。",),
    "gb18030": ("老灯塔看守人打开了门，看见了大海。",),
    "big5": ("老燈塔看守人打開了門，看見了大海。",),
    "cp949": ("늙은 등대지기가 문을 열었다. 바다가 보였다.",),
    "utf-16": ("Ünder", "海"),
    "utf-16-le": ("A plain story",),
    "utf-16-be": ("A plain story",),
    "utf-32": ("x é",),
}


@pytest.mark.parametrize(("encoding", "text"), [(name, text) for name in TEXTS for text in TEXTS[name]])
def test_a_file_of_a_usual_encoding_is_read_and_named(encoding: str, text: str) -> None:
    data, said = to_utf8(text.encode(encoding))
    assert data.decode() == text
    assert said


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_utf8_is_left_alone(text: str) -> None:
    if not text.encode().startswith((b"\xff\xfe", b"\xfe\xff")):
        assert to_utf8(text.encode()) == (text.encode(), None)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"PK\x03\x04\x14\0\0\0\x08\0",
        b"\xff\xfe\0",
        b"text\0more",
        b"%PDF-1.4\n\xe2\xe3\xcf\xd3\n\x01\x02",
        bytes(range(256)),
    ],
)
def test_what_is_no_text_is_refused_in_a_writers_words(data: bytes) -> None:
    with pytest.raises(StoryError, match="save it as UTF-8"):
        to_utf8(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        found, _ = to_utf8(data)
    except StoryError:
        return
    found.decode()
