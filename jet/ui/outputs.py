"""The outputs of `handlers.PageController.generate`, one value for each."""

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

    For gr.skip(), Gradio creates the component again, which takes a millisecond. A value that was sent before
    is not sent again and takes almost no time, so values are repeated instead where possible.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {
            name: "" if name in _PER_GENERATION else gr.skip() for name in OUTPUTS
        }

    def update(self, **changes: object) -> Update:
        """Return the next update: changes by the names in `OUTPUTS`; None and missing ones are unchanged."""
        changed = {name: value for name, value in changes.items() if value is not None}
        update = tuple({**self._values, **changed}.values())
        changed.pop(_NOT_CACHED, None)
        if "stop" in changed:
            changed["stop"] = STOP_LABEL  # a button's value is what stands on it
        self._values.update(changed)
        return update
