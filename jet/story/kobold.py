"""Convert saves of KoboldAI Lite and KoboldAI United to documents.

Both store a story as a prompt and a list of actions, with memory, an author's note and "world info". They
match keys as parts of words. Lite ignores case unless its settings say otherwise; United is case-sensitive. A
value that is missing, null or of a wrong type is left out, never an error. Remarks name the parts of a save
that a document cannot hold.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from jet.story.document import Document
from jet.story.guidance import MAX_DEPTH, MAX_SCAN, AuthorsNote, Guidance, LoreEntry
from jet.story.pieces import clean, normalize_file_line_breaks

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200

_PICTURE = re.compile(r"\[<\|([pdh])\|[^|]*\|\1\|>\]")
_TURN = re.compile(r"\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")  # of a chat with a model
_TEMPLATE = re.compile(r"\s*\[Author's note:\s*<\|>\s*\]\s*", re.IGNORECASE)
_STOP_SEPARATOR = "||$||"
_NOTE_STRENGTH = 320  # characters from the end, as Lite has it unless somebody changes it
_LINE = 107  # characters, so that this strength is our usual depth of three lines
_THINKING = ("<think>", "</think>")
_ALWAYS_PERCENT = 100  # percent


def is_kobold(plain: object) -> bool:
    """Return whether JSON looks like a save of KoboldAI."""
    if not isinstance(plain, dict) or "format" in plain:
        return False
    return {"prompt", "actions"} <= plain.keys()


def from_kobold(plain: dict[str, Any], remarks: list[str]) -> Document:
    """Convert a save to a document. Appends to `remarks` a few words for each thing that is lost."""
    save = _Save(plain, remarks)
    document = Document.from_text(save.text())
    document.title = save.string("story_name")
    document.guidance = Guidance(save.string("memory"), save.note(), save.lore())
    document.stops = save.stops()
    save.remark_rest()
    return document


class _Save:
    def __init__(self, plain: dict[str, Any], remarks: list[str]) -> None:
        self._plain = plain
        self._remarks = remarks
        self._united = isinstance(plain.get("actions"), dict)
        settings = plain.get("savedsettings")
        self._settings: dict[str, Any] = settings if isinstance(settings, dict) else {}

    def string(self, *names: str) -> str:
        """Return the first of these fields that has text; "" if none has.

        A field of another type counts as empty.
        """
        for name in names:
            value = self._plain.get(name)
            if isinstance(value, str) and value:
                return clean(value)
            if value is not None and not isinstance(value, str):
                self._remarks.append(f"“{name}”, which is not text")
        return ""

    def text(self) -> str:
        """Return the text of prompt and actions.

        Picture placeholders, the model's reasoning and the marks of chat turns are removed.
        """
        parts = [self._plain.get("prompt"), *self._actions()]
        not_text = sum(part is not None and not isinstance(part, str) for part in parts)
        if not_text:
            self._remarks.append(_count_of(not_text, "part", "of the text that is not text"))
        text, pictures = _PICTURE.subn("", "".join(part for part in parts if isinstance(part, str)))
        if pictures:
            self._remarks.append(_count_of(pictures, "picture"))
        text = self._without_thinking(text)
        if len(parts := _TURN.split(text)) > 1:
            self._remarks.append("who says what to whom in a chat with the model")
            said = [parts[0].rstrip(), *(part.strip() for part in parts[1:-1]), parts[-1].lstrip()]
            text = "\n\n".join(said).strip("\n")
        return normalize_file_line_breaks(text)

    def _without_thinking(self, text: str) -> str:
        """Remove the model's reasoning, which stands between two tags and which Lite hides."""
        begin, end = (
            given if isinstance(given := self._settings.get(name), str) and given else usual
            for name, usual in zip(("start_thinking_tag", "stop_thinking_tag"), _THINKING, strict=True)
        )
        kept, at, thoughts = [], 0, 0
        while (start := text.find(begin, at)) >= 0 and (stop := text.find(end, start + len(begin))) >= 0:
            kept.append(text[at:start])
            at, thoughts = stop + len(end), thoughts + 1
        if not thoughts:
            return text
        self._remarks.append(_count_of(thoughts, "train of thought", many="trains of thought"))
        return "".join([*kept, text[at:]])

    def _actions(self) -> list[object]:
        actions = self._plain.get("actions")
        if not self._united:
            return actions if isinstance(actions, list) else [] if actions is None else [actions]
        found = actions.get("actions") if isinstance(actions, dict) else None
        numbered = found if isinstance(found, dict) else {}
        row = [numbered[key] for key in sorted(numbered, key=_read_number)]
        others = sum(bool(action.get("Options")) for action in row if isinstance(action, dict))
        if others:
            self._remarks.append(f"other versions of {_count_of(others, 'action')}")
        return [action.get("Selected Text") if isinstance(action, dict) else action for action in row]

    def note(self) -> AuthorsNote:
        """Return the author's note, without its template, which is not supported.

        Lite counts the note's distance from the end in characters, United in actions.
        """
        text = self.string("authorsnote", "authornote")
        if not text:
            return AuthorsNote()
        template = self._plain.get("anotetemplate") or self._plain.get("authornotetemplate")
        if isinstance(template, str) and template and not _TEMPLATE.fullmatch(template):
            self._remarks.append("the frame around the author’s note")
        characters, actions = (_read_number(self._plain.get(name)) for name in ("anotestr", "andepth"))
        if characters >= 0 and characters != _NOTE_STRENGTH:
            self._remarks.append("where exactly the author’s note stands")
        depth = round(characters / _LINE) if characters >= 0 else actions if actions >= 0 else 3
        return AuthorsNote(text, int(max(1, min(MAX_DEPTH, depth))))

    def lore(self) -> tuple[LoreEntry, ...]:
        """Return the world info. An entry that cannot be read is left out; the others are kept."""
        world = self._plain.get("worldinfo")
        entries: list[object] = world if isinstance(world, list) else []
        second = self._plain.get("worldinfo_v2")
        if isinstance(second, dict) and isinstance(numbered := second.get("entries"), dict):
            entries = [numbered[key] for key in sorted(numbered, key=_read_number)]
        found = [entry for plain in entries if (entry := self._entry(plain)) is not None]
        bad = sum(plain is not None and not isinstance(plain, dict) for plain in entries)
        if bad:
            self._remarks.append(_count_of(bad, "lore entry", "that cannot be read", "lore entries"))
        if found and self._plain.get("wiinsertlocation"):
            self._remarks.append("where the lore stands")
        return tuple(found)

    def _entry(self, plain: object) -> LoreEntry | None:
        if not isinstance(plain, dict):
            return None
        content = next((plain[key] for key in ("content", "manual_text") if plain.get(key)), None)
        keywords = _read_keys(plain.get("key"))
        constant = bool(plain.get("constant")) or plain.get("type") in ("constant", "commentator")
        if not isinstance(content, str) or not (keywords or constant):
            if any(plain.get(key) for key in ("key", "content", "manual_text", "comment")):
                self._remarks.append(
                    f"the lore entry “{_entry_title(plain, keywords) or '?'}”, which says nothing"
                )
            return None
        title = _entry_title(plain, ())
        chance = _read_number(plain.get("probability", _ALWAYS_PERCENT))
        if 0 <= chance < _ALWAYS_PERCENT:
            name = title or ", ".join(keywords)
            self._remarks.append(f"that “{name}” is sent by chance ({chance:g} %): it is always sent")
        entry = LoreEntry(
            title=title,
            keywords=keywords,
            content=clean(content),
            enabled=not plain.get("widisabled"),
            constant=constant,
            case_sensitive=self._united or bool(self._settings.get("case_sensitive_wi")),
            whole_word=False,
        )
        if plain.get("selective"):
            second, anti = _read_keys(plain.get("keysecondary")), _read_keys(plain.get("keyanti"))
            entry = replace(entry, secondary_keywords=second, anti_keywords=anti)
        depth = self._plain.get("wisearchdepth")
        if depth is None and not self._united:
            return entry
        characters = _read_number(depth)
        return replace(entry, scan_depth=int(min(characters, MAX_SCAN)) if characters >= 1 else MAX_SCAN)

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings; a literal `\\n` in the file is a line break."""
        given = self._plain.get("extrastopseq") or self._settings.get("extrastopseq")
        if not isinstance(given, str):
            return ()
        stops = [clean(stop.replace("\\n", "\n")) for stop in given.split(_STOP_SEPARATOR) if stop]
        kept = [stop for stop in stops if len(stop) <= MAX_STOP_CHARACTERS][:MAX_STOPS]
        if len(kept) < len(stops):
            self._remarks.append(_count_of(len(stops) - len(kept), "text", "to stop at"))
        return tuple(kept)

    def remark_rest(self) -> None:
        """Add remarks on further parts of the save that a document cannot hold."""
        branches = self._plain.get("altbranches")
        if isinstance(branches, list) and any(branches):
            self._remarks.append("its other branches")
        for name, said in (
            ("personal_notes", "the personal notes"),
            ("notes", "the notes"),
            ("documentdb_data", "the text database"),
        ):
            if isinstance(self._plain.get(name), str) and self._plain[name].strip():
                self._remarks.append(said)
        if self._settings:
            self._remarks.append("its settings")


def _read_keys(given: object) -> tuple[str, ...]:
    """Return keys that are given as a list or a comma-separated text; values of other types are ignored."""
    row = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else []
    return tuple(clean(key).strip() for key in row if isinstance(key, str) and key.strip())


def _entry_title(plain: dict[str, Any], keywords: tuple[str, ...]) -> str:
    texts = (plain.get(key) for key in ("comment", "title"))
    named = next((text for text in texts if isinstance(text, str) and text), "")
    return clean(named).strip() or ", ".join(keywords)


def _read_number(given: object) -> float:
    """Return a number that may be written as text; -1 for anything else."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return -1
    try:
        return float(given)
    except (ValueError, OverflowError):
        return -1


def _count_of(number: int, one: str, more: str = "", many: str = "") -> str:
    name = one if number == 1 else many or one + "s"
    return f"{number} {name} {more}".rstrip()
