"""What `handlers.PageController.write` tells the page, as one value per output."""

from __future__ import annotations

from typing import Any

import gradio as gr

from jet.ui.layout import STOP_LABEL

Update = tuple[Any, ...]  # one value or gr.skip() per output
OUTPUTS = ("story", "panel", "stop", "last_seed", "variants", "delta", "result")
_PER_GENERATION = (
    "delta",
    "result",
)  # nobody else fills these, and the page only looks at what this writing says there
_NOT_CACHED = "story"  # a way that is picked meanwhile may bring another


class OutputCache:
    """What the page has been told in one writing.

    For a gr.skip() Gradio makes the component anew, which takes it a millisecond. For a value that was sent
    before it does next to nothing, and sends nothing: so that says "as it is" wherever it can.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {
            name: "" if name in _PER_GENERATION else gr.skip() for name in OUTPUTS
        }

    def update(self, **changes: object) -> Update:
        """The next update: what is given, by the names in `OUTPUTS`; all else and None is as it is."""
        changed = {name: value for name, value in changes.items() if value is not None}
        update = tuple({**self._values, **changed}.values())
        changed.pop(_NOT_CACHED, None)
        if "stop" in changed:
            changed["stop"] = STOP_LABEL  # a button's value is what stands on it
        self._values.update(changed)
        return update
