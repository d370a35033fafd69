"""Admission limits, for each user and for all users together.

The engine's scheduler decides how admitted stories share the device.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from jet.api import RequestError, SamplingParams

MAX_UPDATES_PER_S = 160.0  # of all stories together: an update costs the server two milliseconds
_MINUTE_S = 60.0
_MAX_USERS = 10_000  # users whose last minute is known
_TEXT_IS_SAFE = "Your text is still here."


@dataclass(frozen=True)
class Limits:
    """Admission limits. The defaults suit a private page; None means no limit.

    A user is an account or, without accounts, an address.

    Attributes:
        stories: most stories admitted at once, of all users.
        stories_per_user: most stories admitted at once, of one user.
        starts_per_minute: most stories started by one user in a minute.
        max_new_tokens: most new tokens of one request.
        characters: most characters of a story to continue.
        deadline_s: most seconds from a request to its end, waiting included.
        body_bytes: most bytes of an HTTP request's body. A story file may have 20 MB, which JSON makes
            longer.
        calls_per_second: sustained rate of calls from one address; a burst may have ten times as many.
        open_calls: most open calls from one address. A tab has three or four.
        logins_per_minute: most login attempts from one address in a minute.
    """

    stories: int | None = 256
    stories_per_user: int | None = None
    starts_per_minute: int | None = None
    max_new_tokens: int | None = None
    characters: int | None = None
    deadline_s: int | None = None
    body_bytes: int = 48_000_000
    calls_per_second: int | None = None
    open_calls: int | None = None
    logins_per_minute: int = 10


PUBLIC = Limits(
    stories=64,
    stories_per_user=2,
    starts_per_minute=30,
    max_new_tokens=2_000,
    characters=1_000_000,
    deadline_s=300,
    body_bytes=8_000_000,
    calls_per_second=20,
    open_calls=100,
)


def read_limits(base: Limits, changes: Sequence[str]) -> Limits:
    """Return `base` with changes such as "stories=8" or "deadline_s=none".

    Raises ValueError, which says why, if a change is malformed.
    """
    known = {field.name: "None" in str(field.type) for field in fields(Limits)}
    values: dict[str, int | None] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in known:
            raise ValueError(f"there is no limit {name!r}, but {', '.join(known)}")
        if value == "none" and known[name]:
            values[name] = None
        elif value.isdecimal() and int(value) > 0:
            values[name] = int(value)
        else:
            raise ValueError(f"{name} must be a whole number from 1 on{' or none' * known[name]}")
    return replace(base, **values)  # type: ignore[arg-type]


class AdmissionLimiter:
    """Admits stories within the limits. Used on the server's event loop only.

    Attributes:
        closing_reason: message for users once the server shuts down; None before.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.closing_reason: str | None = None
        self._clock = clock
        self._active: Counter[str] = Counter()
        self._starts: OrderedDict[str, deque[float]] = OrderedDict()
        self._spare_starts: OrderedDict[str, deque[float]] = OrderedDict()

    @property
    def active(self) -> int:
        """Return the number of admitted stories that have not ended."""
        return self._active.total()

    def update_interval_s(self) -> float:
        """Return the seconds between two updates of a story; they grow with the number of stories."""
        return self.active / MAX_UPDATES_PER_S

    def close(self) -> None:
        """Admit no more stories; running ones continue."""
        self.closing_reason = (
            f"The server is about to be restarted: please try again in a minute. {_TEXT_IS_SAFE}"
        )

    def check(self, text: str, sampling: SamplingParams) -> None:
        """Raise RequestError if the text or the number of new tokens is beyond the limits."""
        max_new_tokens, max_characters = self.limits.max_new_tokens, self.limits.characters
        if max_new_tokens is not None and sampling.max_new_tokens > max_new_tokens:
            raise RequestError(
                f"At most {max_new_tokens:,} new tokens at a time here, not {sampling.max_new_tokens:,}."
            )
        if max_characters is not None and len(text) > max_characters:
            raise RequestError(
                f"A story can have {max_characters:,} characters here, and this has {len(text):,}."
            )

    @contextmanager
    def admit(self, user: str) -> Iterator[None]:
        """Admit a story of a user while the context is open. Raises RequestError if a limit is reached."""
        if self.closing_reason is not None:
            raise RequestError(self.closing_reason)
        if _reached(self.active, self.limits.stories):
            raise RequestError(f"Very many stories are being written: please try again soon. {_TEXT_IS_SAFE}")
        if _reached(self._active[user], self.limits.stories_per_user):
            raise RequestError(
                f"{self._active[user]} of your stories are being written, as many as you may have at once: "
                f"please stop one or wait. {_TEXT_IS_SAFE}"
            )
        self._count_start(user, self._starts)
        self._active[user] += 1
        try:
            yield
        finally:
            self._active[user] -= 1
            if not self._active[user]:
                del self._active[user]

    def check_spare(self, user: str) -> None:
        """Check that there is room for a request that the page makes unasked, and count its start.

        Unasked requests have a limit of starts of their own, so they take none from the user's stories.
        Raises RequestError if there is no room.
        """
        if self.closing_reason is not None:
            raise RequestError(self.closing_reason)
        reached = _reached(self.active, self.limits.stories)
        if reached or _reached(self._active[user], self.limits.stories_per_user):
            raise RequestError("There is room for stories only.")
        self._count_start(user, self._spare_starts)

    def _count_start(self, user: str, of_users: OrderedDict[str, deque[float]]) -> None:
        limit = self.limits.starts_per_minute
        if limit is None:
            return
        now = self._clock()
        starts = of_users.setdefault(user, deque())
        of_users.move_to_end(user)
        if len(of_users) > _MAX_USERS:
            of_users.popitem(last=False)
        while starts and starts[0] <= now - _MINUTE_S:
            starts.popleft()
        if len(starts) >= limit:
            wait = max(1, round(starts[0] + _MINUTE_S - now))
            raise RequestError(f"That was {limit} times in a minute: please wait {wait} s. {_TEXT_IS_SAFE}")
        starts.append(now)


def _reached(number: int, limit: int | None) -> bool:
    return limit is not None and number >= limit
