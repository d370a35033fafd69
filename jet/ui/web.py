"""Serve the page's script and stylesheet. The ES modules of `assets/web` are joined into one script.

Separate modules would take forty requests in seven rounds. The URLs contain a hash of the content, so
browsers can cache the files. Script and stylesheet are minified. The stylesheet is served outside of Gradio,
which would remove container queries and other rules that it does not know. Fonts come from
`assets/web/fonts`.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import rcssmin  # type: ignore[import-untyped]
import rjsmin  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

WEB = Path(__file__).resolve().parents[2] / "assets" / "web"
MAIN = "app.js"
LAYOUT = "layout.css"
_FONT = re.compile(r"[a-z-]+\.woff2")
_IMPORT = re.compile(r'^import\s+(?:\*\s+as\s+(\w+)|\{([^}]*)\})\s+from\s+"\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export\s+((?:async\s+)?function|class|const)\s+(\w+)", re.MULTILINE)
_LEFT = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_LASTING = {"Cache-Control": "public, max-age=31536000, immutable"}


class ModuleError(ValueError):
    """Raised if `join` cannot join modules: an unsupported form, a missing module or a circular import."""


def join(main: str, sources: dict[str, str]) -> str:
    """Join ES modules into one that exports what `main` exports.

    Each module becomes a function that returns its exports. The supported forms are `import { a, b as c }
    from "./x.js"`, `import * as x from "./x.js"`, and `export` before a function, class or const.

    Args:
        main: the name of the main module.
        sources: the source of each module, by file name.

    Raises:
        ModuleError: for any other form, a missing module, or a circular import.
    """
    joined: dict[str, str] = {}

    def add(name: str, ahead: tuple[str, ...]) -> None:
        if name in ahead:
            raise ModuleError(f"Modules import each other: {' -> '.join((*ahead, name))}")
        if name in joined:
            return
        if name not in sources:
            raise ModuleError(f"{ahead[-1] if ahead else 'The page'} imports {name}, which does not exist.")
        for _, names, other in _IMPORT.findall(sources[name]):
            add(other, (*ahead, name))
            wanted = {word.split()[0] for word in names.split(",") if word.strip()}
            if missing := wanted - set(_exports(sources[other])):
                raise ModuleError(f"{name} imports {min(missing)!r} from {other}, which does not export it.")
        joined[name] = _as_function(name, sources[name])

    add(main, ())
    exports = (
        f"export const {name} = {_variable(main)}.{name};" for _, name in _EXPORT.findall(sources[main])
    )
    return "\n".join((*joined.values(), *exports, ""))


def _variable(name: str) -> str:
    return f"${name.removesuffix('.js')}"


def _exports(source: str) -> list[str]:
    return [name for _, name in _EXPORT.findall(source)]


def _as_function(name: str, source: str) -> str:
    def bind(match: re.Match[str]) -> str:
        names = match[1] or f"{{ {match[2].replace(' as ', ': ').strip()} }}"
        return f"const {names} = {_variable(match[3])};\n"

    body = _EXPORT.sub(r"\1 \2", _IMPORT.sub(bind, source))
    if left := _LEFT.search(body):
        raise ModuleError(f"{name}: {left[0]!r} is in a form that cannot be joined.")
    return f"const {_variable(name)} = (() => {{\n{body}return {{ {', '.join(_exports(source))} }};\n}})();"


@cache
def script() -> tuple[str, str]:
    """Return the page's script, and its URL relative to the page."""
    text = rjsmin.jsmin(
        join(MAIN, {path.name: path.read_text(encoding="utf-8") for path in WEB.glob("*.js")})
    )
    return text, _address(text, MAIN)


@cache
def layout() -> tuple[str, str]:
    """Return the page's stylesheet, and its URL relative to the page."""
    text = _style(LAYOUT)
    return text, _address(text, LAYOUT)


def styles() -> str:
    """Return the stylesheet that Gradio serves. Gradio makes it apply to Gradio's own elements only."""
    return _style("styles.css")


def _style(name: str) -> str:
    return str(rcssmin.cssmin((WEB / name).read_text(encoding="utf-8")))


def _address(text: str, name: str) -> str:
    return f"web/{hashlib.sha256(text.encode()).hexdigest()[:16]}/{name}"


def head() -> str:
    """Return HTML that makes the browser fetch script and stylesheet while Gradio still renders the page."""
    return (
        f'<link rel="modulepreload" href="{script()[1]}"><link rel="stylesheet" href="{layout()[1]}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1, '
        'interactive-widget=resizes-content">'
    )


def loader(settings: dict[str, object]) -> str:
    """Return JavaScript that starts the script with these settings. Handlers wait for `jetReady`."""
    address, given = json.dumps(script()[1]), json.dumps(settings)
    return (
        f"() => {{ globalThis.jetReady = import(new URL({address}, document.baseURI))"
        f".then(({{ start }}) => start({given})); }}"
    )


def call(name: str) -> str:
    """Return JavaScript with which a Gradio event calls a function of the script, once it is loaded."""
    return f"async (...given) => (await jetReady).{name}(...given)"


@cache
def _compressed(text: str) -> bytes:
    """Return a text compressed by Brotli at its best level. The result is cached."""
    return bytes(brotli.compress(text.encode()))


async def _answer(request: Request) -> Response:
    name = request.path_params["name"]
    if _FONT.fullmatch(name) and (font := WEB / "fonts" / name).is_file():
        return FileResponse(font, media_type="font/woff2", headers=_LASTING)
    if name not in (MAIN, LAYOUT):
        return Response(status_code=404)
    text, address = script() if name == MAIN else layout()
    # After an update, an older page may ask for the script by its old address.
    headers = _LASTING if request.url.path.endswith(address) else {"Cache-Control": "no-store"}
    kind = "text/javascript" if name == MAIN else "text/css"
    if "br" in request.headers.get("accept-encoding", ""):
        headers = {**headers, "Content-Encoding": "br", "Vary": "Accept-Encoding"}
        return Response(_compressed(text), media_type=kind, headers=headers)
    return Response(text, media_type=kind, headers=headers)


ROUTE = Route("/web/{version}/{name}", _answer)
