"""Test that lorebooks, cards, scenarios and chats keep their meaning, and that losses are reported."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jet.files.reading import Imported, read
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.guidance import LoreEntry
from tests.files.samples import card_chunk, chunk, package, picture

WORLD: dict[str, Any] = {
    "uid": 0,
    "key": ["tower"],
    "keysecondary": ["night", "fog"],
    "comment": "The Tower",
    "content": "Tall.",
    "constant": False,
    "selective": True,
    "selectiveLogic": 0,
    "order": 7,
    "position": 0,
    "disable": False,
    "probability": 100,
    "useProbability": True,
    "scanDepth": None,
    "caseSensitive": None,
    "matchWholeWords": None,
}
CARD: dict[str, Any] = {
    "name": "Mira",
    "description": "{{char}} keeps the light for {{user}}.",
    "personality": "stern",
    "scenario": "A storm.",
    "first_mes": "*{{char}} looks at {{user}}.* “You again.”",
    "mes_example": "<START>\n{{user}}: Hello.\n{{char}}: No.\n<START>\n{{char}}: Go.",
}
BOOK_ENTRY: dict[str, Any] = {
    "keys": ["pier"],
    "secondary_keys": [],
    "selective": False,
    "content": "The pier is {{char}}’s.",
    "enabled": True,
    "insertion_order": 5,
    "constant": False,
    "extensions": {},
}


def of(plain: object, name: str = "x.json") -> Imported:
    """Return the import of a JSON value as a file of this name."""
    return read(name, json.dumps(plain).encode())


def world(**changes: Any) -> tuple[LoreEntry, tuple[str, ...]]:
    """Return the only entry of a world info file with these changes, and what was lost of it."""
    found = of({"entries": {"0": WORLD | changes}})
    (entry,) = found.document.guidance.lore
    return entry, found.losses


def card(**changes: Any) -> Imported:
    """Return the import of a card of version 2 with these changes."""
    return of({"spec": "chara_card_v2", "spec_version": "2.0", "data": CARD | changes})


def book(**changes: Any) -> tuple[LoreEntry, tuple[str, ...]]:
    """Return the only entry of a card's book with these changes, and what was lost of it."""
    found = card(character_book={"entries": [BOOK_ENTRY | changes], "extensions": {}})
    (entry,) = found.document.guidance.lore
    return entry, found.losses


# --- SillyTavern -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"secondary_keywords": ("night", "fog")}),
        ({"selectiveLogic": 2}, {"anti_keywords": ("night", "fog")}),
        ({"selectiveLogic": 1, "keysecondary": ["fog"]}, {"anti_keywords": ("fog",)}),
        ({"selectiveLogic": 3, "keysecondary": ["fog"]}, {"secondary_keywords": ("fog",)}),
        ({"selective": False}, {"secondary_keywords": (), "anti_keywords": ()}),
        ({"disable": True}, {"enabled": False}),
        ({"disable": "true"}, {"enabled": False}),
        ({"constant": True, "key": []}, {"constant": True, "keywords": ()}),
        ({"order": 250}, {"order": 250}),
        ({"order": "x"}, {"order": 100}),
        ({"scanDepth": 3}, {"scan_depth": 3, "scan_unit": "paragraphs"}),
        ({"scanDepth": 10**12}, {"scan_depth": 1_000_000}),
        ({"caseSensitive": True}, {"case_sensitive": True}),
        ({"matchWholeWords": False}, {"whole_word": False}),
        ({"probability": 0}, {"enabled": False}),
        ({"probability": 10, "useProbability": False}, {"enabled": True}),
        ({"key": "tower, keep"}, {"keywords": ("tower", "keep")}),
        ({"key": ["/tower|keep/i"]}, {"keywords": ("tower", "keep"), "case_sensitive": False}),
        ({"key": [r"/\b(?:Tower|Keep)\b/"]}, {"keywords": ("Tower", "Keep"), "case_sensitive": True}),
        ({"key": ["tower", None, 7, ""]}, {"keywords": ("tower",)}),
        ({"comment": "two\nlines"}, {"title": "two lines"}),
        ({"content": "a\r\nb\u2028c"}, {"content": "a\nb\nc"}),
    ],
)
def test_a_world_info_entry_keeps_its_meaning(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    entry, losses = world(**changes)
    assert {name: getattr(entry, name) for name in expected} == expected
    assert losses == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selectiveLogic": 3}, "1 entry that asks for all of its secondary keys: one is enough here"),
        ({"selectiveLogic": 1}, "1 entry that is silent if all of several words come up"),
        ({"probability": 40}, "1 lore entry sent by chance: it is always sent"),
        ({"position": 4}, "1 lore entry that stands within the chat"),
        ({"position": 2}, "1 lore entry with a place of its own"),
        ({"vectorized": True}, "1 lore entry that is found by its meaning"),
        ({"sticky": 3, "cooldown": 2}, "1 lore entry that stays or waits for some messages"),
        ({"group": "weather"}, "1 lore entry of a group of which one is sent"),
        ({"delayUntilRecursion": True}, "1 lore entry that only others call up"),
        ({"characterFilter": {"names": ["Mira"], "tags": []}}, "1 lore entry for some characters"),
        ({"key": ["/to+wer/"], "constant": True}, "the pattern /to+wer/ among the keys of “The Tower”"),
        ({"key": []}, "1 lore entry that nothing calls up: it is kept, switched off"),
    ],
)
def test_what_a_world_info_entry_cannot_keep_is_told(changes: dict[str, Any], said: str) -> None:
    assert world(**changes)[1] == (said,)


def test_entries_that_cannot_be_read_cost_no_others() -> None:
    found = of({"entries": {"0": WORLD, "1": None, "2": 7, "3": WORLD | {"content": None}}})
    assert len(found.document.guidance.lore) == 1
    assert found.losses == ("2 lore entries that cannot be read", "1 lore entry without a text")
    assert found.only_guidance


def test_losses_are_counted_together() -> None:
    found = of({"entries": [WORLD | {"position": 4}] * 3})
    assert found.losses == ("3 lore entries that stand within the chat",)


def test_more_entries_than_the_page_holds_are_told() -> None:
    found = of({"entries": [WORLD] * 503})
    assert len(found.document.guidance.lore) == 500
    assert found.losses == ("3 lore entries beyond 500",)


CHAT = [
    {
        "user_name": "unused",
        "character_name": "unused",
        "chat_metadata": {"note_prompt": "Be brief.", "note_depth": 2},
    },
    {
        "name": "Mira",
        "is_user": False,
        "mes": "You again, {{user}}.",
        "swipes": ["You again.", "Oh."],
        "swipe_id": 0,
    },
    {"name": "Tam", "is_user": True, "mes": "Me."},
    {"name": "System", "is_system": True, "mes": "hidden"},
    {
        "name": "Mira",
        "is_user": False,
        "mes": "Two\n\nparagraphs.",
        "extra": {"reasoning": "hm", "image": "x.png"},
    },
]


def chat(rows: list[Any], name: str = "x.jsonl") -> Imported:
    """Return the import of a chat of these rows."""
    return read(name, "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode())


@pytest.mark.parametrize(
    ("about", "memory", "note", "lost"),
    [
        ({"note_depth": 2}, "", ("Brief.", 2, "paragraphs"), False),
        ({"note_depth": 2, "note_position": 1, "note_interval": 3}, "", ("Brief.", 2, "paragraphs"), True),
        ({"note_position": 0}, "Brief.", ("", 3, "lines"), False),
        ({"note_position": 2, "note_depth": 1}, "Brief.", ("", 3, "lines"), False),
        ({"note_interval": 0}, "", ("", 3, "lines"), True),
    ],
)
def test_an_authors_note_of_a_chat_stands_where_it_stood(
    about: dict[str, Any], memory: str, note: tuple[str, int, str], lost: bool
) -> None:
    found = chat(
        [{"character_name": "Mira", "chat_metadata": {"note_prompt": "Brief.", **about}}, *CHAT[1:3]]
    )
    guidance = found.document.guidance
    assert (guidance.memory, (guidance.note.text, guidance.note.depth, guidance.note.unit)) == (memory, note)
    assert any("note" in one for one in found.losses) == lost


def test_a_chat_is_a_text_with_who_says_what() -> None:
    found = chat(CHAT)
    assert found.document.text == "Mira: You again, Tam.\n\nTam: Me.\n\nMira: Two\n\nparagraphs."
    assert found.document.title == "Mira"
    note = found.document.guidance.note
    assert (note.text, note.depth, note.unit) == ("Be brief.", 2, "paragraphs")
    assert found.losses == (
        "1 other version of a message",
        "1 hidden message",
        "1 train of thought",
        "1 picture or file",
    )


def test_a_damaged_line_of_a_chat_costs_that_line() -> None:
    found = chat([*CHAT[:3], "{", "[]"])
    assert found.document.text == "Mira: You again, Tam.\n\nTam: Me."
    assert found.losses == ("2 lines that cannot be read", "1 other version of a message")


def test_a_chat_without_a_head_is_read() -> None:
    assert chat(CHAT[1:3]).document.title == "Mira"
    assert of(CHAT[2]).document.text == "Tam: Me."


# --- character cards -------------------------------------------------------------------------------------


def test_a_card_becomes_memory_and_text() -> None:
    found = card()
    guidance = found.document.guidance
    assert found.document.text == "*Mira looks at You.* “You again.”"
    assert found.document.title == "Mira"
    assert guidance.memory == (
        "Mira: Mira keeps the light for You.\n\nPersonality: stern\n\nScenario: A storm.\n\n"
        "How Mira talks:\nYou: Hello.\nMira: No.\n\nMira: Go."
    )
    assert found.losses == ("who {{user}} is: “You” stands there now",)


@pytest.mark.parametrize("version", ["flat", "char_name", "v2", "v3"])
def test_cards_of_all_versions(version: str) -> None:
    plain: dict[str, Any] = {
        "flat": CARD,
        "char_name": {
            "char_name": "Mira",
            "char_persona": "stern",
            "char_greeting": "No.",
            "world_scenario": "Rain.",
        },
        "v2": {"spec": "chara_card_v2", "data": CARD},
        "v3": {"spec": "chara_card_v3", "spec_version": "3.0", "data": CARD | {"nickname": "Mi"}},
    }[version]
    found = of(plain)
    assert found.kind == "character card"
    assert found.document.title == "Mira"
    assert found.document.guidance.memory.startswith({"v3": "Mi: "}.get(version, "Mira: "))
    assert found.document.text.startswith({"char_name": "No.", "v3": "*Mi looks"}.get(version, "*Mira looks"))


def test_further_greetings_are_branches() -> None:
    found = card(alternate_greetings=["A second one.", "", "A third."], group_only_greetings=["For many."])
    tree = found.document.tree
    assert [(branch.name, branch.text[:9]) for branch in tree.branches.values()][1:] == [
        ("Greeting 2", "A second "),
        ("Greeting 3", "A third."),
        ("Greeting 4", "For many."),
    ]
    assert found.document.text.startswith("*Mira")
    assert not found.document.can_undo


def test_what_the_model_was_told_last_is_the_note() -> None:
    deep = {
        "depth_prompt": {"prompt": "{{char}} is wet.", "depth": 3, "role": "system"},
        "talkativeness": "0.5",
    }
    note = card(
        extensions=deep, post_history_instructions="{{original}}Short answers."
    ).document.guidance.note
    assert (note.text, note.depth, note.unit) == ("Mira is wet.\nShort answers.", 3, "paragraphs")
    assert card(post_history_instructions="Short.").document.guidance.note.depth == 1
    assert card(system_prompt="Write well.").document.guidance.memory.startswith("Write well.\n\nMira: ")


def test_what_a_card_cannot_keep_is_told() -> None:
    found = card(
        creator="ida",
        creator_notes="x",
        tags=["sea"],
        character_version="1.1",
        assets=[{"type": "icon", "uri": "ccdefault:"}, {"type": "icon", "uri": "https://example.org/1.png"}],
        extensions={"other": {"a": 1}, "fav": True},
    )
    assert found.losses == (
        "the notes of its creator",
        "the name of its creator",
        "its version",
        "its tags",
        "1 picture or sound",
        "1 extension of another program",
        "who {{user}} is: “You” stands there now",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"keywords": ("pier",), "order": 5, "content": "The pier is Mira’s."}),
        ({"enabled": False}, {"enabled": False}),
        ({"constant": True}, {"constant": True}),
        ({"case_sensitive": True}, {"case_sensitive": True}),
        ({"selective": True, "secondary_keys": ["sea"]}, {"secondary_keywords": ("sea",)}),
        (
            {"selective": True, "secondary_keys": ["sea"], "extensions": {"selectiveLogic": 2}},
            {"secondary_keywords": (), "anti_keywords": ("sea",)},
        ),
        ({"secondary_keys": ["sea"]}, {"secondary_keywords": ()}),
        (
            {"use_regex": True, "keys": ["pier|jetty"]},
            {"keywords": ("pier", "jetty"), "case_sensitive": False},
        ),
        (  # SillyTavern says so of every key
            {"use_regex": True, "keys": ["St. Mary", "C++ (old)", "/sea|Sound/"]},
            {"keywords": ("St. Mary", "C++ (old)", "sea", "Sound"), "case_sensitive": False},
        ),
        (
            {"use_regex": True, "keys": ["/sea|Sound/"]},
            {"keywords": ("sea", "Sound"), "case_sensitive": True},
        ),
        (
            {"keys": ["{{char}}", "{{ user }}"], "selective": True, "secondary_keys": ["{{char}}'s"]},
            {"keywords": ("Mira", "You"), "secondary_keywords": ("Mira's",)},
        ),
        ({"extensions": {"scan_depth": 2}}, {"scan_depth": 2, "scan_unit": "paragraphs"}),
        ({"name": "Pier"}, {"title": "Pier"}),
        (
            {"content": "@@constant\n@@scan_depth 4\nText."},
            {"constant": True, "scan_depth": 4, "content": "Text."},
        ),
        (
            {"content": "@@dont_activate\n@@exclude_keys a,b\nT"},
            {"enabled": False, "anti_keywords": ("a", "b")},
        ),
    ],
)
def test_an_entry_of_a_cards_book_keeps_its_meaning(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    entry, losses = book(**changes)
    assert {name: getattr(entry, name) for name in expected} == expected
    assert losses == ("who {{user}} is: “You” stands there now",)


def test_decorators_that_are_not_known_are_told() -> None:
    entry, losses = book(content="@@depth 3\n@@@unknown 1\nText.")
    assert entry.content == "Text."
    assert losses[0] == "1 lore entry with “@@depth”"


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_picture_carries_a_card(kind: bytes) -> None:
    old, new = CARD | {"name": "Old"}, {"spec": "chara_card_v3", "data": CARD}
    found = read("mira.png", picture(card_chunk(old, kind=kind), card_chunk(new, b"ccv3", kind)))
    assert (found.kind, found.document.title) == ("character card in a picture", "Mira")
    assert found.losses[-1] == "the picture itself"


def test_a_package_carries_a_card() -> None:
    found = read(
        "mira.charx",
        package(card_dot_json=json.dumps({"spec": "chara_card_v3", "data": CARD}).encode(), a=b"1"),
    )
    assert found.document.title == "Mira"
    assert found.losses[0] == "1 picture or sound"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (picture(), "carries no character card"),
        (picture(chunk(b"tEXt", b"chara\0!!")), "is not text|not JSON|cannot be read"),
        (picture(chunk(b"zTXt", b"chara\0\0nonsense")), "cannot be unpacked"),
        (picture(card_chunk(CARD))[:160], "ends within its character card"),
    ],
)
def test_pictures_without_a_card_are_refused_in_words(data: bytes, said: str) -> None:
    with pytest.raises(StoryFileError, match=said):
        read("x.png", data)


def test_a_card_that_says_nothing_is_refused() -> None:
    with pytest.raises(StoryFileError, match="says nothing"):
        of({"spec": "chara_card_v2", "data": {"name": "x"}})


# --- NovelAI ---------------------------------------------------------------------------------------------


def scenario(**changes: Any) -> Imported:
    """Return the import of a scenario with these changes."""
    part = {"contextConfig": {"prefix": "", "suffix": "\n", "insertionPosition": -3}}
    plain = {
        "scenarioVersion": 3,
        "title": "Skell",
        "author": "Ida",
        "prompt": "${hero[Mira]:who} kept ${what:a thing}.",
        "context": [part | {"text": "About ${hero}."}, part | {"text": "Plain."}],
        "placeholders": [],
        "lorebook": {"lorebookVersion": 6, "entries": []},
    }
    return of(plain | changes, "x.scenario")


def test_a_scenario_fills_in_what_it_suggests() -> None:
    found = scenario()
    assert found.document.text == "Mira kept ${what:a thing}."
    assert (found.document.title, found.document.author) == ("Skell", "Ida")
    guidance = found.document.guidance
    assert (guidance.memory, guidance.note.text, guidance.note.depth) == ("About Mira.", "Plain.", 2)
    assert found.losses == ("2 questions answered as they suggest", "1 question left open in the text")


def test_a_switched_off_category_switches_its_entries_off() -> None:
    entries = [{"text": "T", "keys": ["a"], "category": "c", "enabled": True}, {"text": "U", "keys": ["b"]}]
    categories = [{"name": "People", "id": "c", "enabled": False}]
    found = of({"lorebookVersion": 5, "entries": entries, "categories": categories}, "x.lorebook")
    assert [entry.enabled for entry in found.document.guidance.lore] == [False, True]


@pytest.mark.parametrize("document", ["", "!!!!", "1BQA", "1BQAgA==", "1BQA3/////8=", "kw" * 400])
def test_a_damaged_document_of_the_new_editor_is_refused(document: str) -> None:
    plain = {"storyContainerVersion": 1, "metadata": {}, "content": {"document": document}}
    with pytest.raises(StoryFileError, match="NovelAI story"):
        of(plain, "x.story")


# --- RTF -------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))), stand_ins=st.integers(0, 2))
def test_characters_in_a_row_are_read_as_one_by_one(text: str, stand_ins: int) -> None:
    """Compare the fast path for runs of characters with characters that are read one by one."""
    packed = text.encode("utf-16-le")
    units = [int.from_bytes(packed[at : at + 2], "little", signed=True) for at in range(0, len(packed), 2)]
    words = [f"\\u{unit} " + "?" * stand_ins for unit in units]
    texts = [
        read("x.rtf", f"{{\\rtf1\\uc{stand_ins} |{between.join(words)}|}}".encode()).document.text
        for between in ("", "{}")
    ]
    assert texts == [f"|{text}|"] * 2


# --- what is none of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.pdf", b"%PDF-1.7", "PDF files are not read: save the text as DOCX"),
        ("x.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "old Word: save it as DOCX"),
        (
            "x.odt",
            package(mimetype=b"application/vnd.oasis.opendocument.text"),
            "OpenDocument files are not read",
        ),
        ("x.png", b"\xff\xd8\xff\xe0\0\x10JFIF", "carries no character card"),
        ("x.png", b"RIFF\x10\0\0\0WEBPVP8 ", "carries no character card"),
        ("x.json", b"[1, 2]", "neither ours nor of KoboldAI, NovelAI"),
        ("x.json", b'{"a": 1}', "neither ours nor of KoboldAI, NovelAI"),
        ("x.docx", b"hello", "no DOCX file, or a damaged one"),
        ("x.epub", package(mimetype=b"application/epub+zip"), "'META-INF/container.xml' is missing"),
        ("x.exe", b"MZ", "Stories are read from .docx, .epub"),
        ("x", b"text", "not from 'x'"),
    ],
)
def test_other_files_are_refused_with_what_to_do(name: str, data: bytes, said: str) -> None:
    with pytest.raises(StoryFileError, match=said):
        read(name, data)


def test_a_file_is_known_by_what_is_in_it() -> None:
    from jet.files.writing import write

    document = Document.from_text("One.")
    assert read("wrong.txt", write(document, "docx").data).document.text == "One."
    assert read("wrong.json", write(document, "epub").data).document.text == "One."
