"""Commands that need no model: one function each.

A function changes the session's document and returns the fields of the reply beyond those that every command
gets (see `handlers.PageController.run_command`).
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import asdict
from typing import Any

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.files import from_json, to_browser
from jet.story.guidance import Guidance
from jet.story.json_fields import Fields
from jet.story.offsets import from_utf16, to_utf16
from jet.story.statistics import rest_of_word, words_by_author
from jet.ui import views
from jet.ui.commands import parse_guidance
from jet.ui.file_commands import FILE_COMMANDS, read_file
from jet.ui.inputs import NOT_IN_PRESETS, parse_preset
from jet.ui.models import COMMAND_NAMES as MODEL_COMMANDS
from jet.ui.presets import PRESETS
from jet.ui.sessions import Session
from jet.ui.stop_strings import format_stop

Reply = dict[str, Any]
CommandHandler = Callable[[Session, Fields], Awaitable[Reply]]

# What may be asked for while the model writes, the first of them before all others. The box has nothing new
# in it then.
ALLOWED_WHILE_GENERATING = (
    *("select_branch", "sync", "autosave", "export", "export_all", "export_status", "inspect", "unpack"),
    *("export_history", "forget_story", "summary", *MODEL_COMMANDS),
)


async def sync(session: Session, fields: Fields) -> Reply:
    """Return an empty reply. The handler has taken over the editor's text, and adds the state of the page."""
    return {}


async def resume(session: Session, fields: Fields) -> Reply:
    """Return an empty reply after a reconnect. The handler has stopped the generation before."""
    return {}


async def forget_story(session: Session, fields: Fields) -> Reply:
    """Return an empty reply. The handler has removed the stored states of another story before."""
    return {}


async def undo(session: Session, fields: Fields) -> Reply:
    """Revert the latest step."""
    return _step_reply(session.document, session.document.undo)


async def redo(session: Session, fields: Fields) -> Reply:
    """Repeat an undone step."""
    return _step_reply(session.document, session.document.redo)


async def set_opening(session: Session, fields: Fields) -> Reply:
    """Put an opening into the editor. Undo reverts consecutive openings as one step."""
    session.document.edit(fields.take_text("text"), join=fields.take("again", bool))
    return {}


async def take_offer(session: Session, fields: Fields) -> Reply:
    """Put the offered words into the story, unless the story has changed since."""
    offer = session.offer
    if offer is None or offer.number != fields.take("offer", int):
        return {}
    session.offer = None
    offer.put_into(session.document)
    return {"cursor": to_utf16(session.document.text, len(session.document.text))}


async def fork(session: Session, fields: Fields) -> Reply:
    """Create a branch with the text up to the caret."""
    document = session.document
    at = from_utf16(document.text, fields.take("at", int))
    document.fork(at)
    return {"cursor": to_utf16(document.text, at)}


async def select_branch(session: Session, fields: Fields) -> Reply:
    """Put a branch into the editor. While variants are generated, select one and stop the others."""
    session.document.select_branch(fields.take("branch", int))
    session.stop()
    return {}


async def rename(session: Session, fields: Fields) -> Reply:
    """Name a branch."""
    session.document.rename(fields.take("branch", int), fields.take_text("name"))
    return {}


async def delete_branch(session: Session, fields: Fields) -> Reply:
    """Delete a branch."""
    session.document.delete_branch(fields.take("branch", int))
    return {}


async def compare(session: Session, fields: Fields) -> Reply:
    """Compare another branch with the one in the editor."""
    document = session.document
    other = fields.take("branch", int)
    return {"html": {"jet-compare": views.comparison(document.compare(document.current, other))}}


async def alternatives(session: Session, fields: Fields) -> Reply:
    """Return the alternatives of the token at an offset, as whole words."""
    document = session.document
    found = document.token_at(from_utf16(document.text, fields.take("at", int)))
    if found is None or not found.token.alternatives:
        return {"say": "No other words are known here. They are remembered for what the model writes."}
    word = rest_of_word(document.text, found.start, found.end)
    at, start, end = (
        to_utf16(document.text, place)
        for place in (found.start, found.start - len(word[0]), found.end + len(word[1]))
    )
    card = views.alternatives(found, document.generation(found.span), at, document.guidance, word)
    return {"word": {"start": start, "end": end, "html": card}}


async def reuse_settings(session: Session, fields: Fields) -> Reply:
    """Return the settings, seed and stop strings of a generation, and restore its guidance if asked."""
    document = session.document
    found = document.token_at(from_utf16(document.text, fields.take("at", int)))
    generation = None if found is None else document.generation(found.span)
    if generation is None:
        raise StoryError("These words are not the model’s: nothing is known of their settings.")
    reply: Reply = {
        "controls": to_controls(generation.sampling),
        "stops": list(map(format_stop, generation.stops)),
    }
    if not fields.take("guidance", bool):
        return {**reply, "say": "The settings are those of these words now."}
    document.set_guidance(generation.guidance or Guidance())
    message = "Settings and guidance are those of these words now."
    return {**reply, "html": views.guidance(document.guidance), "say": message}


async def set_guidance(session: Session, fields: Fields) -> Reply:
    """Set memory, author's note and lorebook."""
    document = session.document
    document.set_guidance(parse_guidance(fields, document.guidance))
    return {}


async def set_title(session: Session, fields: Fields) -> Reply:
    """Set the title."""
    session.document.title = fields.take_text("text")
    return {}


async def summary(session: Session, fields: Fields) -> Reply:
    """Return how many words are the writer's and the model's."""
    document = session.document
    return {
        "html": {
            "jet-summary": views.summary(*await asyncio.to_thread(words_by_author, document.tree.branch()))
        }
    }


async def set_author(session: Session, fields: Fields) -> Reply:
    """Set the author, for books of the story."""
    session.document.author = fields.take_text("text")
    return {}


async def apply_preset(session: Session, fields: Fields) -> Reply:
    """Return the settings of a preset, without length and seed."""
    name = fields.take("name", str)
    if name not in PRESETS:
        raise StoryError(f"There is no preset {name[:40]!r}.")
    return _settings_reply(PRESETS[name])


async def apply_own_preset(session: Session, fields: Fields) -> Reply:
    """Return the settings of a preset that the browser has saved."""
    return _settings_reply(parse_preset(fields.take("settings", dict)))


async def new_story(session: Session, fields: Fields) -> Reply:
    """Open an empty story."""
    return {**_open_document(session, Document()), "fresh": True}


async def restore(session: Session, fields: Fields) -> Reply:
    """Open the story that the browser has saved: its copy (`copy`), then the text typed since (`draft`).

    With `again` the page still shows the story and only the session was lost, so the reply has no text.
    """
    saved, draft = fields.take_or_null("copy", str), fields.take_or_null("draft", str)
    reply: Reply = {}
    document = Document()
    try:
        document = await asyncio.to_thread(from_json, saved) if saved is not None else document
    except StoryError as error:
        reply["error"] = f"Only the text of this story could be read, not its branches: {error}"
    if draft is not None:
        document.edit(draft)
    if session.generating:
        return reply
    opened = _open_document(session, document)
    return reply if fields.has("again") else {**reply, **opened}


async def import_file(session: Session, fields: Fields) -> Reply:
    """Open a file."""
    imported = await read_file(fields)
    return {**_open_document(session, imported.document), "fresh": True}


async def autosave(session: Session, fields: Fields) -> Reply:
    """Return the story for the browser's storage."""
    document = session.document
    empty = not (document.text or document.title or len(document.tree.branches) > 1)
    empty = empty and document.guidance == Guidance()
    saved = await asyncio.to_thread(to_browser, copy(document))
    return {"kept": {"copy": saved.text, "dropped": saved.dropped, "empty": empty}}


async def export_history(session: Session, fields: Fields) -> Reply:
    """Return the requests of this tab as CSV."""
    table = io.StringIO()
    writer = csv.writer(table)
    columns = (
        [name for name in asdict(session.request_log[0].stats) if name != "queue_position"]
        if session.request_log
        else []
    )
    writer.writerow(["time", "model", *columns])
    for request in session.request_log:
        values = asdict(request.stats)
        writer.writerow(
            [request.at.isoformat(timespec="seconds"), request.model, *(values[c] for c in columns)]
        )
    return {"download": {"name": "requests.csv", "text": table.getvalue(), "type": "text/csv"}}


COMMANDS: dict[str, CommandHandler] = {
    "sync": sync,
    "resume": resume,
    "forget_story": forget_story,
    "undo": undo,
    "redo": redo,
    "set_opening": set_opening,
    "take_offer": take_offer,
    "fork": fork,
    "select_branch": select_branch,
    "rename": rename,
    "delete_branch": delete_branch,
    "compare": compare,
    "alternatives": alternatives,
    "reuse_settings": reuse_settings,
    "set_guidance": set_guidance,
    "set_title": set_title,
    "set_author": set_author,
    "summary": summary,
    "apply_preset": apply_preset,
    "apply_own_preset": apply_own_preset,
    "new_story": new_story,
    "restore": restore,
    "import_file": import_file,
    **FILE_COMMANDS,
    "autosave": autosave,
    "export_history": export_history,
}

_API_ONLY = {"presence_penalty", "frequency_penalty"}  # settings without a control


def to_controls(sampling: SamplingParams) -> dict[str, object]:
    """Return the values of the page's controls by name, the seed as text."""
    shown = {name: value for name, value in asdict(sampling).items() if name not in _API_ONLY}
    return shown | {"seed": "" if sampling.seed is None else str(sampling.seed)}


def _settings_reply(sampling: SamplingParams) -> Reply:
    chosen = to_controls(sampling)
    return {"controls": {key: chosen[key] for key in chosen if key not in NOT_IN_PRESETS}}


def _step_reply(document: Document, step: Callable[[], bool]) -> Reply:
    """Undo or redo; the reply has a message if the text does not show the change."""
    before = document.tree
    step()
    after = document.tree
    if after.guidance != before.guidance:
        message = "Memory, note and lorebook are as they were then."
        return {"html": views.guidance(after.guidance), "say": message}
    if after != before and after.branch().text == before.branch().text:
        return {"say": "The branches are as they were then."}
    return {}


def _open_document(session: Session, document: Document) -> Reply:
    """Replace the session's story. The reply has the new story's seed, stop strings and guidance."""
    if session.generating:
        raise StoryError("The model is still writing: stop it first.")
    session.document, session.last_generation = document, None
    return {
        "opened": True,
        "controls": {"seed": to_controls(document.sampling)["seed"]},
        "html": views.guidance(document.guidance),
        **({"stops": list(map(format_stop, document.stops))} if document.stops else {}),
    }
