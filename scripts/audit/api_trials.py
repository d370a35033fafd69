"""Trials of the API's routes; they join the list of `scripts.audit.trials`."""

from __future__ import annotations

import base64
import json

from jet.server.openai.routes import NAME, ROUTES
from scripts.audit.trials import HOSTILE, SECRETS, must, refused, trial
from scripts.audit.wire import Answer, Target

SENT = tuple(route.path for route in ROUTES if route.method == "POST")
# Those that a router probes are among them.
READ = tuple(route.path.replace(NAME, "audit") for route in ROUTES if route.method == "GET")
# Without a key: load balancers and routers have none.
OPEN = ("/health", "/server_info", "/model_info", "/get_server_info", "/get_model_info", "/get_load")


def said(path: str, answer: Answer) -> None:
    """Check that an answer is 200 or a 4xx, and shows neither files nor tracebacks of the server."""
    must(answer.status == 200 or 400 <= answer.status < 500, f"{path} was answered with {answer.status}")
    must(not any(secret in answer.text for secret in SECRETS), f"{path} brought a file's content")
    must("Traceback" not in answer.text and "site-packages" not in answer.text, f"{path} told of the server")


@trial("API", "routes of OpenAI's API and KoboldAI's that are not offered, and `..` in names of models")
def other_routes(target: Target) -> None:
    """Check that unknown routes, `..` in model names, and other methods on known routes are refused."""
    names = ("files", "embeddings", "images/generations", "fine_tuning/jobs", "audio/speech", "responses")
    refused((name, target.post(f"/v1/{name}", {})) for name in names)
    extra = ("embeddings", "transcribe", "tts", "multiplayer/getstory", "data/save", "admin/reload_config")
    refused((name, target.post(f"/api/extra/{name}", {})) for name in extra)
    for name in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "~/.ssh/id_rsa"):
        refused([(name, target.call(f"/v1/models/{name}"))])
    refused((path, target.call(path, method)) for path in SENT for method in ("PUT", "DELETE", "PATCH"))


@trial("API", "JSON that is none, nested without end, or of the wrong shape")
def malformed_calls(target: Target) -> None:
    """Check that each malformed body is refused in OpenAI's form, with a message."""
    bodies = (b"{", b"null", b"[]", b"[" * 100_000, b'{"prompt": NaN}', b"5", b"\xff\xfe", b'"x"')
    for path in SENT:
        for body in bodies:
            answer = target.call(path, "POST", ["Content-Type: application/json"], body)
            must(400 <= answer.status < 500, f"{body[:20]!r} got {answer.status} on {path}")
            must(bool(json.loads(answer.text)["error"]["message"]), f"{path} does not say what is wrong")


@trial("API", "more than one may ask: tokens, answers, texts, and types beyond all bounds")
def greedy_calls(target: Target) -> None:
    """Ask for more than is allowed: each request is refused with a 4xx."""
    for more in (
        {"max_tokens": 10**9},
        {"n": 10**6},
        {"n": 128, "prompt": ["a"] * 1_000},
        {"prompt": "x" * 1_500_000},
        {"prompt": [0] * 3_000_000},
        {"stop": ["a"] * 10_000},
        {"logit_bias": {str(token): 1 for token in range(20_000)}},
        {"user": "u" * 10_000},
        {"logprobs": 10**6},
    ):
        answer = target.post("/v1/completions", {"prompt": "a", "max_tokens": 1, **more})
        refused([(str(more)[:40], answer)])


@trial("API", "markup, line breaks and secrets in what is refused, in ids and in fields that are not known")
def echoed_calls(target: Target) -> None:
    """Check that hostile input is not echoed.

    Markup must not come back as HTML, line breaks must not create a header, and no answer may contain the
    key.
    """
    key = "sk-audit-8261-8261"
    headers = [f"Authorization: Bearer {key}", f"X-Request-Id: {HOSTILE}"]
    body = {"prompt": "a", "max_tokens": 1, HOSTILE: 1, "x\r\nX-Harm: 1": 1, "model": HOSTILE}
    for path in SENT:
        answer = target.post(path, body, headers)
        said(path, answer)
        must("html" not in answer.headers.get("content-type", ""), f"{path} answers with HTML")
        must("x-harm" not in answer.headers and key not in str(answer), f"{path} made a header or told a key")
        must("<" not in answer.headers.get("x-request-id", ""), f"{path} took a hostile id")


@trial("API", "pages of others that call it, and what everybody may read of it")
def foreign_calls(target: Target) -> None:
    """Check that pages of other origins may not call the API by default.

    Check also that the public routes reveal no file and no traceback.
    """
    ask = ["Origin: http://evil.example", "Access-Control-Request-Method: POST"]
    for path in SENT:
        allowed = target.call(path, "OPTIONS", ask).headers.get("access-control-allow-origin")
        must(allowed is None, f"{path} may be called by another's page")
    for path in READ:
        said(path, target.call(path))


@trial("API", "a flood of calls, and texts beyond those that one may have written at once")
def flooding_calls(target: Target) -> None:
    """Flood the API: calls are refused with 429 and Retry-After, while other clients are served."""
    flooding = Target(f"http://{target.host}:{target.port}", "127.0.0.79")
    answers = [flooding.post("/tokenize", {"prompt": "a"}) for _ in range(400)]
    turned_away = [answer for answer in answers if answer.status == 429]
    must(bool(turned_away), "four hundred calls in a row were all taken")
    must(all("retry-after" in answer.headers for answer in turned_away), "a 429 has no Retry-After")
    must(all("error" in json.loads(answer.text) for answer in turned_away), "not in OpenAI's form")
    must(target.call("/health").status == 200, "other clients are not served")


@trial("API", "keys: none, wrong, cut short, in the wrong place, and where a server tells them")
def unlocked_calls(target: Target) -> None:
    """Check that each call without a valid key gets 401, before its body is parsed.

    Check also that the routes in `OPEN` need no key. Do nothing if the target has no key.
    """
    if (key := target.key) is None:
        return
    encoded = base64.b64encode(f":{key}".encode()).decode()
    attempts = (
        *("Authorization: ", "Authorization: Bearer", "Authorization: Bearer null", "X-API-Key: "),
        *(f"Authorization: Bearer {key[:-1]}", f"Authorization: Bearer {key}x", f"X-API-Key: {key[1:]}"),
        *(f"Authorization: Basic {encoded}", f"Authorization: {key}", f"Cookie: api_key={key}"),
        *(f"Authorization: Bearer {key.swapcase()}", f"X-Real-Authorization: Bearer {key}"),
        f"Authorization: Bearer {'k' * 5_000}",
    )
    for path in sorted({*READ, *SENT} - {*OPEN}):
        method = "POST" if path in SENT else "GET"
        places = [path, f"{path}?api_key={key}", f"{path}?key={key}"]
        tried = [(place, ["Authorization:"]) for place in places]
        tried += [(path, [one] if one.startswith("Auth") else [one, "Authorization:"]) for one in attempts]
        for place, headers in tried:
            answer = target.call(place, method, headers, b"{" if method == "POST" else b"")
            must(answer.status == 401, f"{method} {path} with {headers[0][:30]!r} got {answer.status}")
            must("www-authenticate" in answer.headers, f"{path} does not say that it wants a key")
            must(key not in str(answer), f"{path} told the key")
    for path in READ:
        answer = target.call(path)
        must(answer.status not in (401, 403), f"{path} does not take the key")
        must(key not in str(answer), f"{path} told the key")
    for path in OPEN:
        answer = target.call(path, headers=["Authorization:"])
        said(path, answer)
        must(answer.status == 200 and key not in str(answer), f"{path} wants a key, or tells it")
