"""Convert SillyTavern's world info and chats, and RisuAI's lorebooks."""

from __future__ import annotations

import json
from typing import Any

from jet.files.cards import Macros
from jet.files.lore import character_book, risu_lorebook, world_info
from jet.files.losses import Losses
from jet.files.plain import MAX_JSON, line_of, mapping, number_of, sequence, text_of
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.guidance import MAX_DEPTH, AuthorsNote, Guidance

MAX_MESSAGES = 50_000
MAX_LINES = 200_000
_UNNAMED = ("", "unused")
_IN_CHAT = 1  # the author's note; otherwise it stands before the chat


def from_risu(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a RisuAI lorebook's JSON to a story that has lore and no text."""
    document = Document()
    document.guidance = Guidance(lore=risu_lorebook(plain, losses))
    _tell_macros(document, losses)
    return document


def from_world_info(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a world info file's JSON to a story that has lore and no text."""
    if plain.get("spec") == "lorebook_v3":
        plain = mapping(plain.get("data"))
    entries = sequence(plain.get("entries"))
    of_cards = any("keys" in mapping(entry) and "key" not in mapping(entry) for entry in entries)
    lore = (character_book if of_cards else world_info)(plain, losses)
    document = Document()
    document.title = line_of(plain, "name")
    document.guidance = Guidance(lore=lore)
    _tell_macros(document, losses)
    return document


def _tell_macros(document: Document, losses: Losses) -> None:
    """Report remaining macros such as {{char}} as losses, since a lorebook does not name its characters."""
    if any("{{" in entry.content for entry in document.guidance.lore):
        losses.add("what stands for {{char}}, {{user}} and the like: they stay as they are")


def is_chat(text: str) -> bool:
    """Return whether a text looks like a chat: lines of JSON, of which the first is a header or a message."""
    first = text[:200_000].lstrip().partition("\n")[0].strip()
    if not first.startswith("{"):
        return False
    return any(f'"{name}"' in first for name in ("chat_metadata", "user_name", "is_user", "mes"))


def from_chat(text: str, losses: Losses) -> Document:
    """Convert a chat to a story: one paragraph for each message, with its speaker. Raises StoryFileError."""
    if len(text) > MAX_JSON * 2:
        raise StoryFileError("This chat holds more than a story may have.")
    if text.count("\n") > MAX_LINES:
        raise StoryFileError(f"This chat has more than {MAX_LINES:,} lines, which no story has.")
    head: dict[str, Any] = {}
    messages: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n")):
        fields = _line(line, losses)
        if fields is None:
            continue
        if number == 0 and "mes" not in fields:
            head = fields
        elif "mes" in fields:
            messages.append(fields)
    if not messages and not head:
        raise StoryFileError("This file is no chat: there is no message in it.")
    losses.count(
        f"message beyond {MAX_MESSAGES:,}", f"messages beyond {MAX_MESSAGES:,}", len(messages) - MAX_MESSAGES
    )
    said = [one for one in (_said(fields, losses) for fields in messages[:MAX_MESSAGES]) if one]
    name = _character(head, messages)
    user = next((line_of(fields, "name") for fields in messages if fields.get("is_user")), "")
    tidy = Macros(name, losses, user or "You")
    document = Document.from_text("\n\n".join(tidy(f"{who}: {text}" if who else text) for who, text in said))
    document.title = name
    about = mapping(head.get("chat_metadata"))
    memory, note = _note(about, tidy, losses)
    document.guidance = Guidance(memory, note)
    _tell_rest(about, losses)
    tidy.tell()
    return document


def _line(line: str, losses: Losses) -> dict[str, Any] | None:
    if not line.strip():
        return None
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        losses.count("line that cannot be read", "lines that cannot be read")
        return None
    if not isinstance(plain, dict):
        losses.count("line that cannot be read", "lines that cannot be read")
        return None
    return plain


def _said(fields: dict[str, Any], losses: Losses) -> tuple[str, str] | None:
    """Return the speaker and the text of a message; None if it has no text.

    A message that is hidden from the model is reported as a loss and gives None.
    """
    given = fields.get("mes")
    text = text_of(given, "message") if isinstance(given, dict) else text_of(fields, "mes")
    extra = mapping(fields.get("extra"))
    others = sequence(fields.get("swipes"))
    losses.count("other version of a message", "other versions of messages", len(others) - 1)
    if extra.get("reasoning"):
        losses.count("train of thought", "trains of thought")
    if extra.get("image") or extra.get("media") or extra.get("file") or extra.get("files"):
        losses.count("picture or file", "pictures and files")
    if fields.get("is_system"):
        losses.count("hidden message", "hidden messages")
        return None
    return (line_of(fields, "name"), text.strip("\n")) if text.strip() else None


def _character(head: dict[str, Any], messages: list[dict[str, Any]]) -> str:
    named = line_of(head, "character_name")
    if named not in _UNNAMED:
        return named
    return next((line_of(fields, "name") for fields in messages if not fields.get("is_user")), "")


def _note(about: dict[str, Any], tidy: Macros, losses: Losses) -> tuple[str, AuthorsNote]:
    """Convert the author's note of a chat; return (memory, author's note).

    The note becomes memory if the chat places it before its messages. The other value is empty.
    """
    text = tidy(text_of(about, "note_prompt"))
    if not text.strip():
        return "", AuthorsNote()
    every = number_of(about.get("note_interval"), 1)
    if every <= 0:
        losses.add("the author’s note, which is switched off")
        return "", AuthorsNote()
    if every > 1:
        losses.add("how often the author’s note is sent: it is always sent")
    if number_of(about.get("note_position"), _IN_CHAT) != _IN_CHAT:
        return text, AuthorsNote()
    depth = max(1, min(MAX_DEPTH, number_of(about.get("note_depth"), 4)))
    return "", AuthorsNote(text, depth, "paragraphs")


def _tell_rest(about: dict[str, Any], losses: Losses) -> None:
    if about.get("world_info"):
        losses.add("the lorebook that it names, which is a file of its own")
    variables = [value for value in mapping(about.get("variables")).values() if value]
    losses.count("variable", "variables", len(variables))
    if about.get("attachments"):
        losses.add("its attachments")


def is_message(plain: dict[str, Any]) -> bool:
    """Return whether a JSON object is a message of a chat."""
    return "chat_metadata" in plain or ("mes" in plain and "is_user" in plain)


def from_message(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a chat that consists of one message to a story."""
    return from_chat(json.dumps(plain), losses)
