"""Listen on an address, and explain why that fails."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable

_BACKLOG = 2048
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # of an address that a name has and this machine lacks


class AddressError(OSError):
    """The page cannot be opened on this host and port. The message says why."""


def listen(host: str | None, port: int | None) -> list[socket.socket]:
    """Listen on each address of a host; return the listening sockets, which hold the port.

    Args:
        host: a name or address, also an IPv6 address in brackets; None for this machine only.
        port: None takes the first free port of Gradio's range, by default 7860 to 7959.

    Raises AddressError.
    """
    from gradio import http_server  # takes seconds, and `check_address` does without

    host = (host or http_server.LOCALHOST_NAME).strip("[]")
    first = http_server.INITIAL_PORT_VALUE
    ports = [port] if port is not None else range(first, first + http_server.TRY_NUM_PORTS)
    for wanted in ports:
        try:
            return _listen_on(host, wanted)
        except OSError as error:  # noqa: PERF203 - one is nearly always enough
            if port is not None or error.errno != errno.EADDRINUSE:
                raise AddressError(explain(error, host, port)) from error
    raise AddressError(
        f"The page cannot be opened: all ports from {first} to {ports[-1]} are in use ({host})."
    )


def check_address(host: str | None, port: int | None) -> None:
    """Check that a server could listen on the host and port; raise AddressError otherwise.

    A port of None stands for any port.
    """
    try:
        close(_listen_on((host or "127.0.0.1").strip("[]"), port or 0))
    except OSError as error:
        raise AddressError(explain(error, host, port)) from error


def close(listening: Iterable[socket.socket]) -> None:
    """Close listening sockets, which frees their ports."""
    for one in listening:
        one.close()


def explain(error: OSError, host: str | None, port: int | None) -> str:
    """Return a sentence for the user that says why the page cannot be opened."""
    where = f"port {port} of {host or '127.0.0.1'}" if port else host or "127.0.0.1"
    known = error.errno and not isinstance(error, socket.gaierror)  # whose numbers are others
    reason = os.strerror(error.errno or 0) if known else error.strerror or error
    return f"The page cannot be opened: {reason} ({where})."


def _listen_on(host: str, port: int) -> list[socket.socket]:
    """Listen on one port, at every address of `host` that this machine has. Raises OSError."""
    found: list[socket.socket] = []
    absent: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            place = (address[0], port, *address[2:])
            found.append(socket.create_server(place, family=family, backlog=_BACKLOG))
        except OSError as error:  # noqa: PERF203 - one or two
            if error.errno not in _ABSENT:
                close(found)
                raise
            absent = error
    if not found and absent is not None:
        raise absent
    return found
