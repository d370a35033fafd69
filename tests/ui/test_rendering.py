"""Test templates: every text is escaped, and white space of the template file is removed."""

from __future__ import annotations

from html import unescape

import pytest

from jet.ui import rendering, tabs
from jet.ui.rendering import TEMPLATES, render

HOSTILE = "<b>'&\"</b> ${x} {{y}}\n\n"


@pytest.mark.parametrize("macro", ["hint", "payload", "about", "report_failed"])
def test_text_is_escaped_for_the_page_and_for_gradio(macro: str) -> None:
    name = {"hint": "text", "payload": "json", "about": "about", "report_failed": "message"}[macro]
    html = render("views.html", macro, **{name: HOSTILE})
    assert not set("{}$") & set(html) and "<b>" not in html
    assert HOSTILE in unescape(html)


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(Exception, match=r"'text' is undefined|parameter 'text'"):
        render("views.html", "hint")


def test_the_layout_of_a_template_is_not_on_the_page() -> None:
    html = tabs.tab_panels()
    assert html.count("\n") == html.count("<textarea")  # each begins with the line break that HTML drops
    assert '<label><input type="checkbox" data-lore="enabled" checked> on</label><label>' in html


def test_templates_are_part_of_the_package() -> None:
    names = {path.name for path in TEMPLATES.iterdir()}
    assert {"components.html", "panel.html", "tabs.html", "tools.html", "views.html"} <= names
    assert rendering.TEMPLATES.parent.name == "ui"
