"""Import lorebooks of other programs: SillyTavern's, character cards' and NovelAI's.

Text, keywords and conditions of an entry are converted to the fields of `LoreEntry`. Settings without such a
field are reported as losses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from jet.files.losses import Losses
from jet.files.plain import is_on, line_of, mapping, number_of, sequence, text_of, texts_of
from jet.story.guidance import MAX_ORDER, MAX_SCAN, LoreEntry, ScanUnit

MAX_ENTRIES = 500  # what the page's form holds
MAX_READ = 20_000  # entries, of which those with the lowest order are kept
MAX_CONTENT = 200_000  # characters
MAX_KEYS = 200
_AND_ANY, _NOT_ALL, _NOT_ANY, _AND_ALL = 0, 1, 2, 3  # SillyTavern's selectiveLogic
_DEFAULT_PRIORITY = 400  # of NovelAI's entries
_PATTERN = re.compile(r"/(.+)/([a-z]{0,8})", re.DOTALL)
_WORDS = re.compile(r"[\w' \-]+(?:\|[\w' \-]+)*")  # a pattern that only lists words
_DECORATOR = re.compile(r"(@{2,})(\w{1,40})[ \t]*([^\n]*)\n?")
_PLACES = {2: "note", 3: "note", 4: "depth", 5: "examples", 6: "examples", 7: "outlet"}

Tidy = Callable[[str], str]


@dataclass(frozen=True)
class Book:
    """A lorebook's defaults for its entries.

    Attributes:
        scan_depth: messages that are searched for keys; 0 if the lorebook gives no number.
        whole_words: whether keys match whole words only, for entries without such a setting.
        tidy: replaces macros such as {{char}} in texts.
    """

    scan_depth: int = 0
    whole_words: bool = True
    tidy: Tidy = str


def world_info(plain: dict[str, Any], losses: Losses, book: Book | None = None) -> tuple[LoreEntry, ...]:
    """Convert the JSON of a SillyTavern world info file to lore entries."""
    book = book or Book(number_of(plain.get("scanDepth", plain.get("scan_depth")), 0))
    _told_of_book(plain, losses)
    return _all(sequence(plain.get("entries")), lambda fields: _tavern(fields, book, losses), losses)


def character_book(plain: dict[str, Any], losses: Losses, book: Book | None = None) -> tuple[LoreEntry, ...]:
    """Convert the lorebook of a character card, or a lorebook file of card version 3, to lore entries."""
    tidy = book.tidy if book else str
    book = Book(number_of(plain.get("scan_depth"), 0), tidy=tidy)
    _told_of_book(plain, losses)
    return _all(sequence(plain.get("entries")), lambda fields: _of_card(fields, book, losses), losses)


def novelai_lorebook(plain: dict[str, Any], losses: Losses) -> tuple[LoreEntry, ...]:
    """Convert the JSON of a NovelAI lorebook, of any version, to lore entries."""
    groups = [mapping(one) for one in sequence(plain.get("categories"))]
    off = {group.get("id") or group.get("name") for group in groups if group.get("enabled") is False}
    losses.count("category of the lore", "categories of the lore", len(groups))
    if mapping(plain.get("settings")).get("orderByKeyLocations"):
        losses.add("that lore is ordered by where its keys stand")

    def read(fields: dict[str, Any]) -> LoreEntry:
        entry = _novelai(fields, losses)
        category = fields.get("category")
        return replace(entry, enabled=False) if category and category in off else entry

    return _all(sequence(plain.get("entries")), read, losses)


def risu_lorebook(plain: dict[str, Any], losses: Losses) -> tuple[LoreEntry, ...]:
    """Convert the JSON of a RisuAI lorebook to lore entries."""
    entries = sequence(plain.get("data"))
    told = [entry for entry in entries if mapping(entry).get("mode") != "folder"]
    losses.count("folder of the lore", "folders of the lore", len(entries) - len(told))
    return _all(told, lambda fields: _risu(fields, losses), losses)


# --- one entry -------------------------------------------------------------------------------------------


def _tavern(fields: dict[str, Any], book: Book, losses: Losses) -> LoreEntry:
    title = line_of(fields, "comment", "name")
    keys = _keywords(fields.get("key", fields.get("keys")), title, losses)
    entry = LoreEntry(
        title=title,
        keywords=keys.words,
        content=book.tidy(text_of(fields, "content")),
        enabled=not is_on(fields.get("disable")),
        constant=is_on(fields.get("constant")),
        case_sensitive=keys.case(is_on(fields.get("caseSensitive"))),
        whole_word=_or(fields.get("matchWholeWords"), book.whole_words),
        order=_order(fields.get("order", 100)),
    )
    entry = _with_depth(entry, fields.get("scanDepth"), book)
    if is_on(fields.get("selective", True)):
        second = _keywords(fields.get("keysecondary"), title, losses).words
        entry = _with_second(entry, second, fields.get("selectiveLogic"), losses)
    return _with_rest(entry, fields, fields.get("position"), losses)


def _of_card(fields: dict[str, Any], book: Book, losses: Losses) -> LoreEntry:
    title = line_of(fields, "comment", "name")
    extra = mapping(fields.get("extensions"))
    given = fields.get("keys", fields.get("key"))
    if is_on(fields.get("use_regex")):
        given = _patterns(given)
    keys = _keywords(given, title, losses)
    entry = LoreEntry(
        title=title,
        keywords=_tidied(keys.words, book),
        enabled=_or(fields.get("enabled"), True),
        constant=is_on(fields.get("constant")),
        case_sensitive=keys.case(is_on(fields.get("case_sensitive", extra.get("case_sensitive")))),
        whole_word=_or(extra.get("match_whole_words"), book.whole_words),
        order=_order(fields.get("insertion_order", fields.get("order", 100))),
    )
    entry = _with_depth(entry, extra.get("scan_depth"), book)
    if is_on(fields.get("selective")):
        second = _keywords(fields.get("secondary_keys", fields.get("keysecondary")), title, losses).words
        logic = extra.get("selectiveLogic", fields.get("selectiveLogic"))
        entry = _with_second(entry, _tidied(second, book), logic, losses)
    entry = _decorated(entry, text_of(fields, "content"), losses)
    entry = replace(entry, content=book.tidy(entry.content))
    place = extra.get("position", fields.get("position"))
    return _with_rest(entry, {**extra, **fields}, place, losses)


def _novelai(fields: dict[str, Any], losses: Losses) -> LoreEntry:
    title = line_of(fields, "displayName")
    config = mapping(fields.get("contextConfig"))
    second: tuple[str, ...] = ()
    given = texts_of(fields.get("keys"))
    joined = [key for key in given if "&" in key and not _PATTERN.fullmatch(key)]
    if len(given) == 1 and joined and given[0].count("&") == 1:  # "queen & crown": both must come up
        first, _, last = (part.strip() for part in given[0].partition("&"))
        given, second = [first], (last,) if last else ()
    elif joined:
        losses.count("key that asks for several words at once", "keys that ask for several words at once")
    keys = _keywords(given, title, losses)
    prefix, suffix = text_of(config, "prefix"), text_of(config, "suffix")
    if number_of(config.get("insertionPosition"), -1) != -1 or is_on(fields.get("keyRelative")):
        losses.count("place in the text of a lore entry", "places in the text of lore entries")
    if is_on(fields.get("nonStoryActivatable")):
        losses.count("lore entry that others call up", "lore entries that others call up")
    if any(mapping(group).get("phrases") for group in sequence(fields.get("loreBiasGroups"))):
        losses.count("lore entry with phrases made likelier", "lore entries with phrases made likelier")
    priority = number_of(config.get("budgetPriority"), _DEFAULT_PRIORITY)
    return LoreEntry(
        title=title,
        keywords=keys.words,
        content=prefix + text_of(fields, "text") + suffix.rstrip("\n"),
        enabled=_or(fields.get("enabled"), True),
        constant=is_on(fields.get("forceActivation")),
        case_sensitive=keys.case(False),
        order=_order(100 + _DEFAULT_PRIORITY - priority),
        scan_depth=_within(number_of(fields.get("searchRange"), 1000), MAX_SCAN),
        secondary_keywords=second,
    )


def _risu(fields: dict[str, Any], losses: Losses) -> LoreEntry:
    as_card = {
        "comment": fields.get("comment"),
        "keys": texts_of(fields.get("key")),
        "secondary_keys": texts_of(fields.get("secondkey")),
        "selective": fields.get("selective"),
        "constant": fields.get("alwaysActive") or fields.get("mode") == "constant",
        "insertion_order": fields.get("insertorder"),
        "use_regex": fields.get("useRegex"),
        "content": fields.get("content"),
        "extensions": {"probability": fields.get("activationPercent", 100)},
    }
    return _of_card(as_card, Book(whole_words=False), losses)


# --- parts of an entry -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Keywords:
    words: tuple[str, ...]
    sensitive: bool = False  # a pattern says that case counts

    def case(self, otherwise: bool) -> bool:
        return otherwise or self.sensitive


def _keywords(given: object, title: str, losses: Losses) -> _Keywords:
    """Return an entry's keys as keywords; `title` names the entry in reports of losses.

    A regular expression that only lists words is replaced by these words. Other regular expressions are
    reported as losses.
    """
    words: list[str] = []
    sensitive: list[bool] = []
    for key in texts_of(given)[: MAX_KEYS + 1]:
        pattern = _PATTERN.fullmatch(key)
        if pattern is None:
            words.append(key)
            continue
        inner = re.sub(r"\\b|\(\?:|[()]", "", pattern[1])
        if _WORDS.fullmatch(inner):
            words.extend(part.strip() for part in inner.split("|") if part.strip())
            sensitive.append("i" not in pattern[2])
        else:
            losses.add(f"the pattern {key[:60]} among the keys of “{title or 'an entry'}”")
    if len(words) > MAX_KEYS:
        losses.add(f"keys of “{title or 'an entry'}” beyond {MAX_KEYS}")
    only_patterns = bool(sensitive) and all(sensitive) and len(sensitive) == len(texts_of(given))
    return _Keywords(tuple(words[:MAX_KEYS]), only_patterns)


def _patterns(given: object) -> object:
    """Put keys that list words, such as "pier|jetty", in slashes, which mark them as regular expressions.

    All other keys stay as they are: SillyTavern sets "use_regex" for plain keys, too.
    """
    if not isinstance(given, list):
        return given
    lists = (isinstance(key, str) and "|" in key and _WORDS.fullmatch(key) for key in given)
    return [f"/{key}/i" if listed else key for key, listed in zip(given, lists, strict=True)]


def _tidied(words: tuple[str, ...], book: Book) -> tuple[str, ...]:
    """Replace macros in keys, since many cards have the key {{char}}; drop keys that become empty."""
    return tuple(word for word in (book.tidy(word).strip() for word in words) if word)


def _with_second(entry: LoreEntry, keys: tuple[str, ...], logic: object, losses: Losses) -> LoreEntry:
    if not keys:
        return entry
    how = number_of(logic, _AND_ANY)
    if how == _NOT_ANY or (how == _NOT_ALL and len(keys) == 1):
        return replace(entry, anti_keywords=keys)
    if how == _NOT_ALL:
        losses.count(
            "entry that is silent if all of several words come up", "entries that are silent if all come up"
        )
        return entry
    if how == _AND_ALL and len(keys) > 1:
        losses.count(
            "entry that asks for all of its secondary keys: one is enough here",
            "entries that ask for all of their secondary keys: one is enough here",
        )
    return replace(entry, secondary_keywords=keys)


def _with_depth(entry: LoreEntry, given: object, book: Book) -> LoreEntry:
    """Set an entry's scan depth to `given` messages, or else the book's; a message counts as one paragraph.

    The entry keeps its default if both are 0.
    """
    depth = number_of(given, 0) or book.scan_depth
    unit: ScanUnit = "paragraphs"
    return replace(entry, scan_depth=_within(depth, MAX_SCAN), scan_unit=unit) if depth > 0 else entry


def _with_rest(entry: LoreEntry, fields: dict[str, Any], position: object, losses: Losses) -> LoreEntry:
    """Report fields without a counterpart in `LoreEntry` as losses; disable entries of probability 0."""
    where = _PLACES.get(number_of(position, 0), "")
    if where == "depth":
        losses.count("lore entry that stands within the chat", "lore entries that stand within the chat")
    elif where:
        losses.count("lore entry with a place of its own", "lore entries with places of their own")
    told = {
        "vectorized": "that is found by its meaning",
        "sticky": "that stays or waits for some messages",
        "cooldown": "that stays or waits for some messages",
        "delay": "that stays or waits for some messages",
        "delayUntilRecursion": "that only others call up",
        "delay_until_recursion": "that only others call up",
        "group": "of a group of which one is sent",
        "triggers": "for some kinds of answers",
        "outletName": "with a place of its own",
    }
    for words in {words for name, words in told.items() if fields.get(name)}:
        losses.count(f"lore entry {words}", f"lore entries {words}")
    filtered = mapping(fields.get("characterFilter"))
    if filtered.get("names") or filtered.get("tags"):
        losses.count("lore entry for some characters", "lore entries for some characters")
    chance = number_of(fields.get("probability"), 100)
    if _or(fields.get("useProbability"), True) and 0 <= chance < 100:
        if chance == 0:
            return replace(entry, enabled=False)
        losses.count(
            "lore entry sent by chance: it is always sent",
            "lore entries sent by chance: they are always sent",
        )
    return entry


def _decorated(entry: LoreEntry, content: str, losses: Losses) -> LoreEntry:
    """Set an entry's content without its decorators, and apply these.

    Decorators are lines at the beginning such as "@@scan_depth 4". Unknown ones are reported as losses.
    """
    at = 0
    understood = True
    changes: dict[str, Any] = {}
    while (found := _DECORATOR.match(content, at)) is not None:
        at = found.end()
        if len(found[1]) > 2 and understood:  # only a stand-in for the one before
            continue
        name, value = found[2], found[3].strip()
        understood = True
        if name in ("constant", "activate"):
            changes["constant"] = True
        elif name == "dont_activate":
            changes["enabled"] = False
        elif name == "scan_depth" and number_of(value, 0) > 0:
            changes |= {"scan_depth": _within(number_of(value, 1), MAX_SCAN), "scan_unit": "paragraphs"}
        elif name == "additional_keys":
            changes["secondary_keywords"] = (*entry.secondary_keywords, *texts_of(value))
        elif name == "exclude_keys":
            changes["anti_keywords"] = (*entry.anti_keywords, *texts_of(value))
        elif name == "priority":
            pass
        else:
            understood = False
            losses.count(f"lore entry with “@@{name}”", f"lore entries with “@@{name}”")
    return replace(entry, content=content[at:].lstrip("\n") if at else content, **changes)


def _told_of_book(plain: dict[str, Any], losses: Losses) -> None:
    if text_of(plain, "description"):
        losses.add("the description of the lorebook")
    if number_of(plain.get("token_budget", plain.get("tokenBudget")), 0) > 0:
        losses.add("how much of the context the lore may take")
    if is_on(plain.get("recursive_scanning", plain.get("recursiveScanning"))):
        losses.add("that lore calls up other lore")


def _all(
    entries: Iterable[object], read: Callable[[dict[str, Any]], LoreEntry], losses: Losses
) -> tuple[LoreEntry, ...]:
    """Return the lore entries that can be imported, sorted by `order`, then by position in the file.

    Entries that cannot be imported are counted in `losses`. An entry without keywords is disabled unless it
    is constant.
    """
    found: list[LoreEntry] = []
    row = list(entries)
    for plain in row[:MAX_READ]:
        if not isinstance(plain, dict):
            losses.count("lore entry that cannot be read", "lore entries that cannot be read")
            continue
        entry = read(plain)
        if not entry.content.strip():
            if entry.keywords or entry.title:
                losses.count("lore entry without a text", "lore entries without a text")
            continue
        if len(entry.content) > MAX_CONTENT:
            losses.count("lore entry that is too long", "lore entries that are too long")
            continue
        if not entry.keywords and not entry.constant:
            losses.count("lore entry that nothing calls up: it is kept, switched off",
                         "lore entries that nothing calls up: they are kept, switched off")  # fmt: skip
            entry = replace(entry, enabled=False)
        found.append(entry)
    found.sort(key=lambda entry: entry.order)
    losses.count(
        f"lore entry beyond {MAX_ENTRIES}",
        f"lore entries beyond {MAX_ENTRIES}",
        max(0, len(found) - MAX_ENTRIES) + max(0, len(row) - MAX_READ),
    )
    return tuple(found[:MAX_ENTRIES])


def _or(value: object, otherwise: bool) -> bool:
    return otherwise if value is None else is_on(value)


def _order(value: object) -> int:
    return max(-MAX_ORDER, min(MAX_ORDER, number_of(value, 100)))


def _within(value: int, most: int) -> int:
    return max(1, min(most, value))
