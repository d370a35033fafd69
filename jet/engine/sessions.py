"""Sessions: which beginning of whose story is resident, so that nobody reads it again.

A resident state has read certain tokens of a certain user. A request starts from the longest one whose
tokens are the beginning of its own, all compared, none hashed. What one user wrote is never found by another:
whether a text had been read before would show in the time to the first token.

What a state is, and what it costs, only its owner knows. Here stand their tokens, and the order in which they
were used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

State = TypeVar("State")
Tokens = npt.NDArray[np.int32]


@dataclass(eq=False)
class Resident(Generic[State]):
    """A state that has read `tokens`.

    Attributes:
        complete: whether what comes next is known, so that not even the last token has to be read again.
        origin: who has made it; states of a request that turned out to be broken can so be forgotten.
        pins: how many need it just now; it is not let go while there are any.
    """

    user: str
    tokens: Tokens
    state: State
    complete: bool
    origin: object
    pins: int = 0


class Sessions(Generic[State]):
    """Resident states by user, and which of them was not used for longest."""

    def __init__(self, discard: Callable[[State], None]) -> None:
        """`discard` frees what a state occupies; called for each that is let go."""
        self._discard = discard
        self._users: dict[str, list[Resident[State]]] = {}  # each user's, the longest first
        self._by_use: OrderedDict[Resident[State], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_use)

    def find(self, user: str, tokens: Tokens) -> Resident[State] | None:
        """The longest that a story of these tokens can start from; it then counts as used."""
        for resident in self._users.get(user, ()):
            length = len(resident.tokens)
            left = len(tokens) - length
            enough = left > 0 or (left == 0 and resident.complete)
            if enough and np.array_equal(resident.tokens, tokens[:length]):
                self._by_use.move_to_end(resident)
                return resident
        return None

    def keep(self, resident: Resident[State]) -> None:
        """Remember a state. One of the same user and tokens goes for it, unless it is needed just now."""
        same = [
            other
            for other in self._users.get(resident.user, ())
            if not other.pins and np.array_equal(other.tokens, resident.tokens)
        ]
        for other in same:
            self.forget(other)
        mine = self._users.setdefault(resident.user, [])
        mine.append(resident)
        mine.sort(key=lambda one: -len(one.tokens))
        self._by_use[resident] = None

    def evict(self) -> bool:
        """Let go of the one that was not used for longest; False if there is none that can go."""
        for resident in self._by_use:
            if not resident.pins:
                self.forget(resident)
                return True
        return False

    def forget(self, resident: Resident[State]) -> None:
        """Let go of a state; nothing happens if that has been done."""
        if resident in self._by_use:
            del self._by_use[resident]
            self._users[resident.user].remove(resident)
            if not self._users[resident.user]:
                del self._users[resident.user]
            self._discard(resident.state)

    def forget_origin(self, origin: object) -> None:
        """Let go of all that a request has left."""
        for resident in [one for one in self._by_use if one.origin is origin]:
            self.forget(resident)

    def thin(self, origin: object, most: int) -> None:
        """Leave a request no more than so many states, the closer together the nearer they are to its end.

        Its longest one stays, and those whose next token is known.
        """
        mine = sorted((one for one in self._by_use if one.origin is origin), key=lambda one: len(one.tokens))
        if len(mine) <= most:
            return
        lengths = [0, *(len(one.tokens) for one in mine)]

        def loss(place: int) -> float:
            """How far it would be to the state before, in relation to how far back that is."""
            return (lengths[place + 2] - lengths[place]) / (lengths[-1] - lengths[place + 1] + 1)

        free = [place for place, one in enumerate(mine[:-1]) if not one.complete and not one.pins]
        if free:
            self.forget(mine[min(free, key=loss)])
