"""Check that the server can listen on an address, and explain why it cannot."""

from __future__ import annotations

import errno
import os
import socket

from gradio import http_server


class AddressError(OSError):
    """The page cannot be opened on this host and port. The message says why."""


def check_address(host: str | None, port: int | None) -> None:
    """Raise AddressError unless the host, and the port if given, can be listened on.

    Gradio would try a hundred ports on a host that is not this machine, for minutes, without a reason.
    """
    try:
        _try_to_listen(host, port or 0)
    except OSError as error:
        raise AddressError(_describe(error, host, port)) from error


def explain(error: OSError, host: str | None, port: int | None) -> str:
    """Return the actual reason for Gradio's error, whose message always says that no empty port was found."""
    if not str(error).startswith("Cannot find empty port"):
        return _describe(error, host, port)
    first = http_server.INITIAL_PORT_VALUE if port is None else port
    # Gradio looks on its own host, whatever host it is to listen on.
    for where in dict.fromkeys([host, http_server.LOCALHOST_NAME]):
        try:
            _try_to_listen(where, first)
        except OSError as found:  # noqa: PERF203 - two of them
            if port is None and found.errno == errno.EADDRINUSE:
                last = first + http_server.TRY_NUM_PORTS - 1
                return f"The page cannot be opened: all ports from {first} to {last} are in use."
            return _describe(found, where, first)
    return f"The page cannot be opened: port {first} was in use a moment ago."


def _try_to_listen(host: str | None, port: int) -> None:
    name = host.strip("[]") if host else "127.0.0.1"
    family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
    socket.create_server((address[0], port, *address[2:]), family=family).close()


def _describe(error: OSError, host: str | None, port: int | None) -> str:
    where = f"port {port} of {host or '127.0.0.1'}" if port else host or "127.0.0.1"
    known = error.errno and not isinstance(error, socket.gaierror)  # whose numbers are others
    reason = os.strerror(error.errno or 0) if known else error.strerror or error
    return f"The page cannot be opened: {reason} ({where})."
