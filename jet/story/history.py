"""Undo and Redo over immutable states, bounded, and without a way to lose a state before its time."""

from __future__ import annotations

from typing import Generic, TypeVar

State = TypeVar("State")


class History(Generic[State]):
    """The present state, those before it, and those that Undo took back.

    After Undo, a new step usually throws away what was taken back. Here it is filed behind the present
    instead: Undo then goes through it, too, before it reaches older states.
    """

    def __init__(self, present: State, limit: int) -> None:
        self._limit = limit
        self.past: tuple[State, ...] = ()
        self.present = present
        self.future: tuple[State, ...] = ()  # the next to redo stands last

    def step(self, state: State) -> None:
        """A new present; Undo leads back to the old one."""
        undone = (self.present, *reversed(self.future)) if self.future else ()
        self.past = (*self.past, *undone, self.present)[-self._limit :]
        self.present, self.future = state, ()

    def replace(self, state: State) -> None:
        """A new present in place of the old one, within the same step."""
        self.present = state

    def join(self, state: State) -> bool:
        """The same; back at the state before the step, there is none left. Whether the step still stands."""
        if not self.past or self.past[-1] != state:
            self.present = state
            return True
        self.present, self.past = self.past[-1], self.past[:-1]
        return False

    def undo(self) -> bool:
        """Back by one step; whether there was one."""
        if not self.past:
            return False
        self.future = (*self.future, self.present)
        self.present, self.past = self.past[-1], self.past[:-1]
        return True

    def redo(self) -> bool:
        """Forward by one step that Undo took back; whether there was one."""
        if not self.future:
            return False
        self.past = (*self.past, self.present)
        self.present, self.future = self.future[-1], self.future[:-1]
        return True
