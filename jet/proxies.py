"""Use the proxies in the environment for all calls except those to this machine.

urllib and httpx read http_proxy, https_proxy, all_proxy and no_proxy, in lower or upper case. Without
no_proxy, they send calls to localhost through the proxy, too, where "localhost" is another machine.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from jet.credentials import redact, remember

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_KINDS = ("http", "https", "all")

_set_aside: dict[str, tuple[str, str]] = {}  # kind → variable and URL of a proxy that httpx cannot use


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names.

    Attributes:
        url: the proxy's URL, with name and password; not in the repr.
        variable: the environment variable that names it.
        shown: the redacted URL, for messages.
    """

    url: str
    variable: str
    shown: str

    @property
    def trouble(self) -> str:
        """Return why the proxy cannot be used; "" if it can."""
        return _trouble(self.url)

    def __repr__(self) -> str:
        return f"Proxy({self.shown!r}, from {self.variable})"


def is_loopback(host: str) -> bool:
    """Return True if a host name or address, with or without brackets, always means this machine."""
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
    """Return the proxy for calls to a host; None if they connect directly."""
    bare = host.strip("[]")
    if is_loopback(bare) or proxy_bypass(bare) or (port is not None and proxy_bypass(f"{bare}:{port}")):
        return None
    named = {kind: url for kind, (_, url) in _set_aside.items()} | getproxies()
    kind = next((kind for kind in (scheme, "all") if named.get(kind)), None)
    if kind is None:
        return None
    url = _with_scheme(named[kind])
    _, at, where = url.partition("://")[2].rpartition("@")
    if at:
        user, _, password = url.partition("://")[2].rpartition("@")[0].partition(":")
        remember(password, user)
        remember(unquote(password), unquote(user))
    shown = redact(f"{url.partition('://')[0]}://{where.partition('/')[0]}")
    return Proxy(url, _variable(kind), shown)


def proxy_of_url(url: str) -> Proxy | None:
    """Return the proxy for calls to a URL; None if they connect directly, or the URL is invalid."""
    try:
        parts = urlsplit(url)
        return proxy_of(parts.scheme, parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None


def prepare_environment(*hosts: str | None) -> None:
    """Change the environment so that all libraries reach this machine without a proxy. Call it before Gradio.

    Gradio calls its own page at the start, its MCP tools call the page, and the hub's library may use a
    mirror here. So the names of this machine, and those of `hosts` that are loopback, are added to no_proxy.
    Other hosts keep their proxy.

    httpx, which Gradio uses on import, refuses every call if the environment has a proxy that it cannot use,
    or a no_proxy entry that it cannot parse. So a proxy that httpx cannot use is removed from the
    environment; `proxy_of` still returns the proxy, with the reason as its `trouble`. An entry of no_proxy
    that httpx cannot parse is rewritten or removed.
    """
    _set_unusable_aside()
    given = [host.strip() for host in getproxies().get("no", "").split(",") if host.strip()]
    if "*" in given:
        return
    known = [host for entry in given if (host := _readable(entry)) is not None]
    own = [host.strip("[]") for host in hosts if host and is_loopback(host)]
    missing = [host for host in dict.fromkeys([*_LOOPBACK, *own]) if host not in known]
    if missing or known != given:
        # Both cases: urllib prefers the lower one, other libraries read only one of them.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join([*known, *missing])


def _set_unusable_aside() -> None:
    for kind, url in getproxies().items():
        if kind in _KINDS and _trouble(_with_scheme(url)):
            _set_aside[kind] = _variable(kind), url
            for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
                os.environ.pop(name, None)


def _trouble(url: str) -> str:
    """Return why httpx cannot use the URL of a proxy; "" if it can."""
    try:
        proxy = httpx.Proxy(url)
    except (httpx.InvalidURL, ValueError):
        return "cannot be used"
    lacks = proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None
    return "needs the package socksio" if lacks else ""


def _readable(entry: str) -> str | None:
    """Rewrite an entry of no_proxy so that httpx can parse it.

    Returns None if httpx cannot parse the entry in any form, such as an IPv6 network.
    """
    if entry.startswith("["):  # an IPv6 address, maybe with a port
        entry = entry[1:].partition("]")[0]
    try:
        if "://" in entry:
            httpx.URL(entry)
        elif entry.count(":") > 1:
            ipaddress.IPv6Address(entry)
        else:
            httpx.URL(f"all://*{entry}")
    except (httpx.InvalidURL, ValueError):
        return None
    return entry


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _variable(kind: str) -> str:
    name = f"{kind}_proxy"
    if kind in _set_aside and not (os.environ.get(name) or os.environ.get(name.upper())):
        return _set_aside[kind][0]
    return next((one for one in (name, name.upper()) if os.environ.get(one)), name)
