"""Renders the HTML of the page that does not change: openings, actions, and the tabs below the editor.

Each function returns HTML made by `templates/tabs.html`. Buttons carry their command in `data-command` or
`data-generate`; the page's script sends it when one is pressed.
"""

from __future__ import annotations

from collections.abc import Sequence

from jet.files.reading import ENDINGS
from jet.story.guidance import Guidance, LoreEntry
from jet.ui.presets import PRESETS
from jet.ui.rendering import render

TABS = {
    "settings": "Settings",
    "guidance": "Guidance",
    "branches": "Versions",
    "stories": "Stories",
    "history": "History",
    "report": "Report",
    "keys": "Keys",
}

HIGHLIGHT_OPTIONS = (("plain", "plain"), ("authorship", "author"), ("confidence", "confidence"))

# SVG paths in a square of 16 units.
ICONS = {
    "undo": "M6 3 2.5 6.5 6 10M3 6.5h6.5a4 4 0 0 1 0 8H7",
    "redo": "M10 3l3.5 3.5L10 10M13 6.5H6.5a4 4 0 0 0 0 8H9",
    "retry": "M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 1.5V5H10",
    "write-variants": "M2 8h3M5 8c3 0 3-5 7-5M5 8h7M5 8c3 0 3 5 7 5"
    "M12 1.5 13.7 3 12 4.5M12 6.5 13.7 8 12 9.5",
    "continue-at": "M2.5 3h3M2.5 13h3M4 3v10M8 8h5.5M11 5.5 13.5 8 11 10.5",
    "fork": "M5 4.5v7M5 9c0-2 6-1 6-4.5M5 4.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3zM11 4.5a1.5 1.5 0 1 0 0-3 "
    "1.5 1.5 0 0 0 0 3zM5 14.5a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z",
    "other-words": "M2.5 5.5h9M9 3l2.5 2.5L9 8M13.5 10.5h-9M7 8l-2.5 2.5L7 13",
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


def header() -> str:
    """Render the name of the page and a line about it."""
    return render("tabs.html", "header")


def shortcut_hint() -> str:
    """Render the two most useful shortcuts."""
    return render("tabs.html", "shortcut_hint")


def opening_buttons(beginnings: Sequence[tuple[str, str]]) -> str:
    """Render a button for each beginning, given as (genre, text), and the field for chat models."""
    return render("tabs.html", "openings", beginnings=beginnings, about=Guidance().about)


def undo_redo_buttons() -> str:
    """Render Undo and Redo."""
    return render("tabs.html", "undo_redo", icons=ICONS)


def action_buttons() -> str:
    """Render the other actions, the choice of highlights, and the lines that say what is saved and done."""
    return render("tabs.html", "actions", icons=ICONS, highlights=HIGHLIGHT_OPTIONS)


def tab_list() -> str:
    """Render the names of the tabs; the first is selected."""
    return render("tabs.html", "tab_list", tabs=TABS)


def preset_buttons() -> str:
    """Render the presets, and a place for the writer's own."""
    return render("tabs.html", "presets", names=list(PRESETS))


def extra_settings() -> str:
    """Render the settings that are not Gradio components."""
    return render("tabs.html", "extra_settings")


def tab_panels() -> str:
    """Render all tab panels but those of Gradio components, hidden."""
    return render(
        "tabs.html",
        "tab_panels",
        guidance=Guidance(),
        new_entry=LoreEntry(),
        shortcuts=SHORTCUTS,
        endings=ENDINGS,
    )
