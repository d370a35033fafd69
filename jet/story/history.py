"""Bounded Undo and Redo over immutable states."""

from __future__ import annotations

from typing import Generic, TypeVar

State = TypeVar("State")


class History(Generic[State]):
    """The present state, past states, and undone states.

    A new step after Undo usually discards the undone states. Here they become past states instead, so that
    Undo passes through them before it reaches older states.
    """

    def __init__(self, present: State, limit: int) -> None:
        self._limit = limit
        self.past: tuple[State, ...] = ()
        self.present = present
        self.future: tuple[State, ...] = ()  # the next to redo stands last

    def step(self, state: State) -> None:
        """Make `state` the present; Undo leads back to the old one."""
        undone = (self.present, *reversed(self.future)) if self.future else ()
        self.past = (*self.past, *undone, self.present)[-self._limit :]
        self.present, self.future = state, ()

    def replace(self, state: State) -> None:
        """Replace the present state within the same step."""
        self.present = state

    def join(self, state: State) -> bool:
        """Replace the present state; if it then equals the state before the step, remove the step.

        Returns whether the step still exists.
        """
        if not self.past or self.past[-1] != state:
            self.present = state
            return True
        self.present, self.past = self.past[-1], self.past[:-1]
        return False

    def undo(self) -> bool:
        """Go back one step. Return whether there was a step."""
        if not self.past:
            return False
        self.future = (*self.future, self.present)
        self.present, self.past = self.past[-1], self.past[:-1]
        return True

    def redo(self) -> bool:
        """Go forward one undone step. Return whether there was a step."""
        if not self.future:
            return False
        self.past = (*self.past, self.present)
        self.present, self.future = self.future[-1], self.future[:-1]
        return True
