"""Which paths belong to the API: for the allowlist, and to tell its calls from the page's."""

from __future__ import annotations

import re

_MODEL = r"[A-Za-z0-9._@-]+(/[A-Za-z0-9._@-]+)*"
READ = re.compile(
    rf"/v1/models(/{_MODEL})?|/health|/tokenizer_info"
    r"|/api/v1/(model|info/version|config/max_(context_)?length)"
    r"|/api/extra/(version|true_max_context_length|perf|generate/check)"
)
DOCUMENTS = re.compile(r"/docs|/openapi\.json")
SENT = re.compile(
    r"/v1/(chat/)?completions|/(de)?tokenize|/api/v1/generate"
    r"|/api/extra/(generate/(stream|check)|abort|tokencount)"
)


def is_api(path: str) -> bool:
    """Whether a path is the API's, whatever the method."""
    return READ.fullmatch(path) is not None or SENT.fullmatch(path) is not None


def is_spoken_to_programs(path: str) -> bool:
    """Whether errors under a path are to have OpenAI's form, also where there is no such route."""
    return is_api(path) or path.startswith(("/v1/", "/api/"))
