"""Convert character cards (versions 1 to 3) to the beginning of a story with memory, note and lore.

- Memory: system prompt, description, personality, scenario and example dialogue.
- Text: the first greeting. Each further greeting becomes a branch.
- Author's note: the depth prompt and the post-history instructions.
- Lorebook: the character book.
"""

from __future__ import annotations

import re
from typing import Any

from jet.files.lore import Book, character_book, world_info
from jet.files.losses import Losses
from jet.files.plain import line_of, mapping, number_of, text_of, texts_of
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.guidance import MAX_DEPTH, AuthorsNote, Guidance

MAX_GREETINGS = 50
_ORIGINAL = re.compile(r"\{\{\s*original\s*\}\}", re.IGNORECASE)
_CHARACTER = re.compile(r"\{\{\s*char\s*\}\}|<(?:BOT|CHAR)>", re.IGNORECASE)
_USER = re.compile(r"\{\{\s*user\s*\}\}|<USER>", re.IGNORECASE)
_OTHER = re.compile(r"\{\{[^{}\n]{1,80}\}\}")
_START = re.compile(r"^[^\S\n]*<START>[^\S\n]*$", re.IGNORECASE | re.MULTILINE)
_READER = "You"
_PARTS = (("Description", ("description", "char_persona")), ("Personality", ("personality",)),
          ("Scenario", ("scenario", "world_scenario")))  # fmt: skip


def is_card(plain: dict[str, Any]) -> bool:
    """Return whether a JSON object looks like a character card."""
    if str(plain.get("spec", "")).startswith("chara_card"):
        return True
    names = plain.keys() | mapping(plain.get("data")).keys()
    named = names & {"name", "char_name"}
    told = names & {
        "first_mes",
        "char_greeting",
        "mes_example",
        "example_dialogue",
        "personality",
        "char_persona",
    }
    return bool(named) and len(told) >= 1 and "entries" not in plain


def from_card(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a card's JSON to a story. Raises StoryFileError if the card contains no text."""
    data = mapping(plain.get("data")) if isinstance(plain.get("data"), dict) else plain
    name = line_of(data, "nickname") or line_of(data, "name", "char_name")
    tidy = Macros(name, losses)
    memory = _memory(data, name, tidy)
    note = _note(data, tidy)
    book = mapping(data.get("character_book"))
    lore = character_book(book, losses, Book(tidy=tidy)) if book else ()
    if not lore and isinstance(data.get("lorebook"), dict):
        lore = world_info(data["lorebook"], losses, Book(tidy=tidy))
    greetings = [tidy(text) for text in _greetings(data, losses)]
    if not (memory or greetings or lore or note.text):
        raise StoryFileError("This character card says nothing: there is no text in it.")
    document = _with_greetings(greetings)
    document.title = line_of(data, "name", "char_name")
    document.guidance = Guidance(memory, note, lore)
    _tell_rest(data, losses)
    tidy.tell()
    return document


class Macros:
    """Replaces the macros {{char}} and {{user}} by names, as programs that show character cards do."""

    def __init__(self, character: str, losses: Losses, reader: str = _READER) -> None:
        self._character, self._reader, self._losses = character, reader, losses
        self._readers = self._others = 0

    def __call__(self, text: str) -> str:
        """Replace known macros such as {{char}}; count unknown macros, which stay in the text, as losses."""
        text = _ORIGINAL.sub("", text)
        if self._character:
            text = _CHARACTER.sub(lambda _: self._character, text)
        text, readers = _USER.subn(lambda _: self._reader, text)
        self._readers += readers
        self._others += len(_OTHER.findall(text))
        return text

    def tell(self) -> None:
        """Report two kinds of loss: {{user}} replaced by a placeholder, and macros that stay in the text."""
        if self._readers and self._reader == _READER:
            self._losses.add(f"who {{{{user}}}} is: “{_READER}” stands there now")
        self._losses.count(
            "placeholder that stays as it is", "placeholders that stay as they are", self._others
        )


def _memory(data: dict[str, Any], name: str, tidy: Macros) -> str:
    parts = [tidy(text_of(data, "system_prompt")).strip()]
    for label, fields in _PARTS:
        text = tidy(text_of(data, *fields)).strip()
        if text:
            parts.append(f"{name}: {text}" if label == "Description" and name else f"{label}: {text}")
    examples = _START.sub("", tidy(text_of(data, "mes_example", "example_dialogue"))).strip()
    if examples:
        parts.append(
            f"How {name or 'the character'} talks:\n{re.sub(chr(10) + '{3,}', chr(10) * 2, examples)}"
        )
    return "\n\n".join(part for part in parts if part)


def _note(data: dict[str, Any], tidy: Macros) -> AuthorsNote:
    """Join the card's depth prompt and post-history instructions to an author's note."""
    deep = mapping(mapping(data.get("extensions")).get("depth_prompt"))
    texts = [tidy(text_of(deep, "prompt")).strip(), tidy(text_of(data, "post_history_instructions")).strip()]
    depth = number_of(deep.get("depth"), 4) if texts[0] else 1
    text = "\n".join(text for text in texts if text)
    return AuthorsNote(text, max(1, min(MAX_DEPTH, depth)), "paragraphs") if text else AuthorsNote()


def _greetings(data: dict[str, Any], losses: Losses) -> list[str]:
    others = [*_list(data.get("alternate_greetings")), *_list(data.get("group_only_greetings"))]
    found = [text_of(data, "first_mes", "char_greeting"), *others]
    found = [text for text in found if text.strip()]
    losses.count(
        f"greeting beyond {MAX_GREETINGS}", f"greetings beyond {MAX_GREETINGS}", len(found) - MAX_GREETINGS
    )
    return found[:MAX_GREETINGS]


def _list(value: object) -> list[str]:
    return [text_of({"text": text}, "text") for text in value] if isinstance(value, list) else []


def _with_greetings(greetings: list[str]) -> Document:
    """Make a story of the first greeting. Each further greeting is a branch; the undo history is empty."""
    return with_branches(greetings, "Greeting")


def with_branches(texts: list[str], name: str) -> Document:
    """Make a story of several texts, with an empty undo history.

    The first text is the current branch. The others are further branches, named `name` 2, `name` 3 and so on.
    """
    document = Document.from_text(texts[0] if texts else "")
    first = document.current
    for number, text in enumerate(texts[1:], start=2):
        document.select_branch(first)
        document.rename(document.fork(0), f"{name} {number}")
        document.edit(text)
    document.select_branch(first)
    return Document(document.tree)


def _tell_rest(data: dict[str, Any], losses: Losses) -> None:
    told = {
        "creator_notes": "the notes of its creator",
        "creatorcomment": "the notes of its creator",
        "creator_notes_multilingual": "the notes of its creator",
        "creator": "the name of its creator",
        "character_version": "its version",
    }
    for words in dict.fromkeys(words for name, words in told.items() if data.get(name)):
        losses.add(words)
    if texts_of(data.get("tags")):
        losses.add("its tags")
    pictures = [asset for asset in _assets(data) if asset.get("uri") not in (None, "", "ccdefault:")]
    losses.count("picture or sound", "pictures and sounds", len(pictures))
    known = {"depth_prompt", "talkativeness", "fav", "world"}
    others = [name for name, value in mapping(data.get("extensions")).items() if name not in known and value]
    losses.count("extension of another program", "extensions of other programs", len(others))


def _assets(data: dict[str, Any]) -> list[dict[str, Any]]:
    given = data.get("assets")
    return [asset for asset in given if isinstance(asset, dict)] if isinstance(given, list) else []
