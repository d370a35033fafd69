"""Sessions: which beginning of whose story is resident, so that nobody reads it again.

A resident state has read certain tokens of a certain user. A request starts from the longest one whose
tokens are the beginning of its own, all compared, none hashed. What one user wrote is never found by another:
whether a text had been read before would show in the time to the first token.

There are two tiers: what lies where it is used, and what had to make room there and was offloaded. In each
the least recently used goes first, from the first tier to the second and from there away. States in the midst
of a longer one go before all others and are not offloaded: they only make an edit cheaper, and a long story
has dozens.

What a state is, and what it costs, only its owner knows. Here stand their tokens, and the order in which they
were used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from jet.token_ids import Tokens

State = TypeVar("State")
Key = TypeVar("Key")


@dataclass(eq=False)
class Resident(Generic[State]):
    """A state that has read `tokens`.

    Attributes:
        complete: whether what comes next is known, so that not even the last token has to be read again.
        origin: who has made it; states of a request that turned out to be broken can so be forgotten.
        pins: how many need it just now; it stays where it is while there are any.
        offloaded: whether it is in the second tier.
    """

    user: str
    tokens: Tokens
    state: State
    complete: bool
    origin: object
    pins: int = 0
    offloaded: bool = False


class Sessions(Generic[State]):
    """Resident states by user, and which of them was not used for longest."""

    def __init__(
        self,
        discard: Callable[[State], None],
        offload: Callable[[State], State | None] = lambda state: None,
    ) -> None:
        """`discard` frees what a state occupies; called for each that is let go, or lies elsewhere now.

        `offload` makes a copy for the second tier; None if there is no room even after `evict_offloaded`.
        """
        self._discard, self._offload = discard, offload
        self._users: dict[str, list[Resident[State]]] = {}  # each user's, the longest first
        self._origins: dict[int, list[Resident[State]]] = {}  # by the id of whoever has made them
        self._near: OrderedDict[Resident[State], None] = OrderedDict()  # the first tier, by use
        self._far: OrderedDict[Resident[State], None] = OrderedDict()  # the second

    def __len__(self) -> int:
        return len(self._near) + len(self._far)

    @property
    def offloaded(self) -> int:
        """How many are in the second tier."""
        return len(self._far)

    def find(self, user: str, tokens: Tokens, near: bool = False) -> Resident[State] | None:
        """The longest that a story of these tokens can start from; it then counts as used.

        `near`: only of those in the first tier.
        """
        for resident in self._users.get(user, ()):
            length = len(resident.tokens)
            left = len(tokens) - length
            enough = left > 0 or (left == 0 and resident.complete)
            able = enough and not (near and resident.offloaded)
            if able and np.array_equal(resident.tokens, tokens[:length]):
                self._tier(resident).move_to_end(resident)
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
        self._origins.setdefault(id(resident.origin), []).append(resident)
        self._near[resident] = None

    def evict(self) -> bool:
        """Let go of one in the midst of another, else offload one; False if none can go."""
        midway = self._midway()
        if midway is not None:
            self.forget(midway)
            return True
        resident = _first_free(self._near)
        if resident is None:
            return False
        copy = self._offload(resident.state)
        if copy is None:
            self.forget(resident)
        else:
            self._move(resident, copy, offloaded=True)
        return True

    def evict_offloaded(self) -> bool:
        """Let go of the one in the second tier that was not used for longest; False if there is none."""
        resident = _first_free(self._far)
        if resident is None:
            return False
        self.forget(resident)
        return True

    def bring_back(self, resident: Resident[State], state: State) -> None:
        """What was offloaded is in the first tier again, as this state."""
        self._move(resident, state, offloaded=False)

    def forget(self, resident: Resident[State]) -> None:
        """Let go of a state; nothing happens if that has been done."""
        tier = self._tier(resident)
        if resident in tier:
            del tier[resident]
            _remove(self._users, resident.user, resident)
            _remove(self._origins, id(resident.origin), resident)
            self._discard(resident.state)

    def forget_origin(self, origin: object) -> None:
        """Let go of all that a request has left."""
        for resident in self._of(origin):
            self.forget(resident)

    def thin(self, origin: object, most: int) -> None:
        """Leave a request no more than so many states, the closer together the nearer they are to its end.

        Its longest one stays, and those whose next token is known.
        """
        mine = sorted(self._of(origin), key=lambda one: len(one.tokens))
        if len(mine) <= most:
            return
        lengths = [0, *(len(one.tokens) for one in mine)]

        def loss(place: int) -> float:
            """How far it would be to the state before, in relation to how far back that is."""
            return (lengths[place + 2] - lengths[place]) / (lengths[-1] - lengths[place + 1] + 1)

        free = [place for place, one in enumerate(mine[:-1]) if not one.complete and not one.pins]
        if free:
            self.forget(mine[min(free, key=loss)])

    def _midway(self) -> Resident[State] | None:
        """Of those whose request has left a longer one, and whose next token nobody may want to draw again,
        the one in the first tier that was not used for longest.
        """
        free = (one for one in self._near if not one.pins and not one.complete)
        return next((one for one in free if len(one.tokens) < self._longest(one.origin)), None)

    def _longest(self, origin: object) -> int:
        return max(len(one.tokens) for one in self._of(origin))

    def _of(self, origin: object) -> list[Resident[State]]:
        return list(self._origins.get(id(origin), ()))

    def _tier(self, resident: Resident[State]) -> OrderedDict[Resident[State], None]:
        return self._far if resident.offloaded else self._near

    def _move(self, resident: Resident[State], state: State, offloaded: bool) -> None:
        """To the other tier, where it counts as used just now."""
        del self._tier(resident)[resident]
        before, resident.state, resident.offloaded = resident.state, state, offloaded
        self._tier(resident)[resident] = None
        self._discard(before)


def _remove(lists: dict[Key, list[Resident[State]]], key: Key, resident: Resident[State]) -> None:
    """Take it from its list, and away with a list that is empty."""
    lists[key].remove(resident)
    if not lists[key]:
        del lists[key]


def _first_free(tier: OrderedDict[Resident[State], None]) -> Resident[State] | None:
    return next((resident for resident in tier if not resident.pins), None)
