"""Run the page over the stand-in engine in a separate process, which can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ui.served import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE_S = 90.0  # imports take their time on a busy machine


class Process:
    """A server on a fixed port that can be killed, paused and restarted.

    Attributes:
        url: URL of the page.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        with socket.create_server((host, 0)) as free:
            self._port = free.getsockname()[1]
        self._host = host
        self.url = f"http://{host}:{self._port}/"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start the server without waiting."""
        command = [sys.executable, "-m", "tests.ui.process", self._host, str(self._port)]
        self._process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"no_proxy": "*"})

    def wait(self) -> None:
        """Wait until the server answers."""
        wait_until(self._answers, PATIENCE_S)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def hold(self) -> None:
        """Pause the process; its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Resume the process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def process() -> Iterator[Process]:
    """Run a server until the block is left."""
    server = Process()
    server.start()
    try:
        yield server
    finally:
        server.kill()


def main(host: str, port: int) -> None:
    """Serve until killed."""
    from jet.ui.page import build, launch
    from tests.ui.stand_in import StandInSource

    source = StandInSource()
    source.stand_in.tokens_per_second = 20.0
    launch(build(source), host, port)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
