"""What is said when writing has ended: what there is to know of it, and why where nothing came."""

from __future__ import annotations

from typing import Any

from jet.story.document import Document
from jet.story.offsets import to_utf16
from jet.ui import format
from jet.ui.commands import Order
from jet.ui.generation import State

BEYOND = "Yes, continue"


def said(state: State, order: Order, document: Document) -> dict[str, Any]:
    """The fields of the reply: what is said, and an offer to go on where the model has closed the story."""
    sentences, reply = list(state.remarks), dict[str, Any]()
    stats = state.stats
    if not state.characters and stats.finish_reason is not None and stats.error is None:
        sentences.insert(0, format.nothing_written(stats))
        if stats.finish_reason == "stop":
            reply["offer"] = {"label": BEYOND, "write": _again(state, order, document)}
    return {**reply, "say": " ".join(sentences)} if sentences else reply


def _again(state: State, order: Order, document: Document) -> dict[str, object]:
    """The order that writes on at the same place, and does not let the model end the story at once."""
    if order.do in ("retry", "ways"):
        return {"do": order.do, "beyond": True}
    if state.start is not None and state.start < len(document.text):
        return {"do": "cursor", "at": to_utf16(document.text, state.start), "beyond": True}
    return {"do": "continue", "beyond": True}
