"""The HTML that stands still on the page: openings, actions, and what unfolds below the sheet.

Elements with `data-do` or `data-write` give the order in it when pressed; page.js carries it to the desk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from jet.story.guidance import Guidance
from jet.ui.presets import PRESETS
from jet.ui.views import command_button, escape, guidance, lore_row

TABS = {
    "settings": "Settings",
    "guidance": "Guidance",
    "branches": "Versions",
    "stories": "Stories",
    "history": "History",
    "report": "Report",
    "keys": "Keys",
}

# Drawn in a square of 16 units, so that the actions are told apart without reading.
ICONS = {
    "undo": "M6 3 2.5 6.5 6 10M3 6.5h6.5a4 4 0 0 1 0 8H7",
    "redo": "M10 3l3.5 3.5L10 10M13 6.5H6.5a4 4 0 0 0 0 8H9",
    "retry": "M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 1.5V5H10",
    "three": "M2 8h3M5 8c3 0 3-5 7-5M5 8h7M5 8c3 0 3 5 7 5M12 1.5 13.7 3 12 4.5M12 6.5 13.7 8 12 9.5",
    "cursor": "M2.5 3h3M2.5 13h3M4 3v10M8 8h5.5M11 5.5 13.5 8 11 10.5",
    "fork": "M5 4.5v7M5 9c0-2 6-1 6-4.5M5 4.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM11 4.5a1.5 1.5 0 1 0 0-3 "
    "1.5 1.5 0 0 0 0 3zM5 14.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z",
    "word": "M2.5 5.5h9M9 3l2.5 2.5L9 8M13.5 10.5h-9M7 8l-2.5 2.5L7 13",
}

SHORTCUTS = (
    ("Ctrl Enter", "continue from the end"),
    ("Ctrl Shift Enter", "continue from the cursor"),
    ("Esc", "stop; close what is open"),
    ("Ctrl Z", "undo, also what was typed"),
    ("Ctrl Shift Z", "redo"),
    ("Alt R", "retry: another continuation, as a branch"),
    ("Alt W", "other words for the one at the cursor: arrows choose, Enter takes"),
    ("Double click", "selects a word; others are offered beside it, and typing closes them"),
    ("Alt B", "a branch that begins at the cursor"),
)


def opening_buttons(beginnings: Sequence[tuple[str, str]]) -> str:
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


def undo_redo_buttons() -> str:
    """Undo and Redo."""
    undo, redo = ('{"do": "undo"}', "Undo"), ('{"do": "redo"}', "Redo")
    return "".join(
        f'<button type="button" id="jet-{label.lower()}" class="jet-step" '
        f'data-do="{escape(command)}" disabled>'
        f"{_icon(label.lower())}{label}</button>"
        for command, label in (undo, redo)
    )


def action_buttons() -> str:
    """What else can be done with the story, and how it is painted."""
    buttons = [
        _action(
            "jet-retry", "Retry", "data-write", "Another continuation beside the last one", True, do="retry"
        ),
        _action("jet-three", "3 options", "data-write", "Three continuations to choose from", do="ways"),
        _action("jet-cursor", "Write here", "data-write", "Continue at the cursor", do="cursor", at=-1),
        _action(
            "jet-fork",
            "New version from here",
            "data-do",
            "A new version that ends at the cursor",
            do="fork",
            at=-1,
        ),
        _action("jet-word", "Other words", "data-do", "For the one at the cursor", do="word", at=-1),
    ]
    highlights = (("plain", "plain"), ("whose", "whose words"), ("doubt", "how sure"))
    options = "".join(f'<option value="{value}">{label}</option>' for value, label in highlights)
    return (
        f'<div class="jet-more" role="group" aria-label="More">{"".join(buttons)}'
        f'<label class="jet-tint">Show <select id="jet-tint">{options}</select></label></div>'
        '<p class="jet-kept" id="jet-kept"></p><p class="jet-hidden" id="jet-state" role="status"></p>'
    )


def _action(id: str, label: str, attribute: str, hint: str, disabled: bool = False, **command: object) -> str:
    command_json, icon = escape(json.dumps(command)), _icon(id.removeprefix("jet-"))
    return (
        f'<button type="button" id="{id}" class="jet-quiet" {attribute}="{command_json}" title="{hint}"'
        f"{' disabled' * disabled}>{icon}{label}</button>"
    )


def _icon(name: str) -> str:
    return f'<svg class="jet-icon" viewBox="0 0 16 16" aria-hidden="true"><path d="{ICONS[name]}"/></svg>'


def tab_list() -> str:
    """The names of the drawers; the first is open."""
    buttons = "".join(
        f'<button type="button" role="tab" id="jet-tab-{key}" data-drawer="{key}" '
        f'aria-controls="jet-drawer-{key}" aria-selected="{str(key == "settings").lower()}" '
        f'tabindex="{0 if key == "settings" else -1}">{name}</button>'
        for key, name in TABS.items()
    )
    return f'<div class="jet-tabs" role="tablist" aria-label="Below the story">{buttons}</div>'


def preset_buttons() -> str:
    """Settings under plain names, and a place for those that the writer has named."""
    buttons = "".join(
        command_button(name.capitalize(), css="jet-opening", do="preset", name=name) for name in PRESETS
    )
    return (
        f'<div class="jet-presets" role="group" aria-label="Presets">{buttons}'
        '<span id="jet-own-presets"></span>'
        '<button type="button" class="jet-quiet" id="jet-name-preset">Keep these as a preset</button></div>'
    )


def extra_settings() -> str:
    """Settings that are the page's own."""
    return (
        '<div class="jet-extras"><label class="jet-field"><b>Stop at</b><small>One text a line, \\n is '
        "a line break. The continuation ends in front of it.</small>"
        '<textarea id="jet-stops" rows="2"></textarea></label>'
        '<label class="jet-check"><input type="checkbox" id="jet-alternatives" checked> '
        "Remember other words the model might have chosen</label></div>"
    )


def tab_panels() -> str:
    """All drawers but the first, closed."""
    fields = guidance(Guidance())
    return (
        _tab_panel(
            "guidance",
            f'<div id="jet-guidance">{fields["jet-guidance"]}</div>'
            '<div class="jet-field"><b>Lorebook</b><small>Told when a keyword comes up near the end of the '
            'story.</small></div><div id="jet-lore"></div>'
            f'<template id="jet-lore-row">{lore_row()}</template>'
            '<button type="button" class="jet-quiet" id="jet-lore-add">Add an entry</button>'
            '<div id="jet-sees"></div>',
        )
        + _tab_panel("branches", '<div id="jet-tree"></div><div id="jet-compare"></div>')
        + _tab_panel("stories", _stories_tab())
        + _tab_panel(
            "history",
            f'<div id="jet-past"></div>{command_button("Save as csv", css="jet-quiet", do="history")}',
        )
        + _tab_panel("keys", _shortcuts())
    )


def _tab_panel(key: str, content: str) -> str:
    return (
        f'<section class="jet-drawer" id="jet-drawer-{key}" role="tabpanel" aria-labelledby="jet-tab-{key}" '
        f"hidden>{content}</section>"
    )


def _stories_tab() -> str:
    save_buttons = "".join(
        command_button(label, css="jet-opening", do="export", **{"as": ending})
        for ending, label in (("txt", "Text"), ("md", "Markdown"), ("json", "Everything (json)"))
    )
    return (
        '<label class="jet-field"><b>Title</b><input id="jet-title" dir="auto" maxlength="200" '
        'placeholder="Untitled story"></label>'
        f'<div class="jet-files"><span>Save as</span>{save_buttons}<span>or</span>'
        '<button type="button" class="jet-opening" id="jet-new">New story</button>'
        '<label class="jet-opening jet-upload">Open a file<input id="jet-import" type="file" '
        'accept=".txt,.md,.markdown,.json"></label></div>'
        '<h2>Saved on this device ✓</h2><ul id="jet-library"></ul>'
        '<p class="jet-hint">Every change is kept here, on this device only. Save a file to be safe.</p>'
    )


def _shortcuts() -> str:
    rows = "".join(
        f"<dt>{' '.join(f'<kbd>{key}</kbd>' for key in keys.split())}</dt><dd>{description}</dd>"
        for keys, description in SHORTCUTS
    )
    return (
        f'<dl class="jet-shortcuts">{rows}</dl><p class="jet-hint">On a Mac, ⌘ does what Ctrl does, and '
        "Ctrl ⌥ what Alt does. On a phone, tap a word twice for others.</p>"
    )
