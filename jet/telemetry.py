"""Meters for the live panel, computed from timestamps that callers pass; without clock or torch."""

from __future__ import annotations

from collections import deque


class RateMeter:
    """Measures events per second over the last `window_s` seconds, but over two events at least."""

    def __init__(self, window_s: float = 1.0) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque()

    def tick(self, now: float) -> None:
        """Record an event at `now`, in seconds of any monotonic clock."""
        self._times.append(now)
        while len(self._times) > 2 and self._times[0] < now - self._window_s:
            self._times.popleft()

    @property
    def rate(self) -> float | None:
        """Return events per second; None before the second event."""
        return _per_second(len(self._times) - 1, self._times[-1] - self._times[0]) if self._times else None


class DecodeMeter:
    """Measures the speed of one request: time to first token, and decode rate."""

    def __init__(self, submitted: float) -> None:
        self._submitted = submitted
        self._first: float | None = None
        self._last = submitted
        self._recent = RateMeter()
        self.tokens = 0

    def tick(self, now: float) -> None:
        """Record a token at `now`, in seconds."""
        if self._first is None:
            self._first = now
        self._last = now
        self._recent.tick(now)
        self.tokens += 1

    @property
    def time_to_first_token_s(self) -> float | None:
        """Return the seconds from submission to the first token, queueing and prefill included.

        Returns None before the first token.
        """
        return None if self._first is None else self._first - self._submitted

    @property
    def tokens_per_second(self) -> float | None:
        """Return the decode rate over about the last second; None before the second token."""
        return self._recent.rate

    @property
    def mean_tokens_per_second(self) -> float | None:
        """Return the decode rate from the first token to the last; None before the second token."""
        return None if self._first is None else _per_second(self.tokens - 1, self._last - self._first)


class Throttle:
    """Limits how often something costly is done: at most once every `interval_s` seconds."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next: float | None = None

    def ready(self, now: float) -> bool:
        """Return whether the interval is over at `now`, in seconds. If it is, start the next interval."""
        if self._next is not None and now < self._next:
            return False
        self._next = now + self._interval_s
        return True


def _per_second(events: int, seconds: float) -> float | None:
    return events / seconds if events > 0 and seconds > 0 else None
