"""Sessions: one for each open tab, with its story, kept in memory while the tab is open."""

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
from jet.ui.export_job import ExportJob
from jet.ui.offer import Offer
from jet.ui.panel import GenerationSummary
from jet.ui.streamed_request import StreamedRequest

TabKey = tuple[str, str | None]  # the account it belongs to, if there are any, and its session

MAX_SESSIONS = 512  # tabs whose stories are in memory; a tab that was forgotten sends its own copy again
SESSION_TTL_S = 1800.0  # for so long a tab that went away may come back to its story
MAX_LOGGED_REQUESTS = 200  # requests a tab remembers

_STOP_POLLS, _STOP_POLL_S = 100, 0.05


@dataclass(frozen=True)
class FinishedRequest:
    """A finished request, for the history."""

    model: str
    stats: RequestStats
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass
class Session:
    """One tab. Used on the server's event loop only.

    Attributes:
        document: the tab's story.
        requests: requests under way; several for variants.
        generating: whether a generation runs; until its end, nothing else changes the story.
        stop_requested: whether the writer has asked to stop.
        command_number: the number of the generating command.
        stopped_through: highest number of a stopped command, which may not have arrived yet; -1 if there is
            none.
        visible_end: UTF-16 offset at which the new text ended on the page when it was stopped; None to keep
            all.
        variant_selected: whether a variant was selected before all ended.
        request_log: finished requests, oldest first.
        last_generation: the summary of the last generation, for the panel.
        cache_salt: secret name of the tab for the engine's prefix cache.
        export: the export under way; None if there is none.
        offering: the request that generates words to offer; None if there is none.
        offer: the words that are offered; None if there are none.
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
    export: ExportJob | None = None
    offering: StreamedRequest | None = None
    offer: Offer | None = None

    def drop_offer(self) -> None:
        """Withdraw the offered words, and stop the request that generates such words."""
        offering, self.offering, self.offer = self.offering, None, None
        if offering is not None:
            offering.stop()

    def stop(self) -> None:
        """Stop the generation."""
        self.stop_requested = True
        for request in self.requests:
            request.stop()

    def stop_command(self, command_number: int, visible_end: int | None = None) -> None:
        """Stop the commands up to this number, even if they arrive later. 0 stops the one that is running.

        Commands with higher numbers go on. New text beyond the UTF-16 offset `visible_end` is dropped.
        """
        self.stopped_through = max(self.stopped_through, command_number or -1)
        if self.generating and (not command_number or self.command_number <= command_number):
            self.visible_end = visible_end if self.visible_end is None else self.visible_end
            self.stop()

    async def stop_and_wait(self) -> None:
        """Stop the generation and wait until it has ended, for at most 5 seconds."""
        self.stop()
        for _ in range(_STOP_POLLS):
            if not self.generating:
                return
            await asyncio.sleep(_STOP_POLL_S)


class SessionStore:
    """All sessions. Evicts the least recently used one if there are too many.

    A tab that seems closed may only have lost its connection, so its story and Undo are kept for
    `SESSION_TTL_S` seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions: OrderedDict[TabKey, Session] = OrderedDict()
        self._disconnected_at: dict[TabKey, float] = {}  # when tabs went away
        self._clock = clock

    def has(self, tab: TabKey) -> bool:
        """Return whether a tab's story is in memory. It is not after a restart or an eviction."""
        self._expire()
        return tab in self._sessions

    def get(self, tab: TabKey) -> Session:
        """Return the session of a tab; the first call creates it."""
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
        """Note that a tab is closed or unreachable, and stop its generation."""
        if tab in self._sessions:
            self._sessions[tab].stop()
            self._sessions[tab].drop_offer()
            self._disconnected_at[tab] = self._clock()

    def _expire(self) -> None:
        """Remove sessions that were disconnected long ago."""
        now = self._clock()
        for tab in [tab for tab, since in self._disconnected_at.items() if now - since > SESSION_TTL_S]:
            self._remove(tab)

    def _remove(self, tab: TabKey) -> None:
        del self._sessions[tab]
        self._disconnected_at.pop(tab, None)
