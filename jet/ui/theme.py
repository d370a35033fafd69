"""Colors and fonts of the page: ink on paper, with the system's fonts."""

from __future__ import annotations

import gradio as gr

SANS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")

# name: (light, dark)
PAPER = ("#f6f3ec", "#161513")
SHEET = ("#fffdf9", "#1e1c19")
INK = ("#2b2722", "#e6e0d5")
FAINT = ("#6d655a", "#a0978a")
LINE = ("#e3dccf", "#36322c")
ACCENT = ("#3c6850", "#93bda2")
ACCENT_STRONG = ("#2f5541", "#a8cdb5")
ON_ACCENT = ("#ffffff", "#14201a")

_VARIABLES = {
    "body_background_fill": PAPER,
    "body_text_color": INK,
    "body_text_color_subdued": FAINT,
    "background_fill_primary": SHEET,
    "background_fill_secondary": PAPER,
    "border_color_primary": LINE,
    "border_color_accent": ACCENT,
    "color_accent_soft": LINE,
    "block_background_fill": ("transparent", "transparent"),
    "block_label_text_color": FAINT,
    "block_title_text_color": FAINT,
    "block_info_text_color": FAINT,
    "input_background_fill": SHEET,
    "input_background_fill_focus": SHEET,
    "input_border_color": LINE,
    "input_border_color_focus": ACCENT,
    "input_placeholder_color": FAINT,
    "slider_color": ACCENT,
    "link_text_color": ACCENT,
    "button_primary_background_fill": ACCENT,
    "button_primary_background_fill_hover": ACCENT_STRONG,
    "button_primary_text_color": ON_ACCENT,
    "button_secondary_background_fill": SHEET,
    "button_secondary_background_fill_hover": LINE,
    "button_secondary_text_color": INK,
    "button_secondary_border_color": LINE,
}


def make_theme() -> gr.themes.Base:
    """Create the theme. Its fonts are the system's, so the browser loads none."""
    theme = gr.themes.Base(font=SANS, font_mono=MONO, radius_size=gr.themes.sizes.radius_sm)
    variables = {}
    for name, (light, dark) in _VARIABLES.items():
        variables[name] = light
        variables[f"{name}_dark"] = dark
    return theme.set(
        **variables,
        color_accent=ACCENT[0],
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        input_shadow="none",
        input_shadow_focus="none",
        button_secondary_border_color_hover=LINE[0],
    )
