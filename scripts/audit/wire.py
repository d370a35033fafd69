"""Send HTTP as an attacker writes it: every byte as given, without normalization."""

from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 20.0


class Breach(Exception):
    """Raised when an attack succeeds; the message says how."""


@dataclass(frozen=True)
class Answer:
    """A response; its status is 0 if the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Return the body decoded as UTF-8; invalid bytes are replaced."""
        return self.body.decode("utf-8", "replace")


class Target:
    """A page that runs on this machine."""

    def __init__(self, url: str, address: str | None = None, key: str | None = None) -> None:
        """Set the target.

        Args:
            url: URL of the page.
            address: source address of the calls, 127.0.0.N; None leaves it to the system.
            key: key of the API, sent with all calls that have no `Authorization` header of their own.

        Raises:
            ValueError: if the URL is not on this machine.
        """
        parts = urlsplit(url)
        if parts.hostname is None or not socket.gethostbyname(parts.hostname).startswith("127."):
            raise ValueError(f"{url} is not on this machine, and no other is to be tried.")
        self.host, self.port = parts.hostname, parts.port or 80
        self._address, self.key = address, key
        self._page: dict[str, Any] | None = None

    def send(self, data: bytes) -> Answer:
        """Send these bytes and read the whole response."""
        source = None if self._address is None else (self._address, 0)
        with socket.create_connection((self.host, self.port), TIMEOUT_S, source) as connection:
            found = bytearray()
            try:
                connection.sendall(data)
                while not _whole(found) and (chunk := connection.recv(65_536)):
                    found += chunk
            except OSError:  # closed while sending, or timed out
                pass
        return _read(bytes(found))

    def call(
        self,
        path: str,
        method: str = "GET",
        headers: Sequence[str] = (),
        body: bytes = b"",
        host: str | None = None,
    ) -> Answer:
        """Send one request; the path is sent unchanged."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {host or f'{self.host}:{self.port}'}",
            "Connection: close",
        ]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        if self.key is not None and not any(one.lower().startswith("authorization:") for one in headers):
            lines.append(f"Authorization: Bearer {self.key}")
        head = "\r\n".join([*lines, *headers, "", ""])
        return self.send(head.encode("utf-8", "surrogateescape") + body)

    def post(self, path: str, plain: object, headers: Sequence[str] = ()) -> Answer:
        """Send a POST request with a JSON body."""
        return self.call(
            path, "POST", ["Content-Type: application/json", *headers], json.dumps(plain).encode()
        )

    def function(self, name: str) -> int:
        """Return the index of one of the page's functions."""
        if self._page is None:
            self._page = json.loads(self.call("/config").text)
        functions = {
            one["api_name"]: one["id"] for one in self._page["dependencies"] if one.get("backend_fn")
        }
        return int(functions[name])


class Tab:
    """A tab of the page that sends commands."""

    def __init__(self, target: Target, session: str | None = None, headers: Sequence[str] = ()) -> None:
        self.target = target
        self.session = session or f"audit{random.getrandbits(48):x}"
        self.headers = headers

    def act(
        self, command: str, story: str = "", tab: str = "", known: bool = False, **more: object
    ) -> dict[str, Any]:
        """Send a command and return the reply.

        Raises Breach if the server fails or does not know the command.
        """
        plain = {
            "type": command,
            "n": 1,
            "highlight": "authorship",
            "tab": tab,
            "known": known,
            "story": story,
            **more,
        }
        answer = self.raw([json.dumps(plain)])
        if answer.status != 200:
            raise Breach(f"{command} was answered with {answer.status}")
        reply: dict[str, Any] = json.loads(json.loads(answer.text)["data"][0])
        if "not known here" in reply.get("error", ""):  # a trial of a command that is gone tries nothing
            raise Breach(f"the page has no command {command}")
        return reply

    def export(self, kind: str, story: str) -> tuple[str, str]:
        """Export a story; return the file's name and text. Raises Breach if the server sends no file."""
        fields: dict[str, Any] = {"as": kind}
        reply = self.act("export", story, **fields)
        while "exporting" in reply:
            reply = self.act("export_status", story)
        if "download" not in reply:
            raise Breach(f"an export gave no file: {reply.get('error', '')}")
        return reply["download"]["name"], base64.b64decode(reply["download"]["data"]).decode()

    def raw(self, data: list[Any], function: str = "run_command") -> Answer:
        """Call the function with arbitrary data."""
        body = {"data": data, "fn_index": self.target.function(function), "session_hash": self.session}
        return self.target.post("/gradio_api/run/predict", body, self.headers)


def _whole(data: bytes | bytearray) -> bool:
    head, split, body = bytes(data).partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n")[1:]:
        if split and line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return bool(split) and body.endswith(b"0\r\n\r\n")


def _read(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Answer(status, headers, body)


def _unchunked(data: bytes) -> bytes:
    found = bytearray()
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.partition(b";")[0] or b"0", 16)
        found += data[:length]
        data = data[length + 2 :]
    return bytes(found)
