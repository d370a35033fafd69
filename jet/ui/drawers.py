"""The HTML that stands still on the page: openings, actions, and what unfolds below the sheet.

Elements with `data-do` or `data-write` give the order in it when pressed; page.js carries it to the desk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from jet.story.guidance import Guidance
from jet.ui.presets import PRESETS
from jet.ui.views import escape, guidance, lore_row, press

DRAWERS = {
    "settings": "Settings",
    "guidance": "Guidance",
    "branches": "Branches",
    "stories": "Stories",
    "history": "History",
    "report": "Report",
    "keys": "Keys",
}

KEYS = (
    ("Ctrl Enter", "continue from the end"),
    ("Ctrl Shift Enter", "continue from the cursor"),
    ("Esc", "stop; close what is open"),
    ("Ctrl Z", "undo, also what was typed"),
    ("Ctrl Shift Z", "redo"),
    ("Alt R", "retry: another continuation, as a branch"),
    ("Alt W", "another word for the one at the cursor; a double click on it does the same"),
    ("Alt B", "a branch that begins at the cursor"),
)


def openings(beginnings: Sequence[tuple[str, str]]) -> str:
    """A button for each beginning, as (genre, text)."""
    buttons = "".join(
        f'<button type="button" class="jet-opening" data-opening="{escape(text)}">{escape(genre)}</button>'
        for genre, text in beginnings
    )
    ask = (
        '<div class="jet-ask"><label for="jet-about-what">Write me a story about</label>'
        f'<span id="jet-about-field">{guidance(Guidance())["jet-about-field"]}</span>'
        '<button type="button" class="jet-opening" id="jet-ask">Write it</button></div>'
    )
    return f'<div class="jet-openings" role="group" aria-label="Beginnings">{buttons}</div>{ask}'


def steps() -> str:
    """Undo and Redo."""
    undo, redo = ('{"do": "undo"}', "Undo"), ('{"do": "redo"}', "Redo")
    return "".join(
        f'<button type="button" id="jet-{label.lower()}" class="jet-step" data-do="{escape(order)}" disabled>'
        f"{label}</button>"
        for order, label in (undo, redo)
    )


def more() -> str:
    """What else can be done with the story, and how it is painted."""
    buttons = [
        _action("jet-retry", "Retry", "data-write", "Another continuation beside the last one", do="retry"),
        _action("jet-three", "Three ways on", "data-write", "Three continuations side by side", do="ways"),
        _action("jet-cursor", "From cursor", "data-write", "Continue at the cursor", do="cursor", at=-1),
        _action(
            "jet-fork", "Branch here", "data-do", "A new branch that ends at the cursor", do="fork", at=-1
        ),
        _action("jet-word", "Another word", "data-do", "For the one at the cursor", do="word", at=-1),
    ]
    tints = (("plain", "plain"), ("whose", "whose words"), ("doubt", "how sure"))
    options = "".join(f'<option value="{value}">{label}</option>' for value, label in tints)
    return (
        f'<div class="jet-more" role="group" aria-label="More">{"".join(buttons)}'
        f'<label class="jet-tint">Show <select id="jet-tint">{options}</select></label></div>'
        '<p class="jet-kept" id="jet-kept" role="status"></p>'
    )


def _action(id: str, label: str, kind: str, hint: str, **order: object) -> str:
    given = escape(json.dumps(order))
    return (
        f'<button type="button" id="{id}" class="jet-quiet" {kind}="{given}" title="{hint}">{label}</button>'
    )


def tabs() -> str:
    """The names of the drawers; the first is open."""
    buttons = "".join(
        f'<button type="button" role="tab" id="jet-tab-{key}" data-drawer="{key}" '
        f'aria-controls="jet-drawer-{key}" aria-selected="{str(key == "settings").lower()}">{name}</button>'
        for key, name in DRAWERS.items()
    )
    return f'<div class="jet-tabs" role="tablist" aria-label="Below the story">{buttons}</div>'


def presets() -> str:
    """Settings under plain names."""
    buttons = "".join(press(name.capitalize(), css="jet-opening", do="preset", name=name) for name in PRESETS)
    return f'<div class="jet-presets" role="group" aria-label="Presets">{buttons}</div>'


def extras() -> str:
    """Settings that are the page's own."""
    return (
        '<div class="jet-extras"><label class="jet-field"><b>Stop at</b><small>One text a line. '
        'The continuation ends in front of it.</small><textarea id="jet-stops" rows="2"></textarea></label>'
        '<label class="jet-check"><input type="checkbox" id="jet-alternatives" checked> '
        "Remember other words the model might have chosen</label></div>"
    )


def drawers() -> str:
    """All drawers but the first, closed."""
    fields = guidance(Guidance())
    return (
        _drawer(
            "guidance",
            f'<div id="jet-guidance">{fields["jet-guidance"]}</div>'
            '<div class="jet-field"><b>Lorebook</b><small>Told when a keyword comes up near the end of the '
            'story.</small></div><div id="jet-lore"></div>'
            f'<template id="jet-lore-row">{lore_row()}</template>'
            '<button type="button" class="jet-quiet" id="jet-lore-add">Add an entry</button>'
            '<div id="jet-sees"></div>',
        )
        + _drawer("branches", '<div id="jet-tree"></div><div id="jet-compare"></div>')
        + _drawer("stories", _stories())
        + _drawer(
            "history", f'<div id="jet-past"></div>{press("Save as csv", css="jet-quiet", do="history")}'
        )
        + _drawer("keys", _keys())
    )


def _drawer(key: str, content: str) -> str:
    return (
        f'<section class="jet-drawer" id="jet-drawer-{key}" role="tabpanel" aria-labelledby="jet-tab-{key}" '
        f"hidden>{content}</section>"
    )


def _stories() -> str:
    saves = "".join(
        press(label, css="jet-opening", do="export", **{"as": ending})
        for ending, label in (("txt", "Text"), ("md", "Markdown"), ("json", "Everything (json)"))
    )
    return (
        '<label class="jet-field"><b>Title</b><input id="jet-title" maxlength="200" '
        'placeholder="Untitled story"></label>'
        f'<div class="jet-files"><span>Save as</span>{saves}<span>or</span>'
        '<button type="button" class="jet-opening" id="jet-new">New story</button>'
        '<label class="jet-opening jet-upload">Open a file<input id="jet-import" type="file" '
        'accept=".txt,.md,.markdown,.json"></label></div>'
        '<h4>Kept in this browser</h4><ul id="jet-library"></ul>'
        '<p class="jet-hint">Every change is kept here, on this device only. Save a file to be safe.</p>'
    )


def _keys() -> str:
    rows = "".join(
        f"<dt>{' '.join(f'<kbd>{key}</kbd>' for key in keys.split())}</dt><dd>{what}</dd>"
        for keys, what in KEYS
    )
    return f'<dl class="jet-shortcuts">{rows}</dl><p class="jet-hint">On a Mac, ⌘ does what Ctrl does.</p>'
