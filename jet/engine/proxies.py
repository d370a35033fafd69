"""Which calls of this process go through a proxy: those that the environment says, but none to this machine.

urllib and httpx read http_proxy, https_proxy, all_proxy and no_proxy, in either case. Without no_proxy they
ask the proxy for localhost, too, where it finds itself or nothing.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from jet.engine.credentials import redact, remember

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names.

    Attributes:
        url: as it is to be connected to, with its name and password. Not in the repr.
        variable: what names it.
        shown: where it is, for messages.
    """

    url: str
    variable: str
    shown: str

    def __repr__(self) -> str:
        return f"Proxy({self.shown!r}, from {self.variable})"


def is_loopback(host: str) -> bool:
    """Whether a host, with or without brackets, is this machine by a name that leaves it never."""
    name = host.strip("[]").partition("%")[0].rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified  # connecting to 0.0.0.0 reaches this machine


def proxy_of(scheme: str, host: str, port: int | None = None) -> Proxy | None:
    """The proxy that calls to a host go through; None if they go there directly."""
    bare = host.strip("[]")
    if is_loopback(bare) or proxy_bypass(bare) or (port is not None and proxy_bypass(f"{bare}:{port}")):
        return None
    named = getproxies()
    kind = next((kind for kind in (scheme, "all") if named.get(kind)), None)
    if kind is None:
        return None
    url = named[kind] if "://" in named[kind] else f"http://{named[kind]}"
    _, at, where = url.partition("://")[2].rpartition("@")
    if at:
        user, _, password = url.partition("://")[2].rpartition("@")[0].partition(":")
        remember(password, user)
        remember(unquote(password), unquote(user))
    shown = redact(f"{url.partition('://')[0]}://{where.partition('/')[0]}")
    return Proxy(url, _variable(kind), shown)


def proxy_of_url(url: str) -> Proxy | None:
    """The same for an address; None for one that is none."""
    try:
        parts = urlsplit(url)
        return proxy_of(parts.scheme, parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


def keep_loopback_direct(*hosts: str | None) -> None:
    """Add this machine's names to no_proxy, and those of `hosts` that are its own.

    For libraries that read the environment themselves: Gradio asks its own page whether it is there, its MCP
    tools call the page, and the hub's library may be pointed at a mirror here. Other hosts keep their proxy.
    """
    known = [host.strip() for host in getproxies().get("no", "").split(",") if host.strip()]
    if "*" in known:
        return
    own = [host.strip("[]") for host in hosts if host and is_loopback(host)]
    missing = [host for host in dict.fromkeys([*_LOOPBACK, *own]) if host not in known]
    if missing:
        # Both: urllib prefers the lower case, other libraries know only one of them.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*known, *missing])


def _variable(kind: str) -> str:
    name = f"{kind}_proxy"
    return next((one for one in (name, name.upper()) if os.environ.get(one)), name)
