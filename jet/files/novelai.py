"""Convert NovelAI's files: stories of the old and of the new editor, scenarios and lorebooks."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from jet.files.lore import novelai_lorebook
from jet.files.losses import Losses
from jet.files.msgpack import MessagePackError, unpack
from jet.files.plain import line_of, mapping, number_of, sequence, text_of
from jet.story.document import Document
from jet.story.errors import StoryFileError
from jet.story.guidance import MAX_DEPTH, AuthorsNote, Guidance
from jet.story.pieces import normalize_file_line_breaks

MAX_DOCUMENT = 16_000_000  # bytes of a document of the new editor
_PLACEHOLDER = re.compile(
    r"\$\{(?P<key>[^{}\[\]\n:]{1,100})(?:\[(?P<default>[^\[\]\n]{0,500})\])?(?::[^{}\n]{0,500})?\}"
)
_TEXT, _IMAGE = 1, 2  # kinds of sections
_CREATE, _UPDATE, _REMOVE = 0, 1, 2  # kinds of changes


def from_lorebook(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a lorebook's JSON to a story that has lore and no text."""
    document = Document()
    document.guidance = Guidance(lore=novelai_lorebook(plain, losses))
    return document


def from_scenario(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a scenario's JSON to a story; the scenario's prompt becomes the text."""
    fill = _Placeholders(plain, losses)
    document = Document.from_text(fill(text_of(plain, "prompt")))
    document.title = line_of(plain, "title")
    document.author = line_of(plain, "author")
    document.guidance = _guidance(plain, fill, losses)
    if text_of(plain, "description"):
        losses.add("its description")
    _tell_rest(plain, losses)
    return document


def from_story(plain: dict[str, Any], losses: Losses) -> Document:
    """Convert a story's JSON. Raises StoryFileError if its text cannot be read."""
    about, content = mapping(plain.get("metadata")), mapping(plain.get("content"))
    document = content.get("document")
    if isinstance(document, str) and document:
        text = _document_text(document, losses)
    else:
        text = _fragments_text(mapping(content.get("story")), losses)
    story = Document.from_text(text)
    story.title = line_of(about, "title")
    story.guidance = _guidance(content, str, losses)
    if text_of(about, "description"):
        losses.add("its description")
    _tell_rest({**about, **content}, losses)
    return story


def _guidance(plain: dict[str, Any], fill: Any, losses: Losses) -> Guidance:
    """Convert the two parts of the context to memory and author's note, and the lorebook to lore.

    `fill` replaces placeholders in a text.
    """
    context = [mapping(part) for part in sequence(plain.get("context"))]
    memory, note = [*context[:2], {}, {}][:2]
    if len(context) == 1 and _place(memory, 0) < -1:  # within the text, as a note is
        memory, note = {}, memory
    if len(context) > 2:
        losses.count("further part of the context", "further parts of the context", len(context) - 2)
    book = mapping(plain.get("lorebook"))
    lore = novelai_lorebook(book, losses) if book else ()
    return Guidance(fill(_framed(memory)), _note(note, fill), lore)


def _framed(part: dict[str, Any]) -> str:
    """Return the text of a part of the context with its prefix and suffix; "" if the part has no text."""
    text, config = text_of(part, "text"), mapping(part.get("contextConfig"))
    around = (text_of(config, "prefix"), text_of(config, "suffix"))
    return around[0] + text + around[1].rstrip("\n") if text else ""


def _place(part: dict[str, Any], otherwise: int) -> int:
    """Return the line at which a part of the context is inserted; negative numbers count from the end.

    Returns `otherwise` if the part gives no line.
    """
    return number_of(mapping(part.get("contextConfig")).get("insertionPosition"), otherwise)


def _note(part: dict[str, Any], fill: Any) -> AuthorsNote:
    text = fill(_framed(part))
    if not text.strip():
        return AuthorsNote()
    place = _place(part, -4)
    return AuthorsNote(text, max(1, min(MAX_DEPTH, -place - 1)) if place < 0 else MAX_DEPTH)


class _Placeholders:
    """Replaces the placeholders of a scenario, such as ${name}, by the scenario's default answers."""

    def __init__(self, plain: dict[str, Any], losses: Losses) -> None:
        self._known: dict[str, str] = {}
        for one in map(mapping, sequence(plain.get("placeholders"))):
            self._known[text_of(one, "key")] = text_of(one, "defaultValue", "default")
        for found in _PLACEHOLDER.finditer(text_of(plain, "prompt")):
            if found["default"]:
                self._known.setdefault(found["key"], found["default"])
        self._losses = losses

    def __call__(self, text: str) -> str:
        def filled(found: re.Match[str]) -> str:
            answer = found["default"] or self._known.get(found["key"], "")
            if answer:
                self._losses.count("question answered as it suggests", "questions answered as they suggest")
                return answer
            self._losses.count("question left open in the text", "questions left open in the text")
            return found[0]

        return _PLACEHOLDER.sub(filled, text)


def _tell_rest(plain: dict[str, Any], losses: Losses) -> None:
    for name, words in (
        ("settings", "its settings"),
        ("tags", "its tags"),
        ("scenarioPreset", "its settings"),
    ):
        if plain.get(name):
            losses.add(words)
    timed = [part for part in sequence(plain.get("ephemeralContext")) if isinstance(part, dict)]
    losses.count("text sent at certain steps only", "texts sent at certain steps only", len(timed))
    biases = [group for group in sequence(plain.get("phraseBiasGroups")) if mapping(group).get("phrases")]
    losses.count("group of phrases made likelier", "groups of phrases made likelier", len(biases))
    bans = [group for group in sequence(plain.get("bannedSequenceGroups")) if mapping(group).get("sequences")]
    losses.count("group of banned phrases", "groups of banned phrases", len(bans))


def _fragments_text(story: dict[str, Any], losses: Losses) -> str:
    fragments = sequence(story.get("fragments"))
    texts = [fragment.get("data") for fragment in fragments if isinstance(fragment, dict)]
    wrong = len(fragments) - sum(isinstance(text, str) for text in texts)
    losses.count("passage that is not text", "passages that are not text", wrong)
    if not fragments and (whole := text_of(story, "text")):  # as the first version wrote it
        return whole
    if not fragments and not isinstance(story.get("fragments"), list):
        raise StoryFileError("This NovelAI story is damaged: its text is missing.")
    blocks = sequence(story.get("datablocks"))
    forks = sum(max(0, len(sequence(mapping(block).get("nextBlock"))) - 1) for block in blocks)
    losses.count("other version of a passage", "other versions of passages", forks)
    return normalize_file_line_breaks("".join(text for text in texts if isinstance(text, str)))


# --- the new editor --------------------------------------------------------------------------------------


def _document_text(packed: str, losses: Losses) -> str:
    if len(packed) * 3 // 4 > MAX_DOCUMENT:
        raise StoryFileError("This NovelAI story holds more than a story may have.")
    try:
        plain = unpack(base64.b64decode(packed, validate=True))
    except (binascii.Error, ValueError) as error:
        why = str(error) if isinstance(error, MessagePackError) else "it breaks off or is damaged"
        raise StoryFileError(f"The text of this NovelAI story cannot be read: {why}.") from None
    sections, order = mapping(mapping(plain).get("sections")), mapping(plain).get("order")
    if not sections or not isinstance(order, list):
        raise StoryFileError("The text of this NovelAI story cannot be read: it is damaged.")
    texts = {_id(key): mapping(section) for key, section in sections.items()}
    row = [key for key in map(_id, order) if key in texts]
    row = _changed(texts, row, mapping(mapping(plain).get("dirtySections")), losses)
    lost = sum(texts[key].get("type", _TEXT) == _IMAGE for key in row)
    losses.count("picture", "pictures", lost)
    nodes = mapping(mapping(mapping(plain).get("history")).get("nodes"))
    losses.count("step of its history", "steps of its history", max(0, len(nodes) - 1))
    lines = [text_of(texts[key], "text") for key in row if texts[key].get("type", _TEXT) == _TEXT]
    return "\n".join(lines)


def _id(value: object) -> object:
    return value if isinstance(value, (int, str)) else None


def _changed(
    texts: dict[object, dict[str, Any]], row: list[object], changes: dict[Any, Any], losses: Losses
) -> list[object]:
    """Apply edits that the file stores apart from its sections; return the keys of the sections in order.

    Args:
        texts: the sections by key, which are changed.
        row: the keys of the sections in order, before the edits.
        changes: the edits, by key of the section.
        losses: collects the edits that cannot be applied.
    """
    for key, change in changes.items():
        step = mapping(change)
        kind = step.get("type")
        if kind == _CREATE:
            texts[key] = mapping(step.get("section"))
            after = _id(step.get("after"))
            row.insert(0 if after == 0 else row.index(after) + 1 if after in row else len(row), key)
        elif kind == _REMOVE and key in row:
            row.remove(key)
        elif kind == _UPDATE and key in texts and not _update(texts, key, step):
            losses.count("latest change to a paragraph", "latest changes to paragraphs")
    return row


def _update(texts: dict[object, dict[str, Any]], key: object, step: dict[str, Any]) -> bool:
    diff = mapping(step.get("diff"))
    diff = mapping(diff["diff"]) if "diff" in diff else diff
    if "to" in diff:
        texts[key] = mapping(diff["to"])
        return True
    text, parts, at = text_of(texts[key], "text"), [], 0
    if not isinstance(diff.get("parts"), list):
        return False
    for part in map(mapping, diff["parts"]):
        start, gone = at + number_of(part.get("from"), -1), str(part.get("delete", ""))
        if start < at or not text.startswith(gone, start):
            return False
        parts += [text[at:start], str(part.get("insert", ""))]
        at = start + len(gone)
    texts[key] = {**texts[key], "text": "".join([*parts, text[at:]])}
    return True
