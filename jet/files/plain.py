"""Read values from other programs' JSON, where a field may be missing, null or of another type."""

from __future__ import annotations

import math
from typing import Any

from jet.story.errors import StoryFileError
from jet.story.format import load
from jet.story.pieces import normalize_file_line_breaks

MAX_JSON = 10_000_000  # characters of a file that is not ours
MAX_OBJECTS, MAX_LISTS, MAX_VALUES = 200_000, 600_000, 2_000_000
MAX_NAME = 200  # characters of a title or a name


def load_foreign(text: str) -> object:
    """Parse another program's JSON. Raises StoryFileError if it is invalid, or too large to be parsed."""
    too_long = len(text) > MAX_JSON
    too_many = text.count("{") > MAX_OBJECTS or text.count("[") > MAX_LISTS or text.count(",") > MAX_VALUES
    if too_long or too_many:
        raise StoryFileError("This file holds more than a story may have.")
    return load(text)


def mapping(value: object) -> dict[str, Any]:
    """Return a value if it is a JSON object, otherwise an empty dict."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """Return a value if it is a list, the values of a JSON object, or otherwise an empty list."""
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []


def text_of(fields: dict[str, Any], *names: str) -> str:
    """Return the text of the first of the fields `names` that has any, with "\\n" as line breaks; else ""."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value:
            return normalize_file_line_breaks(value)
    return ""


def line_of(fields: dict[str, Any], *names: str) -> str:
    """Return the same as `text_of` on one line of at most `MAX_NAME` characters, for titles and names."""
    return " ".join(text_of(fields, *names).split())[:MAX_NAME]


def texts_of(value: object) -> list[str]:
    """Return the non-empty texts in a list, or the non-empty parts of a text with commas between them."""
    row = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    texts = (normalize_file_line_breaks(text).strip() for text in row if isinstance(text, str))
    return [text for text in texts if text]


def number_of(value: object, default: int) -> int:
    """Convert a number, or a text with a number, to int; return `default` for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return default
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return default
    return int(number) if math.isfinite(number) and abs(number) < 2**53 else default


def is_on(value: object) -> bool:
    """Return whether a switch is on. Programs write it as a boolean, a number or a text such as "true"."""
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)
