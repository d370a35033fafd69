"""Server: a server's address, its key or login, and the proxy to reach it through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import httpx

from jet.credentials import redact, remember
from jet.engine.remote.responses import RemoteError
from jet.proxies import Proxy, proxy_of

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)


@dataclass(frozen=True)
class Server:
    """A server's base address and the credentials that every call carries.

    Attributes:
        address: without user info, query or fragment; ends in a slash.
        query: query parameters of the given address, sent with every call.
        login: name and password from the address; None if it has none.
        key: sent as a bearer token if there is no `login`; None if there is no key.
        proxy: the proxy to connect through; None for a direct connection, as always to this machine.
    """

    address: httpx.URL
    query: Mapping[str, str] = field(repr=False)
    login: tuple[str, str] | None = field(repr=False)
    key: str | None = field(repr=False)
    proxy: Proxy | None

    @classmethod
    def read(cls, url: str, key: str | None) -> Server:
        """Parse an address from the user. Raises RemoteError, which never contains the address."""
        try:
            given = httpx.URL(url.strip())
            login = (given.username, given.password) if given.userinfo else None
            query = dict(given.params)
            bare = given.copy_with(userinfo=b"", query=None, fragment=None)
            address = bare.copy_with(path=given.path.rstrip("/") + "/")
        except (httpx.InvalidURL, ValueError, TypeError):
            raise RemoteError("The engine’s address is none: it must be like http://host:port/v1.") from None
        if address.scheme not in ("http", "https") or not address.host:
            raise RemoteError("The engine’s address must be like http://host:port/v1.")
        if login is not None:
            remember(login[1], login[0])
            remember(unquote(login[1]), unquote(login[0]))
        for value in query.values():
            remember(value)
        return cls(address, query, login, key, proxy_of(address.scheme, address.host, address.port))

    @property
    def through(self) -> str:
        """Return a sentence that names the proxy; "" without one."""
        if self.proxy is None:
            return ""
        return f" It was asked through the proxy {self.proxy.shown} of {self.proxy.variable}."

    def client(self, connect_s: float) -> httpx.AsyncClient:
        """Make an HTTP client for the server, with a timeout of `connect_s` seconds for connecting.

        Raises RemoteError if the proxy cannot be used.
        """
        bearer = {"Authorization": f"Bearer {self.key}"} if self.key and self.login is None else {}
        try:
            # With an explicit transport, httpx does not look for proxies in the environment.
            transport = httpx.AsyncHTTPTransport(
                limits=_LIMITS, proxy=None if self.proxy is None else httpx.Proxy(self.proxy.url)
            )
        except (httpx.InvalidURL, ImportError, ValueError) as error:
            proxy = self.proxy or Proxy("", "the environment", "?")
            needs = "needs the package socksio" if isinstance(error, ImportError) else "cannot be used"
            raise RemoteError(
                f"The proxy {proxy.shown} of {proxy.variable} {needs}: set another, or "
                f"NO_PROXY={self.address.host} to reach the engine’s server without one."
            ) from None
        return httpx.AsyncClient(
            base_url=self.address,
            params=dict(self.query) or None,
            headers=bearer,
            auth=self.login,
            timeout=httpx.Timeout(None, connect=connect_s),  # the engine handles other timeouts
            transport=transport,
        )


def unreachable(server: Server, error: Exception) -> str:
    """Return the message for a failed connection; it names the proxy if there is one."""
    if server.proxy is None:
        return f"The engine’s server cannot be reached: {redact(str(error)) or 'it does not answer'}."
    said = redact(str(error)) or "it does not answer"
    return (
        f"The engine’s server cannot be reached through the proxy {server.proxy.shown} of "
        f"{server.proxy.variable}: {said}. Set another, or NO_PROXY={server.address.host} to go without one."
    )
