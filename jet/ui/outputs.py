"""The values that `handlers.PageController.generate` sends to its output components."""

from __future__ import annotations

from typing import Any

import gradio as gr

from jet.ui.layout import STOP_LABEL

Update = tuple[Any, ...]  # one value or gr.skip() per output
OUTPUTS = ("story", "panel", "stop", "last_seed", "variants", "delta", "result")
_PER_GENERATION = (
    "delta",
    "result",
)  # filled by one generation only
_NOT_CACHED = "story"  # a way that is picked meanwhile may bring another


class OutputCache:
    """The values that the page has received in one generation.

    Unchanged outputs repeat their last value, if there is one. Gradio does not send a repeated value again,
    so it costs almost no time. For gr.skip() Gradio would create the component again, which takes a
    millisecond.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {
            name: "" if name in _PER_GENERATION else gr.skip() for name in OUTPUTS
        }

    def update(self, **changes: object) -> Update:
        """Return the next update. `changes`: new values by the names in `OUTPUTS`; None changes nothing."""
        changed = {name: value for name, value in changes.items() if value is not None}
        update = tuple({**self._values, **changed}.values())
        changed.pop(_NOT_CACHED, None)
        if "stop" in changed:
            changed["stop"] = STOP_LABEL  # a button's value is what stands on it
        self._values.update(changed)
        return update
