"""Test the matching of keywords: borders depend on the scripts of both neighbors, lookalikes match."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.story.context import is_triggered
from jet.story.document import Document
from jet.story.files import MAX_FILE_NAME, file_name
from jet.story.guidance import LoreEntry

SHY, NBSP, ZWNJ, ZWJ = "\u00ad", "\u00a0", "\u200c", "\u200d"


def called(keyword: str, story: str, **options: bool) -> bool:
    return is_triggered(LoreEntry(keywords=(keyword,), **options), story)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keyword", "story"),
    [
        # Scripts that put no spaces between words.
        ("มังกร", "เขาเห็นมังกรตัวใหญ่"),
        ("อลิซ", "แล้วอลิซก็หัวเราะ"),
        ("ມັງກອນ", "ເຫັນມັງກອນໃຫຍ່"),
        ("នាគ", "គាត់ឃើញនាគធំ"),
        ("နဂါး", "သူနဂါးကြီးကိုမြင်"),
        ("東京", "彼は東京へ行った"),
        ("アリス", "昨日アリスが来た"),
        ("ドラゴン", "そのドラゴンは眠った"),
        # Another script beside them is a border.
        ("Alice", "昨天Alice来了"),
        ("Alice", "เมื่อวานAliceมา"),
        ("2024", "2024年の夏"),
        ("Alice", "어제 Alice가 왔다"),
        ("R2D2", "R2D2는 울었다"),
        # Korean particles.
        ("앨리스", "앨리스가 왔다"),
        ("앨리스", "앨리스에게서는 소식이 없다"),
        ("앨리스", "그건 앨리스였다."),
        ("앨리스", "앨리스님께서 오셨다"),
        ("서울", "서울에서부터 걸었다"),
        ("용", "용들이 날았다"),
        # Combining marks belong to words, and do not end one.
        ("राम", "तब राम ने कहा"),
        ("हिन्दी", "वह हिन्दी बोलता है"),
        ("தமிழ்", "அவள் தமிழ் பேசினாள்"),
        ("বাংলা", "সে বাংলা জানে"),
        # Alike for a reader.
        ("café", unicodedata.normalize("NFD", "Im Café war es still")),
        (unicodedata.normalize("NFD", "Ngọc"), "Ngọc ngồi xuống"),
        ("D'Artagnan", "Then D’Artagnan bowed"),
        ("D’Artagnan", "Then D'Artagnan bowed"),
        ("Oʼahu", "on O'ahu"),
        ("Black Forest", f"the Black{NBSP}Forest"),
        ("Black Forest", "the Black\nForest"),
        (f"Black{NBSP}Forest", "the  black \t forest"),
        ("lighthouse", f"the light{SHY}house"),
        ("Jean-Luc", "so Jean‑Luc said"),
        ("Rose", "_Rose_ smiled"),
        ("Rose", "**Rose**’s hat"),
        ("Straße", "IN DER STRASSE"),
        ("Οδυσσεύς", "ΟΔΥΣΣΕΎΣ ΓΎΡΙΣΕ"),
        ("İstanbul", "in istanbul"),
        ("Ｒｏｓｅ", "a Rose"),
        ("כותל", "הנה כּוֹתֶל ישן"),
        ("محمد", "قال مُحَمَّد"),
        (f"می{ZWNJ}خواهم", f"من می{ZWNJ}خواهم بروم"),
        ("کتاب", f"آن کتاب{ZWNJ}ها"),
        # Signs that stand for letters are none of the word's.
        ("Alice", "Alice™ shines"),
        ("Ann", "℡Ann"),
        ("Ann", "of Ann℠."),
        ("Bose-Einstein", "a Bose–Einstein state"),
        ("1914–1918", "from 1914-1918"),
    ],
)
def test_a_keyword_is_found_in_its_script(keyword: str, story: str) -> None:
    assert called(keyword, story)


@pytest.mark.parametrize(
    ("keyword", "story"),
    [
        ("राम", "यह रामायण है"),
        ("कम", "कमल खिला"),
        ("தமிழ", "தமிழ் மொழி"),
        ("앨리", "앨리스가 왔다"),
        ("강", "강아지가 짖었다"),
        ("리스", "앨리스가 왔다"),
        ("ros", "Rosé wine"),
        ("Ros", unicodedata.normalize("NFD", "Rosé wine")),
        ("rose", "primrose"),
        ("rose", "rose2"),
        ("Алис", "Алиса"),
        ("ma", "año mañana"),
        ("มังกร", "มังกร์"),
        # Nor is a part of a syllable.
        ("มา", "เขาเมาแล้ว"),
        ("ก", "กา"),
        ("ປ", "ໄປ"),
        ("ຕ", "ຕາ"),
        ("ត", "មិត្ត"),
        ("တ", "ပုတ္တ"),
    ],
)
def test_a_part_of_a_word_is_no_word(keyword: str, story: str) -> None:
    assert not called(keyword, story)


def test_a_part_of_a_word_is_found_where_that_is_wanted() -> None:
    assert called("राम", "यह रामायण है", whole_word=False)
    assert called("ros", "Primroses", whole_word=False)
    assert called("앨리", "앨리스가 왔다", whole_word=False)


def test_case_counts_where_it_is_to() -> None:
    assert not called("Rose", "a rose", case_sensitive=True)
    assert called("D’Artagnan", "it was D'Artagnan", case_sensitive=True)


def test_secondary_and_anti_keywords() -> None:
    entry = LoreEntry(keywords=("tower",), secondary_keywords=("night", "dusk"), anti_keywords=("ruin",))
    assert is_triggered(entry, "The tower at dusk")
    assert not is_triggered(entry, "The tower at noon")
    assert not is_triggered(entry, "The ruin of a tower at night")


WORDS = ["Rose", "café", "राम", "มังกร", "앨리스", "東京", "Алиса", "D'Artagnan", "Ngọc", "Black Forest"]


@given(st.sampled_from(WORDS), st.sampled_from(WORDS), st.sampled_from(" \n,.!?—“”_*()…"), st.booleans())
def test_a_keyword_between_marks_is_found_however_it_is_composed(
    keyword: str, other: str, mark: str, decomposed: bool
) -> None:
    story = f"{other}{mark}{keyword}{mark}{other}"
    form = "NFD" if decomposed else "NFC"
    assert called(keyword, unicodedata.normalize(form, story))
    assert called(unicodedata.normalize(form, keyword), story)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("हिन्दी", "हिन्दी.txt"),
        ("ที่นี่", "ที่นี่.txt"),
        (unicodedata.normalize("NFD", "Café Müller"), "Café_Müller.txt"),
        ("தமிழ் கதை", "தமிழ்_கதை.txt"),
        ("မြန်မာ", "မြန်မာ.txt"),
        ("CON", "CON_story.txt"),
        ("🙂", "story.txt"),
    ],
)
def test_a_title_is_a_file_name_in_every_script(title: str, name: str) -> None:
    assert file_name(Document(title=title), "txt") == name


@given(st.text(max_size=120))
def test_file_names_are_short_and_end_between_letters(title: str) -> None:
    stem = file_name(Document(title=title), "txt").removesuffix(".txt")
    assert 0 < len(stem) <= MAX_FILE_NAME + len("_story")
    assert not set(stem) & set('/\\:*?"<>| \n')
