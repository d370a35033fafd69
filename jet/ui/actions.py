"""What an order does to a story, the model aside: one function an order.

Each returns what the page is to be told beyond what it is told anyway (see `handlers.Desk.act`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import asdict
from typing import Any

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.files import file_name, from_json, read_file, to_browser, to_json, to_markdown, to_txt
from jet.story.guidance import Guidance
from jet.story.json_fields import Fields
from jet.story.offsets import from_utf16, to_utf16
from jet.ui import views
from jet.ui.commands import read_guidance
from jet.ui.encodings import to_utf8
from jet.ui.inputs import NO_PRESET, read_preset
from jet.ui.presets import PRESETS
from jet.ui.sessions import Visit
from jet.ui.stop_strings import shown

Reply = dict[str, Any]
Action = Callable[[Visit, Fields], Awaitable[Reply]]

# What may be asked for while the model writes, the first of them before all others. The box has nothing new
# in it then.
WHILE_WRITING = ("show", "look", "keep", "export", "history")


async def look(visit: Visit, order: Fields) -> Reply:
    """Nothing but what every order does: take over what is in the box, and say how things stand."""
    return {}


async def resume(visit: Visit, order: Fields) -> Reply:
    """The same, once the connection is back: nothing is being written then (see `handlers.Desk.act`)."""
    return {}


async def undo(visit: Visit, order: Fields) -> Reply:
    """Take the latest step back."""
    return _stepped(visit.document, visit.document.undo)


async def redo(visit: Visit, order: Fields) -> Reply:
    """Make a step again."""
    return _stepped(visit.document, visit.document.redo)


async def opening(visit: Visit, order: Fields) -> Reply:
    """Put a beginning on the sheet. One after the other is one step: the writer is trying them out."""
    visit.document.edit(order.take_text("text"), join=order.take("again", bool))
    return {}


async def fork(visit: Visit, order: Fields) -> Reply:
    """A new branch with the text up to the cursor."""
    document = visit.document
    at = from_utf16(document.text, order.take("at", int))
    document.fork(at)
    return {"cursor": to_utf16(document.text, at)}


async def show(visit: Visit, order: Fields) -> Reply:
    """Put a branch on the sheet. While ways are being written that picks one, and ends the others."""
    visit.document.select_branch(order.take("branch", int))
    visit.stop()
    return {}


async def rename(visit: Visit, order: Fields) -> Reply:
    """Give a branch a name."""
    visit.document.rename(order.take("branch", int), order.take_text("name"))
    return {}


async def prune(visit: Visit, order: Fields) -> Reply:
    """Remove a branch."""
    visit.document.delete_branch(order.take("branch", int))
    return {}


async def compare(visit: Visit, order: Fields) -> Reply:
    """Show another branch beside the one on the sheet."""
    document = visit.document
    other = order.take("branch", int)
    return {"html": {"jet-compare": views.comparison(document.compare(document.current, other))}}


async def word(visit: Visit, order: Fields) -> Reply:
    """What else might have stood at a place."""
    document = visit.document
    found = document.token_at(from_utf16(document.text, order.take("at", int)))
    if found is None or not found.token.alternatives:
        return {"say": "No other words are known here. They are remembered for what the model writes."}
    start, end = (to_utf16(document.text, place) for place in (found.start, found.end))
    card = views.alternatives(found, document.generation(found.span), start, document.guidance)
    return {"word": {"start": start, "end": end, "html": card}}


async def reuse(visit: Visit, order: Fields) -> Reply:
    """The settings, the seed and the stops of the words at a place, and the guidance if it is wanted."""
    document = visit.document
    found = document.token_at(from_utf16(document.text, order.take("at", int)))
    generation = None if found is None else document.generation(found.span)
    if generation is None:
        raise StoryError("These words are not the model’s: nothing is known of their settings.")
    reply: Reply = {"controls": controls_of(generation.sampling), "stops": list(map(shown, generation.stops))}
    if not order.take("guidance", bool):
        return {**reply, "say": "The settings are those of these words now."}
    document.set_guidance(generation.guidance or Guidance())
    said = "Settings and guidance are those of these words now."
    return {**reply, "html": views.guidance(document.guidance), "say": said}


async def guide(visit: Visit, order: Fields) -> Reply:
    """Take over memory, author's note and lorebook."""
    document = visit.document
    document.set_guidance(read_guidance(order, document.guidance))
    return {}


async def title(visit: Visit, order: Fields) -> Reply:
    """Give the story a title."""
    visit.document.title = order.take_text("text")
    return {}


async def preset(visit: Visit, order: Fields) -> Reply:
    """Settings under a plain name. How much is written, and from which seed, stays as it is."""
    name = order.take("name", str)
    if name not in PRESETS:
        raise StoryError(f"There is no preset {name[:40]!r}.")
    return _turned(PRESETS[name])


async def own_preset(visit: Visit, order: Fields) -> Reply:
    """The same with settings that the browser has kept."""
    return _turned(read_preset(order.take("settings", dict)))


async def new(visit: Visit, order: Fields) -> Reply:
    """Begin an empty story."""
    return {**_opened(visit, Document()), "fresh": True}


async def restore(visit: Visit, order: Fields) -> Reply:
    """Open what the browser has kept: the story as it was sent to it, and what was typed since then.

    With `again` it is on the page already, and only the server had forgotten it.
    """
    kept, draft = order.take_or_null("copy", str), order.take_or_null("draft", str)
    reply: Reply = {}
    document = Document()
    try:
        document = await asyncio.to_thread(from_json, kept) if kept is not None else document
    except StoryError as error:
        reply["error"] = f"Only the text of this story could be read, not its branches: {error}"
    if draft is not None:
        document.edit(draft)
    if visit.busy:
        return reply
    opened = _opened(visit, document)
    return reply if order.has("again") else {**reply, **opened}


async def import_file(visit: Visit, order: Fields) -> Reply:
    """Open a file."""
    name = order.take_text("name")
    try:
        data = base64.b64decode(order.take("data", str), validate=True)
    except (binascii.Error, ValueError):
        raise StoryError("The file did not arrive whole: please try again.") from None
    remarks: list[str] = []
    data, encoding = await asyncio.to_thread(to_utf8, data)
    document = await asyncio.to_thread(read_file, name, data, remarks)
    said = [f"Opened. Not kept of this file: {', '.join(remarks)}."] if remarks else []
    if encoding is not None:
        hint = "If letters are wrong, save it as UTF-8 and open it again."
        said.append(f"The file was not in UTF-8 and was read as {encoding}. {hint}")
    return {**_opened(visit, document), "fresh": True, **({"say": " ".join(said)} if said else {})}


async def export(visit: Visit, order: Fields) -> Reply:
    """The story as a file."""
    ending = order.take("as", str)
    writers: dict[str, tuple[Callable[[Document], str], str]] = {
        "txt": (to_txt, "text/plain"),
        "md": (to_markdown, "text/markdown"),
        "json": (to_json, "application/json"),
    }
    if ending not in writers:
        raise StoryError(f"Stories are not saved as {ending[:40]!r}.")
    writer, kind = writers[ending]
    text = await asyncio.to_thread(writer, copy(visit.document))
    return {"download": {"name": file_name(visit.document, ending), "text": text, "type": kind}}


async def keep(visit: Visit, order: Fields) -> Reply:
    """The story for the browser to keep."""
    document = visit.document
    empty = not (document.text or document.title or len(document.tree.branches) > 1)
    empty = empty and document.guidance == Guidance()
    kept = await asyncio.to_thread(to_browser, copy(document))
    return {"kept": {"copy": kept.text, "dropped": kept.dropped, "empty": empty}}


async def history(visit: Visit, order: Fields) -> Reply:
    """The requests of this tab as a table for other programs."""
    table = io.StringIO()
    writer = csv.writer(table)
    columns = [name for name in asdict(visit.log[0].stats) if name != "queue_position"] if visit.log else []
    writer.writerow(["time", "model", *columns])
    for past in visit.log:
        values = asdict(past.stats)
        writer.writerow([past.at.isoformat(timespec="seconds"), past.model, *(values[c] for c in columns)])
    return {"download": {"name": "requests.csv", "text": table.getvalue(), "type": "text/csv"}}


ACTIONS: dict[str, Action] = {
    "look": look,
    "resume": resume,
    "undo": undo,
    "redo": redo,
    "opening": opening,
    "fork": fork,
    "show": show,
    "rename": rename,
    "prune": prune,
    "compare": compare,
    "word": word,
    "reuse": reuse,
    "guide": guide,
    "title": title,
    "preset": preset,
    "own-preset": own_preset,
    "new": new,
    "restore": restore,
    "import": import_file,
    "export": export,
    "keep": keep,
    "history": history,
}


def controls_of(sampling: SamplingParams) -> dict[str, object]:
    """The values of the page's controls by name, the seed as text."""
    return asdict(sampling) | {"seed": "" if sampling.seed is None else str(sampling.seed)}


def _turned(sampling: SamplingParams) -> Reply:
    chosen = controls_of(sampling)
    return {"controls": {key: chosen[key] for key in chosen if key not in NO_PRESET}}


def _stepped(document: Document, step: Callable[[], bool]) -> Reply:
    """Undo or Redo, and where the text does not show what that did, in words."""
    before = document.tree
    step()
    after = document.tree
    if after.guidance != before.guidance:
        said = "Memory, note and lorebook are as they were then."
        return {"html": views.guidance(after.guidance), "say": said}
    if after != before and after.branch().text == before.branch().text:
        return {"say": "The branches are as they were then."}
    return {}


def _opened(visit: Visit, document: Document) -> Reply:
    """Another story comes on the sheet, with its seed, stops and guidance. The rest is the browser's."""
    if visit.busy:
        raise StoryError("The model is still writing: stop it first.")
    visit.document, visit.written = document, None
    return {
        "opened": True,
        "controls": {"seed": controls_of(document.sampling)["seed"]},
        "html": views.guidance(document.guidance),
        **({"stops": list(map(shown, document.stops))} if document.stops else {}),
    }
