"""The Models part of the page: lists the models that this machine can run, and changes the model.

A change applies to all tabs.
"""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import Any

from jet import hardware
from jet.engine.catalog import Catalog, Form, Machine, gigabytes
from jet.engine.holder import EngineHandle, ModelHandle
from jet.engine.loading import LocalConfig
from jet.engine.model_switch import CHOICE_ERRORS, ModelSwitch, describe
from jet.hardware import HardwareError
from jet.server.hosting import Hosting
from jet.story.errors import StoryError
from jet.story.json_fields import Fields
from jet.ui import format
from jet.ui.rendering import render
from jet.ui.sessions import Session

COMMAND_NAMES = ("models", "use_model", "cancel_model", "add_model_folder", "remove_model_copy")
REFUSED = "Which model writes here is up to the operator of this page."

_FRESH_S = 2.0  # how old the list may be while nothing has changed
_WORDS_PER_TOKEN = 0.75

Reply = dict[str, Any]
_LOADING: Reply = {
    "stage": "idle",
    "title": "",
    "done": 0,
    "total": 0,
    "rate": None,
    "stalled": False,
    "message": "",
    "active": False,
    "canCancel": False,
    "measuring": True,
    "suggestion": "",
    "list": render("views.html", "hint", text="The first model is still being loaded…"),
}
CommandHandler = Callable[[Session, Fields], Awaitable[Reply]]


def make_switch(source: EngineHandle, hosting: Hosting) -> ModelSwitch | None:
    """Return the switch for a page's models; None if visitors cannot choose the model.

    Only a model in this process can be changed, and only if the operator allows it.
    """
    if not hosting.allows_models or not isinstance(source, ModelHandle):
        return None
    if not isinstance(source.config, LocalConfig):
        return None
    try:
        machine = Machine(hardware.choose_device(source.config.device))
    except HardwareError:  # loading says so
        return None
    switch = ModelSwitch(source, Catalog(source.config, machine))
    atexit.register(switch.close)  # Python must not end while a thread quantizes
    return switch


def models_panel() -> str:
    """Render the panel of the Models part, hidden. The script loads the list when the panel is opened."""
    return render("models.html", "panel")


class ModelCommands:
    """The commands of the Models part. Used on the server's event loop.

    Without a switch, all commands are rejected, so that no visitor can change the model by other means.
    """

    def __init__(self, switch: ModelSwitch | None, folders: bool = True) -> None:
        """Create the commands.

        `switch` changes the model; None if visitors cannot choose it. `folders`: whether visitors may add a
        folder of this machine.
        """
        self._switch = switch
        self._folders = folders
        self._drawn: tuple[str, str] | None = None  # the list, and the state that it was drawn in
        self._drawn_at = 0.0

    def commands(self) -> dict[str, CommandHandler]:
        """Return the handlers by command name."""
        if self._switch is None:
            return dict.fromkeys(COMMAND_NAMES, _refuse)
        return {
            "models": self._show,
            "use_model": self._use,
            "cancel_model": self._cancel,
            "add_model_folder": self._add_folder if self._folders else _refuse,
            "remove_model_copy": self._remove_copy,
        }

    @property
    def changes(self) -> int:
        """Return the number of model changes so far. A tab compares it to notice a change."""
        return 0 if self._switch is None else self._switch.changes

    async def _show(self, session: Session, fields: Fields) -> Reply:
        """Return the list of models and the state. The first call starts to measure the machine's speed."""
        assert self._switch is not None
        if self._switch.started:
            self._switch.measure_machine()
        return {"models": await asyncio.to_thread(self._view)}

    async def _use(self, session: Session, fields: Fields) -> Reply:
        """Begin to change the model."""
        assert self._switch is not None
        await _attempt(self._switch.choose, fields.take("id", str))
        return {"models": await asyncio.to_thread(self._view)}

    async def _cancel(self, session: Session, fields: Fields) -> Reply:
        """Cancel the change under way."""
        assert self._switch is not None
        await asyncio.to_thread(self._switch.cancel)
        return {"models": await asyncio.to_thread(self._view)}

    async def _add_folder(self, session: Session, fields: Fields) -> Reply:
        """Add the checkpoint of a folder to the list."""
        assert self._switch is not None
        await _attempt(self._switch.catalog.add_folder, fields.take("folder", str))
        self._drawn = None
        self._switch.measure_again()
        return {"models": {**await asyncio.to_thread(self._view), "added": True}}

    async def _remove_copy(self, session: Session, fields: Fields) -> Reply:
        """Remove a quantized copy."""
        assert self._switch is not None
        freed = await _attempt(self._switch.remove_copy, fields.take("id", str))
        self._drawn = None
        return {"models": await asyncio.to_thread(self._view), "say": f"{gigabytes(freed)} are free again."}

    def _view(self) -> Reply:
        """Return the state of the Models part. Runs in a thread, since listing models reads files."""
        assert self._switch is not None
        state = self._switch.state()
        if not self._switch.started:
            return _LOADING
        drawn_in = f"{state.stage} {state.form} {self._switch.measuring} {self._switch.changes}"
        fresh = time.monotonic() - self._drawn_at < _FRESH_S
        if self._drawn is None or self._drawn[1] != drawn_in or not (fresh or state.active):
            self._drawn, self._drawn_at = (self._list(state.active), drawn_in), time.monotonic()
        return {
            "stage": state.stage,
            "title": state.title,
            "done": state.done,
            "total": state.total,
            "rate": state.rate,
            "stalled": state.stalled,
            "message": state.message,
            "active": state.active,
            "canCancel": state.can_cancel,
            "measuring": self._switch.measuring,
            "suggestion": self._suggestion,
            "list": self._drawn[0],
        }

    def _list(self, busy: bool) -> str:
        assert self._switch is not None
        current = self._switch.current()
        forms = self._switch.catalog.forms()
        name = next((form.checkpoint.name for form in forms if form.id == current), "")
        suggested = self._switch.catalog.suggestion(name) if name else None
        self._suggestion = "" if suggested is None else _suggest(suggested)
        groups = [
            (checkpoint, [_row(form, current, busy) for form in same])
            for checkpoint, same in groupby(forms, lambda form: form.checkpoint)
        ]
        return render(
            "models.html",
            "models",
            groups=groups,
            suggestion=self._suggestion,
            suggested="" if suggested is None else suggested.id,
            busy=busy,
            measuring=self._switch.measuring,
        )

    _suggestion = ""


async def _refuse(session: Session, fields: Fields) -> Reply:
    """Refuse a command on a page whose operator chooses the model."""
    raise StoryError(REFUSED)


async def _attempt(act: Callable[[str], Any], argument: str) -> Any:
    """Call `act(argument)` in a thread. Raises StoryError with the reason if the choice is not possible."""
    try:
        return await asyncio.to_thread(act, argument)
    except CHOICE_ERRORS as error:
        raise StoryError(str(error)) from None


def _suggest(form: Form) -> str:
    words = (form.tokens_per_second or 0) * _WORDS_PER_TOKEN
    return f"This computer can run {describe(form)}, at about {words:.0f} words a second."


def _row(form: Form, current: str, busy: bool) -> dict[str, Any]:
    """Return the values of a model's row in the list."""
    fetches = form.download_bytes > 0
    more = " more" if form.checkpoint.fetched_bytes else ""
    download = f"{gigabytes(form.download_bytes)}{more} to download" if fetches else "here already"
    rate = form.tokens_per_second
    return {
        "id": form.id,
        "name": describe(form),
        "dtype": form.dtype,
        "download": download,
        "to_make": f"and {gigabytes(form.disk_bytes)} of disk" if form.disk_bytes else "",
        "kept": gigabytes(form.kept_bytes) if form.kept_bytes and form.id != current else "",
        "memory": gigabytes(form.sizes.memory),
        "speed": format.UNKNOWN if rate is None else f"about {format.rate(rate)} tok/s",
        "problem": form.problem,
        "runs": form.id == current,
        "action": "Download and use" if fetches else "Use",
        "busy": busy,
    }
