"""Renders the page's HTML: Jinja2 macros in `templates/`, all text escaped.

Gradio passes HTML through a template of its own, in which `${…}` and `{{…}}` mean something. So braces and
dollar signs are escaped as well, wherever they come from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, macro: str, **values: object) -> str:
    """Render a macro of a file in `templates/` with its arguments by name.

    Returns HTML in which braces and dollar signs are escaped.
    """
    html = str(getattr(_ENVIRONMENT.get_template(template).module, macro)(**values))
    return html.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


class _Loader(jinja2.FileSystemLoader):
    """Loads templates without their line breaks and indentation, which would be text on the page.

    A line that begins with an attribute or a word is separated from the previous line by one blank.
    """

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        """Return a template's source without line breaks and indentation."""
        source, path, is_current = super().get_source(environment, template)
        lines = [line.strip() for line in source.splitlines()]
        return "".join(line if line[:1] in "<{" else f" {line}" for line in lines), path, is_current


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_ENVIRONMENT = jinja2.Environment(
    loader=_Loader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, auto_reload=False
)
_ENVIRONMENT.filters["json"] = _to_json
