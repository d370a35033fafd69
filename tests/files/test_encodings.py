"""Test that text files in any common encoding are decoded correctly, or refused with advice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.files.encodings import decode
from jet.story.errors import StoryError

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
    found = decode(text.encode(encoding))
    assert found.text == text
    assert found.encoding.label != "UTF-8"


@pytest.mark.parametrize(("encoding", "text"), [(name, text) for name in TEXTS for text in TEXTS[name]])
def test_an_encoding_can_be_chosen(encoding: str, text: str) -> None:
    name = encoding.removesuffix("-le").removesuffix("-be")
    data = text.encode(name)
    found = decode(data, name)
    assert (found.text, found.encoding.name, found.certain) == (text, name, False)


def test_what_else_it_may_be_is_offered_with_a_sample() -> None:
    found = decode("Старый смотритель маяка открыл дверь и увидел море.".encode("cp1251"))
    assert (found.encoding.name, found.certain) == ("cp1251", False)
    others = {other.name: other.sample for other in found.others}
    assert "koi8_r" in others
    assert "cp1251" not in others
    assert found.encoding.sample.startswith("Старый")
    assert not any(sample.startswith("Старый") for sample in others.values())


def test_what_was_chosen_must_fit() -> None:
    with pytest.raises(StoryError, match="save it as UTF-8"):
        decode(b"caf\xe9", "utf-8")
    with pytest.raises(StoryError, match="not read as"):
        decode(b"cafe", "rot13")


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_utf8_is_left_alone(text: str) -> None:
    found = decode(text.encode())
    assert found.text == text.removeprefix("\ufeff")
    assert (found.encoding.name, found.certain) == ("utf-8", True)


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
        decode(data)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    try:
        found = decode(data)
    except StoryError:
        return
    assert "\0" not in found.text
