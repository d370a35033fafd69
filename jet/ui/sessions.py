"""Who has the page open: one story a tab, kept while the tab is there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone

from jet.api import RequestStats
from jet.story.document import Document
from jet.ui.panel import GenerationSummary
from jet.ui.streamed_request import StreamedRequest

TabKey = tuple[str, str | None]  # the account it belongs to, if there are any, and its session

MAX_SESSIONS = 512  # tabs whose stories are in memory; a tab that was forgotten sends its own copy again
SESSION_TTL_S = 1800.0  # for so long a tab that went away may come back to its story
MAX_LOGGED_REQUESTS = 200  # requests a tab remembers

_STOP_POLLS, _STOP_POLL_S = 100, 0.05


@dataclass(frozen=True)
class FinishedRequest:
    """A request that is over, for the history."""

    model: str
    stats: RequestStats
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass
class Session:
    """One tab. Used on the server's event loop only.

    Attributes:
        document: its story.
        requests: the requests under way; more than one where several ways are written at once.
        generating: from the start of writing to its end. Nothing else may change the story then.
        stop_requested: whether the writer has asked for the end of it.
        command_number: of the order that is being carried out while `generating`.
        stopped_through: number of the latest order that the writer wants stopped, whether or not it has
            arrived.
        visible_end: where the new words ended on the sheet when it was stopped, in the browser's units; None
            if all of them stay.
        variant_selected: whether one of several ways has been put on the sheet before they ended.
        request_log: the requests that are over, oldest first.
        last_generation: the last writing, for the panel.
        cache_salt: names the tab to the engine, and nobody else can know it.
    """

    document: Document = field(default_factory=Document)
    requests: list[StreamedRequest] = field(default_factory=list)
    generating: bool = False
    stop_requested: bool = False
    command_number: int = 0
    stopped_through: int = -1
    visible_end: int | None = None
    variant_selected: bool = False
    request_log: deque[FinishedRequest] = field(default_factory=lambda: deque(maxlen=MAX_LOGGED_REQUESTS))
    last_generation: GenerationSummary | None = None
    cache_salt: str = field(default_factory=secrets.token_hex)

    def stop(self) -> None:
        """Stop whatever is being written."""
        self.stop_requested = True
        for request in self.requests:
            request.stop()

    def stop_command(self, command_number: int, visible_end: int | None = None) -> None:
        """Stop what an order has written, also if that order comes later than this; 0 means any.

        A stop that is late does not stop what was ordered after it. Of the new words, those beyond
        `visible_end` go.
        """
        self.stopped_through = max(self.stopped_through, command_number or -1)
        if self.generating and (not command_number or self.command_number <= command_number):
            self.visible_end = visible_end if self.visible_end is None else self.visible_end
            self.stop()

    async def stop_and_wait(self) -> None:
        """Stop whatever is being written, and wait until it has ended."""
        self.stop()
        for _ in range(_STOP_POLLS):
            if not self.generating:
                return
            await asyncio.sleep(_STOP_POLL_S)


class SessionStore:
    """All tabs. The longest unused one is forgotten when there are too many.

    A tab that seems closed may only have lost its connection: its story stays for `SESSION_TTL_S`, Undo and
        all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions: OrderedDict[TabKey, Session] = OrderedDict()
        self._disconnected_at: dict[TabKey, float] = {}  # when tabs went away
        self._clock = clock

    def has(self, tab: TabKey) -> bool:
        """Whether this tab's story is here: not after a restart, nor when it was forgotten."""
        self._expire()
        return tab in self._sessions

    def get(self, tab: TabKey) -> Session:
        """The visit of a tab, which begins with the first call."""
        self._expire()
        self._disconnected_at.pop(tab, None)
        session = self._sessions.setdefault(tab, Session())
        self._sessions.move_to_end(tab)
        idle = (
            other_key
            for other_key, other in self._sessions.items()
            if not other.generating and other_key != tab
        )
        if len(self._sessions) > MAX_SESSIONS and (oldest := next(idle, None)) is not None:
            self._remove(oldest)
        return session

    def disconnect(self, tab: TabKey) -> None:
        """The tab has been closed, or cannot be reached: nobody waits for what is being written there."""
        if tab in self._sessions:
            self._sessions[tab].stop()
            self._disconnected_at[tab] = self._clock()

    def _expire(self) -> None:
        """Let go of the tabs that went away long ago."""
        now = self._clock()
        for tab in [tab for tab, since in self._disconnected_at.items() if now - since > SESSION_TTL_S]:
            self._remove(tab)

    def _remove(self, tab: TabKey) -> None:
        del self._sessions[tab]
        self._disconnected_at.pop(tab, None)
