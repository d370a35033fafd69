"""Read streams of /v1/completions over sockets in a separate process, at little cost per token.

`python -m scripts.load.stream_client URL` reads lines "STREAMS TOKENS" from its standard input. It answers
each of them with a line of JSON: the seconds of all streams, and for each stream the seconds to its first
frame.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Once upon a time, on a hill by the sea, "


class StreamClient:
    """The client process, driven by its parent."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, streams: int, tokens: int) -> tuple[float, list[float]]:
        """Read `streams` streams of `tokens` tokens side by side.

        Returns the seconds that all of them took, and for each stream the seconds to its first frame.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        print(streams, tokens, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["seconds"], answer["firsts"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class _Connection:
    """A connection to the server that is kept open for several streams."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        self._lines = self._socket.makefile("rb")

    def stream(self, seed: int, tokens: int) -> float:
        """Read one stream; return the seconds to its first frame. Raises ValueError if tokens are missing."""
        body = {"prompt": PROMPT, "max_tokens": tokens, "seed": seed, "stream": True, "ignore_eos": True}
        body["stream_options"] = {"include_usage": True}
        data = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        started, first, last = time.perf_counter(), 0.0, b""
        self._socket.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        for line in iter(self._lines.readline, b"0\r\n"):  # the last chunk
            if not line:
                raise ValueError("The connection was closed.")
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - started
                last = line
        self._lines.readline()
        if (written := json.loads(last[6:])["usage"]["completion_tokens"]) != tokens:
            raise ValueError(f"{written} tokens came, not {tokens}.")
        return first


def main(url: str) -> None:
    """Answer lines of the standard input until it ends."""
    connections: list[_Connection] = []
    with ThreadPoolExecutor(256) as pool:
        for line in sys.stdin:
            streams, tokens = map(int, line.split())
            connections += [_Connection(url) for _ in range(streams - len(connections))]
            started = time.perf_counter()
            running = [pool.submit(connections[n].stream, n, tokens) for n in range(streams)]
            firsts = [one.result() for one in running]
            print(json.dumps({"seconds": time.perf_counter() - started, "firsts": firsts}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
