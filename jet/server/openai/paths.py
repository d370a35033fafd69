"""List the paths of the API, for the allowlist and to tell calls of the API from the page's."""

from __future__ import annotations

import re

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


def is_api(path: str) -> bool:
    """Return whether a path is a route of the API, with any method."""
    return READ.fullmatch(path) is not None or SENT.fullmatch(path) is not None


def is_spoken_to_programs(path: str) -> bool:
    """Return whether errors of a path take OpenAI's form: API routes, and all else under /v1/ and /api/."""
    return is_api(path) or path.startswith(("/v1/", "/api/"))
