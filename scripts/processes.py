"""Start and end the processes that scripts and tests measure."""

from __future__ import annotations

import signal
import socket
import subprocess
from typing import Any

_PATIENCE_S = 60.0


def free_port() -> int:
    """Return a port of this machine that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def end(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Send a signal to a process and wait for its end; kill it after `_PATIENCE_S` seconds."""
    process.send_signal(number)
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
