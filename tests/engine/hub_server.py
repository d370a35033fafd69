"""A model hub with one repository, which serves checkpoints and can fail as a test wants."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.engine.http_server import serving

REPOSITORY = "ann/tiny"
COMMIT = "1" * 40
TAGGED = "2" * 40
_PART = 2**15  # bytes of a file that are sent at once


@dataclass
class HubServer:
    """Serves the files of a folder under two revisions.

    Attributes:
        refuse: (status, error code) with which every request is answered, or None.
        break_after: bytes after which the next larger file breaks off, once; None never breaks off.
        without: name of a file for which every download fails with status 503.
        asked: method and path of every request.
        ranges: Range headers of the requests.
        keys: Authorization headers of the requests, None without one.
        expired: token with which every request is refused with status 401.
        private: requests without a token are refused with status 401.
        repository: name of the repository.
        cut: the network is down: requests and downloads break off.
        held: bytes of a file at which sending pauses until this is None.
        sent: bytes of files sent so far.
    """

    folder: Path
    url: str = ""
    refuse: tuple[int, str] | None = None
    break_after: int | None = None
    without: str = ""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    expired: str = ""
    private: bool = False
    repository: str = REPOSITORY
    cut: bool = False
    held: int | None = None
    sent: int = 0

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.hub.cut:
            self._hang_up()
            return
        self.hub.asked.append(f"{self.command} {self.path}")
        key = self.headers.get("Authorization")
        self.hub.keys.add(key)
        if key is not None and key == f"Bearer {self.hub.expired}":
            said = "Invalid credentials in Authorization header"
            self._send(401, b"", {"X-Error-Message": f"{said}: {key}"})
        elif self.hub.private and key is None:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif self.hub.refuse is not None:
            status, code = self.hub.refuse
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": "as the test wants"})
        elif (
            said := re.match(rf"/api/models/{self.hub.repository}(?:/(revision|tree)/([^/?]+))?", self.path)
        ) is not None:
            self._tell(said[1], said[2] or "main")
        elif (said := re.match(rf"/{self.hub.repository}/resolve/([^/]+)/(.+)", self.path)) is not None:
            self._file(said[1], said[2])
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _commit(self, revision: str) -> str | None:
        return {"main": COMMIT, COMMIT: COMMIT, "v1": TAGGED, TAGGED: TAGGED}.get(revision)

    def _tell(self, what: str | None, revision: str) -> None:
        commit = self._commit(revision)
        if commit is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        files = self.hub.files
        if what == "tree":
            said: object = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in files.items()
            ]
        else:
            said = {
                "id": self.hub.repository,
                "sha": commit,
                "siblings": [{"rfilename": name} for name in files],
            }
        self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _file(self, revision: str, name: str) -> None:
        commit, data = self._commit(revision), self.hub.files.get(name)
        if commit is None or data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        if self.command == "GET" and name == self.hub.without:
            self._send(503, b"", {})
            return
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, data, headers)
            return
        self.hub.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206, data[start:], headers, start)

    def _send(self, status: int, body: bytes, headers: dict[str, str], begin: int = 0) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        most = self.hub.break_after
        if most is not None and len(body) > most:
            self.hub.break_after = None
            self.wfile.write(body[:most])
            self.wfile.flush()
            self._hang_up()
        else:
            self._send_in_parts(body, begin)

    def _send_in_parts(self, body: bytes, begin: int) -> None:
        for start in range(0, len(body), _PART):
            while self.hub.held is not None and begin + start >= self.hub.held and not self.hub.cut:
                time.sleep(0.005)
            if self.hub.cut:
                self._hang_up()
                return
            self.wfile.write(body[start : start + _PART])
            self.hub.sent += len(body[start : start + _PART])

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(2)


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def hub_server(folder: Path, repository: str = REPOSITORY) -> Iterator[HubServer]:
    hub = HubServer(folder, repository=repository)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with serving(handler) as hub.url:
        yield hub
