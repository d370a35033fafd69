"""Trials of the security audit: one function each, which raises Breach if an attack succeeds."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.audit.wire import Answer, Breach, Tab, Target

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<img src=x onerror=harm()><script>harm()</script>\"'`${harm()}{{harm()}}</textarea>"
SECRETS = (
    "root:x:0:0",
    "[project]",
    "def main(",
    "sdk: gradio",
)  # contents of files that no visitor may read


@dataclass(frozen=True)
class Trial:
    """A trial: its group, the attack that it tries, and its function."""

    group: str
    what: str
    run: Callable[[Target], None]


TRIALS: list[Trial] = []


def trial(group: str, what: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Return a decorator that registers a function as a trial of `group`; `what` describes the attack."""

    def enter(run: Callable[[Target], None]) -> Callable[[Target], None]:
        TRIALS.append(Trial(group, what, run))
        return run

    return enter


def must(holds: bool, breach: str) -> None:
    """Raise Breach with the message `breach` unless `holds`."""
    if not holds:
        raise Breach(breach)


def refused(answers: Iterable[tuple[str, Answer]]) -> None:
    """Raise Breach for an answer that is not a 4xx or a closed connection, or that contains a secret."""
    for what, answer in answers:
        must(answer.status == 0 or 400 <= answer.status < 500, f"{what!r} was answered with {answer.status}")
        must(not any(secret in answer.text for secret in SECRETS), f"{what!r} brought a file's content")


# --- files -----------------------------------------------------------------------------------------------


@trial("files", "`..` in every spelling on every path that serves files")
def traversal(target: Target) -> None:
    """Try `..` plain, encoded once and twice, with backslashes, in overlong UTF-8, and before a NUL."""
    ups = (
        "../",
        "..%2f",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%252f",
        "..\\",
        "..%5c",
        "%c0%ae%c0%ae/",
        "....//",
        "..;/",
    )
    roots = ("/static/", "/assets/", "/svelte/", "/gradio_api/file=", "/gradio_api/file/", "/pwa_icon/", "/")
    goals = ("etc/passwd", "pyproject.toml", "app.py", "README.md%00.png")
    paths = [root + up * 8 + goal for root in roots for up in ups for goal in goals]
    refused((path, target.call(path)) for path in paths)


@trial("files", "files of the project and of the machine through Gradio's file routes")
def file_routes(target: Target) -> None:
    """Try Gradio's file routes with relative and absolute paths, with and without a scheme."""
    files = (
        "app.py",
        "README.md",
        str(ROOT / "app.py"),
        "/etc/passwd",
        "file:///etc/passwd",
        "C:\\Windows\\win.ini",
    )
    routes = ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/", "/static/", "/assets//")
    refused((route + file, target.call(route + file)) for route in routes for file in files)


@trial("files", "requests to other hosts through the server")
def forgery(target: Target) -> None:
    """Try Gradio's proxy and file routes, which take URLs, and an absolute request line."""
    inside = f"http://{target.host}:{target.port}/healthz"
    paths = [f"/gradio_api/proxy={inside}", f"/gradio_api/file={inside}", f"/proxy={inside}"]
    refused((path, target.call(path)) for path in paths)
    absolute = target.call("http://169.254.169.254/latest/meta-data/")
    must(absolute.status != 200 or "Jet Stories" in absolute.text, "an absolute address was fetched")


@trial("files", "uploads, and every other route that the page has no use for")
def unused_routes(target: Target) -> None:
    """Try Gradio's routes that take files, reload code, show visitors, or belong to developer tools."""
    posts = (
        "upload",
        "component_server",
        "process_recording",
        "vibe-edit",
        "vibe-code",
        "stream/x",
        "run-history/x",
    )
    refused((path, target.post(f"/gradio_api/{path}", {})) for path in posts)
    gets = (
        "deep_link",
        "dev/reload",
        "runs",
        "run-history/records",
        "vibe-code",
        "upload_progress",
        "profiling/traces",
    )
    refused((path, target.call(f"/gradio_api/{path}")) for path in gets)
    others = (
        "/monitoring",
        "/monitoring/summary",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/.git/config",
        "/.env",
    )
    refused((path, target.call(path)) for path in others)


@trial("files", "paths of this machine in public answers")
def leaks(target: Target) -> None:
    """Check that the page, its configuration and its API description name no folder of this machine."""
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/healthz", "/metrics"):
        text = target.call(path).text
        for folder in (str(ROOT), str(Path.home()) + "/", "site-packages"):
            must(folder == "//" or folder not in text, f"{path} names {folder}")


# --- bodies ----------------------------------------------------------------------------------------------


@trial("bodies", "bodies that are too large, said to be or not")
def oversize(target: Target) -> None:
    """Try a Content-Length beyond the limit, malformed lengths, and sixty megabytes in chunks."""
    head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
    for length in ("99999999999", "-1", "1e9", "0x10", "5, 6"):
        answer = target.send(f"{head}Content-Length: {length}\r\n\r\nhello".encode())
        refused([(f"length {length}", answer)])
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    answer = target.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 60)
    refused([("sixty megabytes in chunks", answer)])


@trial("bodies", "invalid JSON, endlessly nested JSON, and JSON of the wrong shape")
def malformed(target: Target) -> None:
    """Check that the server answers every malformed body and stays healthy."""
    bodies = (
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"data": 5}',
        b"[" * 100_000,
        b'{"data": [], "fn_index": 1e999}',
        b"\xff\xfe",
    )
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/call/generate"):
        for body in bodies:
            answer = target.call(path, "POST", ["Content-Type: application/json"], body)
            must(answer.status != 0, f"{body[:20]!r} got no answer at all on {path}")
            must(b"Traceback" not in answer.body, f"{body[:20]!r} brought a traceback on {path}")
    must(target.call("/healthz").status == 200, "the server is not well afterwards")


@trial("bodies", "commands of the wrong type, with unknown names, or with numbers out of range")
def bad_commands(target: Target) -> None:
    """Check that each bad command is answered with an error message."""
    tab = Tab(target)
    for command in (
        5,
        None,
        "",
        "[]",
        "{}",
        '{"type": 5}',
        '{"type": "__class__"}',
        '{"type": "sync", "n": 1e400}',
        "[" * 9999,
    ):
        answer = tab.raw([command])
        must(
            answer.status == 200 and "error" in answer.text,
            f"the command {str(command)[:20]!r} got {answer.status}",
        )
    for kind, more in (
        ("fork", {"at": 10**30}),
        ("select_branch", {"branch": -1}),
        ("alternatives", {"at": -5}),
        ("rename", {"branch": "x"}),
    ):
        tab.act(kind, "a story", **more)  # carried out as far as possible, or refused with a message


# --- headers ---------------------------------------------------------------------------------------------


@trial("headers", "other hosts, several hosts, and hosts with markup in them")
def hosts(target: Target) -> None:
    """Check that no forged Host header appears in the page's URLs, and that two Host headers are rejected."""
    for host in ("evil.example", "a b", "x@evil.example", 'x"><script>', "[::1", "x\tevil.example"):
        answer = target.call("/config", host=host)
        must(answer.status != 200 or host not in answer.text, f"the host {host!r} came back")
    two = f"GET /config HTTP/1.1\r\nHost: {target.host}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    refused([("two hosts", target.send(two.encode()))])


@trial("headers", "headers that only a reverse proxy may send")
def forwarded(target: Target) -> None:
    """Check that, without a proxy, forwarded headers change neither host nor scheme of the page's URLs."""
    lies = ["X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https", "X-Forwarded-For: 8.8.8.8"]
    more = ["Forwarded: for=8.8.8.8;host=evil.example", "X-Real-IP: 8.8.8.8", "X-Original-URL: /monitoring"]
    text = target.call("/config", headers=[*lies, *more]).text
    must(
        "evil.example" not in text and "https://" not in json.loads(text)["root"],
        "a forwarded host came back",
    )


@trial("headers", "line breaks in paths and queries")
def line_breaks(target: Target) -> None:
    """Check that no line break of a path or query reaches the response headers."""
    for path in (
        "/%0d%0aX-Harm:%201",
        "/login?next=%0d%0aX-Harm:1",
        "/gradio_api/heartbeat/%0d%0aX-Harm:%201",
    ):
        must("x-harm" not in target.call(path).headers, f"{path} made a header")


@trial("headers", "one body under two lengths")
def smuggling(target: Target) -> None:
    """Check that a second request hidden in the body of the first is not answered."""
    hidden = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
    both = f"{head}Content-Length: {5 + len(hidden)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    answer = target.send(both + b"0\r\n\r\n" + hidden)
    must(b"jet_generation_tokens_total" not in answer.body, "the hidden request was answered")
    must(answer.body.count(b"HTTP/1.1") == 0, "there were two answers")


@trial("headers", "pages of others that call this one from a visitor's browser")
def other_origins(target: Target) -> None:
    """Check that CORS headers do not let pages of other origins read the answer."""
    for origin in ("http://evil.example", "null"):
        answer = target.call("/config", headers=[f"Origin: {origin}"])
        allowed = answer.headers.get("access-control-allow-origin")
        must(
            allowed in (None, "")
            or (allowed == "*" and "access-control-allow-credentials" not in answer.headers),
            f"{origin} may read",
        )


@trial("headers", "answers without the headers that bind a browser")
def binding(target: Target) -> None:
    """Check the headers that restrict a browser.

    Page, data and refusals must forbid foreign scripts and framing. All responses must forbid content
    sniffing.
    """
    for path in ("/", "/config", "/theme.css", "/nowhere"):
        headers = target.call(path).headers
        must(headers.get("x-content-type-options") == "nosniff", f"{path} may be sniffed")
        if path == "/theme.css":  # part of a page, whose own policy holds
            continue
        policy = headers.get("content-security-policy", "")
        must("default-src 'self'" in policy and "object-src 'none'" in policy, f"{path} has no policy")
        must("frame-ancestors 'self'" in policy, f"{path} may be framed by other sites")


# --- injection -------------------------------------------------------------------------------------------


def harmless(what: str, reply: dict[str, object]) -> None:
    """Raise Breach if the HTML of a reply contains the hostile text as markup."""
    for place, html in dict(reply.get("html") or {}).items():  # type: ignore[call-overload]
        must(
            re.search(r"<(script|img)|onerror=harm\(\)>", str(html)) is None,
            f"{what} became markup in {place}",
        )


@trial("injection", "scripts in a story, its title, its branches, memory, note and lorebook")
def story_scripts(target: Target) -> None:
    """Check every tab that shows the story for scripts in its text."""
    tab = Tab(target)
    lore = [{"title": HOSTILE, "keywords": HOSTILE, "content": HOSTILE, "enabled": True, "constant": True}]
    tab.act("set_title", HOSTILE, text=HOSTILE)
    tab.act("fork", HOSTILE, at=5)
    for branch in range(4):
        tab.act("rename", HOSTILE, branch=branch, name=HOSTILE)
    tab.act("set_guidance", HOSTILE, memory=HOSTILE, note=HOSTILE, depth=1, unit="paragraphs", lore=lore)
    for name in ("branches", "guidance", "history", "settings", HOSTILE):
        harmless(name, tab.act("sync", HOSTILE, tab=name))
    for branch in range(4):
        harmless("compare", tab.act("compare", HOSTILE, branch=branch))


@trial("injection", "scripts and paths in the names of files, going in and coming out")
def file_names(target: Target) -> None:
    """Check that the name of a saved file has no folder, no control character and no markup."""
    tab = Tab(target)
    data = base64.b64encode(b"Once upon a time").decode()
    for name in (
        f"{HOSTILE}.txt",
        "../../etc/passwd.txt",
        "a\x00b\r\nX: 1.txt",
        "con.txt",
        "\u202etxt.exe",
        "x" * 5000 + ".txt",
    ):
        harmless(name, tab.act("import_file", name=name, data=data))
        tab.act("set_title", text=name)
        for kind in ("txt", "md", "json"):
            said, _ = tab.export(kind, "Once")
            must(
                len(said) < 256 and re.search(r"[/\\<>:\"|?*\x00-\x1f\u202e]", said) is None,
                f"{said[:60]!r} is a file name",
            )


@trial("injection", "hostile story files: markup in every field, bombs, lies about sizes")
def imports(target: Target) -> None:
    """Check that hostile files are imported as text or rejected with a message."""
    tab = Tab(target)
    tab.act("set_title", HOSTILE, text=HOSTILE)
    good = json.loads(tab.export("json", HOSTILE)[1])
    bombs: list[object] = [
        "[" * 50_000,
        "{",
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        json.dumps({"prompt": HOSTILE, "actions": [HOSTILE]}),
    ]
    for field in good:
        bombs += [
            json.dumps({**good, field: value})
            for value in (None, HOSTILE, -1, [HOSTILE], {HOSTILE: HOSTILE}, 10**40)
        ]
    for text in bombs:
        reply = tab.act("import_file", name="story.json", data=base64.b64encode(str(text).encode()).decode())
        harmless("an import", reply)
    for name in ("story.json", "story.exe", "story.zip", "story"):
        for data in (b"\x00" * 1000, b"PK\x03\x04", b"\xff" * 100, b""):
            tab.act("import_file", name=name, data=base64.b64encode(data).decode())
    must("error" in tab.act("import_file", name="a.txt", data="no base64!"), "a file that is none was taken")


@trial("injection", "scripts in what is refused")
def refusals(target: Target) -> None:
    """Check that errors repeat a hostile path only as JSON or plain text."""
    for path in (f"/{HOSTILE.replace(' ', '%20')}", "/<script>harm()</script>", "/gradio_api/call/<script>"):
        answer = target.call(path)
        must(
            "html" not in answer.headers.get("content-type", "") or "<script>harm" not in answer.text,
            f"{path} came back",
        )


# --- other users -----------------------------------------------------------------------------------------


@trial("other users", "the story of another tab, from any other session")
def other_stories(target: Target) -> None:
    """Check that guessed, empty and hostile session ids do not reach another story."""
    secret = "the butler did it 8261"
    mine = Tab(target)
    mine.act("sync", secret)
    for session in (
        "",
        "0",
        "None",
        "null",
        mine.session[:-1],
        mine.session.upper(),
        "../" + mine.session,
        "*",
        "%",
    ):
        other = Tab(target, session or " ")
        for kind in ("sync", "undo", "autosave", "export_history"):
            reply = other.act(kind, known=True)
            must(secret not in json.dumps(reply), f"the session {session!r} read it by {kind}")
    must(
        mine.export("txt", secret)[1].strip() == secret,
        "it is gone",
    )


@trial("other users", "stopping and closing what another tab writes")
def other_writing(target: Target) -> None:
    """Check that stop, close and cancel affect only their own tab."""
    mine, other = Tab(target), Tab(target)
    mine.act("sync", "mine")
    other.raw([], "stop")
    target.post("/gradio_api/cancel", {"session_hash": other.session, "fn_index": 1, "event_id": "x"})
    target.post("/gradio_api/reset", {"event_id": "x"})
    must("lost" not in mine.act("sync", "mine", known=True), "another tab has closed it")


# --- limits ----------------------------------------------------------------------------------------------


@trial("limits", "a flood of calls")
def flood(target: Target) -> None:
    """Check that a flood gets 429 with Retry-After, and other addresses are served."""
    flooding = Target(f"http://{target.host}:{target.port}", "127.0.0.77")
    flooding.function("run_command")
    answers = [flooding.post("/gradio_api/reset", {"event_id": "x"}) for _ in range(400)]
    turned_away = [answer for answer in answers if answer.status == 429]
    must(bool(turned_away), "four hundred calls in a row were all taken")
    must(all("retry-after" in answer.headers for answer in turned_away), "no retry-after header was sent")
    must(target.call("/healthz").status == 200, "others are refused")


@trial("limits", "passwords by the hundred")
def passwords(target: Target) -> None:
    """Check that only a few passwords a minute are verified."""
    guessing = Target(f"http://{target.host}:{target.port}", "127.0.0.78")
    form = ["Content-Type: application/x-www-form-urlencoded"]
    statuses = [
        guessing.call("/login", "POST", form, f"username=ann&password={number}".encode()).status
        for number in range(40)
    ]
    must(statuses.count(429) >= 25, "forty passwords could be tried")


@trial("limits", "stories and requests beyond what one may ask")
def too_much(target: Target) -> None:
    """Check that too many tokens, a negative number of tokens, and an overlong story are refused."""
    for prompt, tokens in (("A", 10**9), ("A", -1), ("x" * 1_500_000, 1)):
        data = [prompt, tokens, 0.8, 0.95, 0, 0.05, 1.05, None]
        joined = target.post("/gradio_api/call/generate", {"data": data})
        if joined.status != 200:
            must(400 <= joined.status < 500, f"{tokens} tokens were answered with {joined.status}")
            continue
        event = json.loads(joined.text)["event_id"]
        text = target.call(f"/gradio_api/call/generate/{event}").text
        must("event: error" in text and "event: generating" not in text, f"{tokens} tokens were begun")
