"""The paths of the API, for the allowlist and for `ApiFirst`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MODEL = r"[A-Za-z0-9._@-]+(/[A-Za-z0-9._@-]+)*"
READ = re.compile(
    rf"/v1/models(/{_MODEL})?|/health|/tokenizer_info|/(get_)?(server|model)_info|/get_load"
    r"|/api/v1/(model|info/version|config/max_(context_)?length)"
    r"|/api/extra/(version|true_max_context_length|perf|generate/check)"
)
DOCUMENTS = re.compile(r"/docs|/openapi\.json")
SENT = re.compile(
    r"/v1/(chat/)?completions|/(de)?tokenize|/api/v1/generate"
    r"|/api/extra/(generate/(stream|check)|abort|tokencount)"
)


def path_of(scope: Mapping[str, Any]) -> str:
    """Return the path of an HTTP call, without the prefix (`root_path`) that a proxy puts in front."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_api(path: str) -> bool:
    """Return whether a path is a route of the API, with any method."""
    return READ.fullmatch(path) is not None or SENT.fullmatch(path) is not None


def is_spoken_to_programs(path: str) -> bool:
    """Return whether errors for a path are JSON: for API routes, and for all paths under /v1/ and /api/."""
    return is_api(path) or path.startswith(("/v1/", "/api/"))
