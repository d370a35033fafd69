"""Renders the HTML of the page that does not change: head, beginnings, actions, and tabs.

Each function returns HTML made by `templates/tabs.html`. Buttons carry their command in `data-command` or
`data-generate`; the page's script sends it when one is pressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from jet.files.reading import ENDINGS
from jet.story.guidance import Guidance, LoreEntry
from jet.ui.inputs import NOT_IN_PRESETS
from jet.ui.presets import DESCRIPTIONS, PRESETS
from jet.ui.rendering import render
from jet.ui.tastes import LEVELS, TASTES

TABS = {
    "settings": "Story",
    "guidance": "World",
    "branches": "Versions",
    "stories": "Library",
    "engine": "Engine",
    "tools": "Tools",
}
CARDS = 4  # beginnings whose first line is shown; the others are named only
LENGTHS = ((40, "a sentence"), (120, "a paragraph"), (400, "a page"), (1200, "three pages"))

HIGHLIGHT_OPTIONS = (
    ("plain", "no marks"),
    ("latest", "latest words"),
    ("authorship", "the model’s"),
    ("confidence", "doubt"),
)
# What the marks on the sheet mean, by the number of their style.
LEGEND = (
    (0, "the model’s words; at first only the latest"),
    (1, "doubt: fewer than half of all draws had come to this word"),
    (2, "… fewer than one in five"),
    (3, "… fewer than one in twenty"),
    (4, "what is found, read aloud, or has other words beside it"),
)

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

# Ways to rewrite a selection, as `rewriting` names them.
REWRITES = (
    ("rewrite", "in other words"),
    ("expand", "longer"),
    ("shorten", "shorter"),
    ("describe", "with more senses"),
    ("tense", "more tense"),
    ("gentle", "gentler"),
)

# How the sheet looks: names of the choices, what they are called, and their values.
VIEWS = (
    ("size", "Text", (("small", "small"), ("medium", "as usual"), ("large", "large"))),
    ("width", "Lines", (("narrow", "narrow"), ("medium", "as usual"), ("wide", "wide"))),
    ("paragraphs", "Blank lines", (("narrow", "narrow"), ("wide", "as typed"))),
    ("theme", "Colors", (("system", "as the system"), ("light", "light"), ("dark", "dark"))),
)

SHORTCUTS = (
    ("Ctrl Enter", "continue from the end"),
    ("Ctrl Shift Enter", "continue from the cursor"),
    ("Esc", "stop; close what is open"),
    ("Ctrl F", "find and replace"),
    ("Tab", "take the words in gray, if there are any"),
    ("Ctrl Z", "undo, also what was typed"),
    ("Ctrl Shift Z", "redo"),
    ("Alt R", "retry: another continuation, as a branch"),
    ("Alt W", "other words for the one at the cursor: arrows choose, Enter takes"),
    ("Double click", "selects a word; others are offered beside it, and typing closes them"),
    ("Alt B", "a branch that begins at the cursor"),
)


def header() -> str:
    """Render the line at the top: the page's name, the story's title, whether it is saved, its words."""
    return render("tabs.html", "header")


def opening_buttons(beginnings: Sequence[tuple[str, str]]) -> str:
    """Render a button for each opening, given as (genre, text), and a place for the last stories."""
    return render("tabs.html", "openings", beginnings=beginnings, cards=CARDS)


def about_form() -> str:
    """Render the form in which the user instructs a chat model to write a story."""
    return render("tabs.html", "about_form", about=Guidance().about)


def length_choice() -> str:
    """Render the choice of how much Continue writes, in units such as a paragraph or a page."""
    return render("tabs.html", "length_choice", lengths=LENGTHS)


def version_buttons() -> str:
    """Render Retry, and the place for the arrows that switch between its versions."""
    return render("tabs.html", "versions", icons=ICONS)


def undo_redo_buttons() -> str:
    """Render Undo and Redo."""
    return render("tabs.html", "undo_redo", icons=ICONS)


def action_buttons() -> str:
    """Render the other actions, the choice of highlights, and the status line."""
    return render(
        "tabs.html", "actions", icons=ICONS, rewrites=REWRITES, highlights=HIGHLIGHT_OPTIONS, legend=LEGEND
    )


def tab_list(with_models: bool = False) -> str:
    """Render the names of the tabs; none is open at first."""
    return render("tabs.html", "tab_list", tabs=TABS | ({"models": "Models"} if with_models else {}))


def length_settings() -> str:
    """Render the field for the length in words."""
    return render("tabs.html", "length_settings")


def find_bar() -> str:
    """Render the bar for finding and replacing, closed."""
    return render("tools.html", "find_bar")


def preset_buttons() -> str:
    """Render the presets, and a place for the writer's own."""
    return render("tabs.html", "presets", presets=[preset for preset in _presets() if preset[0] != "neutral"])


def extra_settings() -> str:
    """Render the settings that are not Gradio components."""
    return render("tabs.html", "extra_settings")


def stop_texts() -> str:
    """Render the field for the writer's own stop strings."""
    return render("tabs.html", "stop_texts")


def taste_sliders() -> str:
    """Render a slider against repeats and one against clichés."""
    return render("tabs.html", "taste_sliders", tastes=TASTES, levels=LEVELS)


def neutral_preset() -> str:
    """Render the preset for comparisons."""
    return render("tabs.html", "neutral_preset", presets=[_presets()[-1]])


def _presets() -> list[tuple[str, str, dict[str, object]]]:
    """Return each preset's name, description, and values by name."""
    return [
        (
            name,
            DESCRIPTIONS[name],
            {key: value for key, value in asdict(preset).items() if key not in NOT_IN_PRESETS},
        )
        for name, preset in PRESETS.items()
    ]


def tab_panels() -> str:
    """Render the panels of all tabs without Gradio components, hidden."""
    return render(
        "tabs.html",
        "tab_panels",
        guidance=Guidance(),
        new_entry=LoreEntry(),
        views=VIEWS,
        shortcuts=SHORTCUTS,
        endings=ENDINGS,
    )


def engine_head() -> str:
    """Render the top of the Engine tab: buttons for the panel's numbers and for the API."""
    return render("tabs.html", "engine_head")


def engine_history() -> str:
    """Render the element that will show the tab's requests."""
    return render("tabs.html", "engine_history")
