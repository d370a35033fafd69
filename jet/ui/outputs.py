"""What `handlers.Desk.write` tells the page, as one value per output."""

from __future__ import annotations

from typing import Any

import gradio as gr

from jet.ui.layout import STOP

Update = tuple[Any, ...]  # one value or gr.skip() per output
OUTPUTS = ("story", "panel", "stop", "last_seed", "ways", "live", "wrote")
_OWN = ("live", "wrote")  # nobody else fills these, and page.js only looks at what this writing says there
_ONCE = "story"  # a way that is picked meanwhile may bring another


class Told:
    """What the page has been told in one writing.

    For a gr.skip() Gradio makes the component anew, which takes it a millisecond. For a value that was sent
    before it does next to nothing, and sends nothing: so that says "as it is" wherever it can.
    """

    def __init__(self) -> None:
        self._told: dict[str, Any] = {name: "" if name in _OWN else gr.skip() for name in OUTPUTS}

    def update(self, **given: object) -> Update:
        """The next update: what is given, by the names in `OUTPUTS`; all else and None is as it is."""
        new = {name: value for name, value in given.items() if value is not None}
        update = tuple({**self._told, **new}.values())
        new.pop(_ONCE, None)
        if "stop" in new:
            new["stop"] = STOP  # a button's value is what stands on it
        self._told.update(new)
        return update
