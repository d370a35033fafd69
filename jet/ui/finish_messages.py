"""Format the message shown when a generation ends."""

from __future__ import annotations

from typing import Any

from jet.story.document import Document
from jet.story.offsets import to_utf16
from jet.ui import format
from jet.ui.commands import Command
from jet.ui.generation import GenerationState
from jet.ui.never_write import ENDED_BEFORE

CONTINUE_LABEL = "Yes, continue"
FINISH_LABEL = "Finish it"
CUT_BACK = "Cut back to the last whole sentence."


def end_reply(state: GenerationState, command: Command, document: Document) -> dict[str, Any]:
    """Return the reply's message at the end of a generation.

    Adds an offer to continue if the model ended the story at once, or to finish a sentence that was cut off.
    """
    messages, reply = list(state.remarks), dict[str, Any]()
    stats = state.stats
    if stats.finish_reason == "model_changed" and stats.error is not None:
        messages.append(stats.error)
    if not state.characters and stats.finish_reason is not None and stats.error is None:
        is_banned = stats.finish_reason == "banned"
        messages.insert(0, ENDED_BEFORE if is_banned else format.describe_empty_result(stats))
        if stats.finish_reason == "stop":
            reply["offer"] = {"label": CONTINUE_LABEL, "write": _continue_command(state, command, document)}
    elif stats.finish_reason == "banned":
        messages.insert(0, ENDED_BEFORE)
    elif state.unfinished and state.start is not None:
        at = to_utf16(document.text, state.start + state.characters)
        messages.insert(0, CUT_BACK)
        finish = {"type": "finish", "at": at, "unfinished": state.unfinished}
        reply["offer"] = {"label": FINISH_LABEL, "write": finish}
    return {**reply, "say": " ".join(messages)} if messages else reply


def _continue_command(state: GenerationState, command: Command, document: Document) -> dict[str, object]:
    """Return the command that generates at the same place without letting the model end at once."""
    if command.type in ("retry", "variants"):
        return {"type": command.type, "beyond": True}
    if state.start is not None and state.start < len(document.text):
        return {"type": "continue_at", "at": to_utf16(document.text, state.start), "beyond": True}
    return {"type": "continue", "beyond": True}
