"""Give each connection a secret name, so that its requests may share cached prefixes.

ASGI does not identify connections. uvicorn's `receive` is a bound method of an object that knows the
transport, and each transport gets a name. Under other servers, connections have no names and share no
prefixes.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from jet.server.middleware import App, Receive, Scope, Send
from jet.server.openai.ids import secret_name

_NAME = "jet.connection"


class NameConnections:
    """ASGI middleware that adds the connection's name to the scope.

    It must come before any middleware that replaces `receive`.
    """

    def __init__(self, app: App, shared: bool = True) -> None:
        """Wrap an ASGI app.

        `shared`: whether connections get names. It must be False behind a proxy, whose connections carry the
        requests of several clients.
        """
        self._app = app
        self._names: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._named = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the connection's name to the scope of one call, and pass the call on."""
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if self._named and scope["type"] == "http" and transport is not None:
            try:
                name = self._names.get(transport) or secret_name()
                self._names[transport] = name
            except TypeError:  # no weak references to it
                name = ""
            scope[_NAME] = name
        await self._app(scope, receive, send)


def connection_of(scope: Scope) -> str:
    """Return the name of a call's connection; "" if it has none."""
    return str(scope.get(_NAME, ""))
