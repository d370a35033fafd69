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
from jet.ui.panel import Written
from jet.ui.streamed_request import Writing

Tab = tuple[str, str | None]  # the account it belongs to, if there are any, and its session

MAX_VISITS = 512  # tabs whose stories are in memory; a tab that was forgotten sends its own copy again
KEPT_S = 1800.0  # for so long a tab that went away may come back to its story
MAX_LOG = 200  # requests a tab remembers

_REST_POLLS, _REST_POLL_S = 100, 0.05


@dataclass(frozen=True)
class Finished:
    """A request that is over, for the history."""

    model: str
    stats: RequestStats
    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass
class Visit:
    """One tab. Used on the server's event loop only.

    Attributes:
        document: its story.
        writings: the requests under way; more than one where several ways are written at once.
        busy: from the start of writing to its end. Nothing else may change the story then.
        stopped: whether the writer has asked for the end of it.
        number: of the order that is being carried out while `busy`.
        unwanted: number of the latest order that the writer wants stopped, whether or not it has arrived.
        seen: where the new words ended on the sheet when it was stopped, in the browser's units; None if all
            of them stay.
        picked: whether one of several ways has been put on the sheet before they ended.
        log: the requests that are over, oldest first.
        written: the last writing, for the panel.
        key: names the tab to the engine, and nobody else can know it.
    """

    document: Document = field(default_factory=Document)
    writings: list[Writing] = field(default_factory=list)
    busy: bool = False
    stopped: bool = False
    number: int = 0
    unwanted: int = -1
    seen: int | None = None
    picked: bool = False
    log: deque[Finished] = field(default_factory=lambda: deque(maxlen=MAX_LOG))
    written: Written | None = None
    key: str = field(default_factory=secrets.token_hex)

    def stop(self) -> None:
        """Stop whatever is being written."""
        self.stopped = True
        for writing in self.writings:
            writing.stop()

    def stop_order(self, number: int, seen: int | None = None) -> None:
        """Stop what an order has written, also if that order comes later than this; 0 means any.

        A stop that is late does not stop what was ordered after it. Of the new words, those beyond `seen` go.
        """
        self.unwanted = max(self.unwanted, number or -1)
        if self.busy and (not number or self.number <= number):
            self.seen = seen if self.seen is None else self.seen
            self.stop()

    async def rest(self) -> None:
        """Stop whatever is being written, and wait until it has ended."""
        self.stop()
        for _ in range(_REST_POLLS):
            if not self.busy:
                return
            await asyncio.sleep(_REST_POLL_S)


class Visits:
    """All tabs. The longest unused one is forgotten when there are too many.

    A tab that seems closed may only have lost its connection: its story stays for `KEPT_S`, Undo and all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._visits: OrderedDict[Tab, Visit] = OrderedDict()
        self._left: dict[Tab, float] = {}  # when tabs went away
        self._clock = clock

    def known(self, tab: Tab) -> bool:
        """Whether this tab's story is here: not after a restart, nor when it was forgotten."""
        self._forget()
        return tab in self._visits

    def of(self, tab: Tab) -> Visit:
        """The visit of a tab, which begins with the first call."""
        self._forget()
        self._left.pop(tab, None)
        visit = self._visits.setdefault(tab, Visit())
        self._visits.move_to_end(tab)
        idle = (key for key, other in self._visits.items() if not other.busy and key != tab)
        if len(self._visits) > MAX_VISITS and (oldest := next(idle, None)) is not None:
            self._drop(oldest)
        return visit

    def leave(self, tab: Tab) -> None:
        """The tab has been closed, or cannot be reached: nobody waits for what is being written there."""
        if tab in self._visits:
            self._visits[tab].stop()
            self._left[tab] = self._clock()

    def _forget(self) -> None:
        """Let go of the tabs that went away long ago."""
        now = self._clock()
        for tab in [tab for tab, since in self._left.items() if now - since > KEPT_S]:
            self._drop(tab)

    def _drop(self, tab: Tab) -> None:
        del self._visits[tab]
        self._left.pop(tab, None)
