"""The API's OpenAPI description, and the page at /docs that shows it as plain HTML without scripts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from jet.server.openai.routes import NAME, ApiRoute

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{background:#8882;padding:.1em .3em;border-radius:.2em}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #8884}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}"
)


def describe(routes: Iterable[ApiRoute]) -> dict[str, Any]:
    """Return the OpenAPI description of the routes that have a summary, as FastAPI writes it."""
    app = FastAPI(title="Jet Stories")
    for route in routes:
        if not route.summary:
            continue
        body = None if route.body is None else _body(route.body)
        app.add_api_route(
            route.path,
            _answer_named if route.path.endswith(NAME) else _answer,
            methods=[route.method],
            tags=[route.tag],
            summary=route.summary,
            operation_id=f"{route.method} {route.path}",
            openapi_extra=body,
        )
    return app.openapi()


async def _answer() -> None:
    """Take the place of a handler, which FastAPI describes and never calls."""


async def _answer_named(name: str) -> None:
    """Take the place of a handler whose path ends with a name."""


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a JSON body with the fields of `kind`."""
    schema = kind.model_json_schema()
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def page_of(description: dict[str, Any]) -> str:
    """Return an HTML page for an OpenAPI description: all routes with the fields of their bodies."""
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(description['info']['title'])}"
        f" API</title><meta name='viewport' content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{escape(description['info']['title'])}: API</h1>",
        "<p>For programs: <a href='/openapi.json'>openapi.json</a>. "
        "Every field may be left out; it then has OpenAI's default.</p>",
    ]
    for path, methods in description["paths"].items():
        for method, route in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(route.get('description') or route.get('summary') or '')}</p>")
            parts.append(_table(route))
    return "\n".join(parts) + "</html>"


def _table(route: dict[str, Any]) -> str:
    content = route.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    rows = [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(one))}</td>"
        f"<td>{escape(one.get('description', ''))}</td></tr>"
        for name, one in schema.get("properties", {}).items()
    ]
    return f"<table><tr><th>Field<th>Type<th></tr>{''.join(rows)}</table>" if rows else ""


def _type(schema: dict[str, Any]) -> str:
    """Describe the type of a field in a few words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"] if one.get("type") != "null"))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))
