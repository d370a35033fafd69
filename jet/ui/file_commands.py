"""Handle file commands of the page: inspect and open files, save one story or all.

Reading and writing a book may take a while, so both run in a thread; the page polls the progress of writing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from copy import copy
from typing import Any

from jet.files.encodings import Encoding
from jet.files.reading import Imported, Refused, read, read_all
from jet.files.writing import FORMATS, write, write_all
from jet.story.document import Document
from jet.story.errors import StoryError
from jet.story.files import from_json, to_browser
from jet.story.guidance import AuthorsNote, Guidance
from jet.story.json_fields import Fields
from jet.ui import views
from jet.ui.commands import MAX_GUIDANCE, MAX_LORE
from jet.ui.export_job import ExportJob
from jet.ui.sessions import Session

Reply = dict[str, Any]

MAX_STORIES = 500  # in one zip


async def export(session: Session, fields: Fields) -> Reply:
    """Export the story as a file."""
    extension = fields.take("as", str)
    if extension not in FORMATS:
        raise StoryError(f"Stories are not saved as {extension[:40]!r}.")
    document = copy(session.document)
    session.export = ExportJob(extension.upper(), lambda note: write(document, extension, note))
    return await _reply_of(session)


async def export_all(session: Session, fields: Fields) -> Reply:
    """Export all stories of the browser as one zip. A damaged story is exported as text only."""
    stories = [Fields(*item) for item in fields.take_items("stories")]
    if not 0 < len(stories) <= MAX_STORIES:
        raise StoryError(f"From 1 to {MAX_STORIES} stories can be saved at once, not {len(stories)}.")
    kept = [
        (one.take_or_null("copy", str), one.take_or_null("draft", str), one.take_text("title"))
        for one in stories
    ]
    session.export = ExportJob("zip", lambda note: write_all([_restored(*one) for one in kept], note))
    return await _reply_of(session)


async def export_status(session: Session, fields: Fields) -> Reply:
    """Return the file of the export under way, or its progress. Raises StoryError if none is under way."""
    if session.export is None:
        raise StoryError("Nothing is being saved.")
    return await _reply_of(session)


async def _reply_of(session: Session) -> Reply:
    job = session.export
    assert job is not None
    reply: Reply = {}
    try:
        reply = await job.reply()
    finally:
        if "exporting" not in reply and session.export is job:
            session.export = None
    return reply


def _restored(saved: str | None, draft: str | None, title: str) -> Document:
    """Return a story from the browser's saved copy and the text typed since then.

    If the copy is damaged, the story has only the text and the title.
    """
    document = Document()
    try:
        document = from_json(saved) if saved is not None else document
    except StoryError:
        document = Document(title=title)
    if draft is not None:
        document.edit(draft)
    return document


# --- files in ----------------------------------------------------------------------------------------------


async def inspect(session: Session, fields: Fields) -> Reply:
    """Describe the stories in a file and the losses of opening them, without opening any."""
    name, data, encoding = _file(fields)
    found = await asyncio.to_thread(read_all, name, data, encoding)
    return {"inspected": [_shown(one) for one in found]}


async def unpack(session: Session, fields: Fields) -> Reply:
    """Return the stories of a file, which the browser stores beside the open one."""
    name, data, encoding = _file(fields)
    return {"arrived": await asyncio.to_thread(_unpacked, name, data, encoding)}


async def read_file(fields: Fields) -> Imported:
    """Read the story of a file. Raises StoryError."""
    name, data, encoding = _file(fields)
    return await asyncio.to_thread(read, name, data, encoding)


async def add_guidance(session: Session, fields: Fields) -> Reply:
    """Add memory, note and lore of a file to the open story, as one step."""
    imported = await read_file(fields)
    before, given = session.document.guidance, imported.document.guidance
    lore = (*before.lore, *(entry for entry in given.lore if entry not in before.lore))
    memory = "\n\n".join(text for text in (before.memory, given.memory) if text.strip())
    if len(lore) > MAX_LORE or len(memory) > MAX_GUIDANCE:
        raise StoryError(
            f"Together this would be more than a story can have: {MAX_LORE} entries of the lorebook and "
            f"{MAX_GUIDANCE:,} characters of memory."
        )
    note = before.note if before.note.text.strip() else given.note
    session.document.set_guidance(Guidance(memory, note, lore, before.about))
    html = views.guidance(session.document.guidance)
    return {"say": _added(before, session.document.guidance), "html": html}


def _added(before: Guidance, after: Guidance) -> str:
    parts = [_counted(len(after.lore) - len(before.lore), "lorebook entry", "lorebook entries")]
    parts += ["memory"] if after.memory != before.memory else []
    parts += ["the author’s note"] if after.note != before.note else []
    return f"Added to this story: {', '.join(part for part in parts if part) or 'nothing new'}."


def _file(fields: Fields) -> tuple[str, bytes, str]:
    name, given = fields.take_text("name"), fields.take("data", str)
    encoding = fields.take("encoding", str) if fields.has("encoding") else ""
    try:
        return name, base64.b64decode(given, validate=True), encoding
    except (binascii.Error, ValueError):
        raise StoryError("The file did not arrive whole: please try again.") from None


def _shown(found: Imported | Refused) -> Reply:
    """Return what the page shows of a story in a file before it is opened."""
    if isinstance(found, Refused):
        return {"name": found.name, "refused": found.why}
    document, guidance = found.document, found.document.guidance
    brings = [
        _counted(len(document.text.split()), "word", "words"),
        _counted(len(document.tree.branches) - 1, "further version", "further versions"),
        "memory" if guidance.memory else "",
        "an author’s note" if guidance.note != AuthorsNote() else "",
        _counted(len(guidance.lore), "lorebook entry", "lorebook entries"),
    ]
    shown: Reply = {
        "name": found.name,
        "kind": found.kind,
        "title": document.title,
        "brings": [part for part in brings if part],
        "losses": list(found.losses),
        "onlyGuidance": found.only_guidance and guidance != Guidance(),
        "hasGuidance": guidance != Guidance(),
        "asks": found.asks,
    }
    if found.encoding is not None and not found.certain:
        shown["encodings"] = [_option(found.encoding), *map(_option, found.others)]
    return shown


def _option(encoding: Encoding) -> Reply:
    return {"name": encoding.name, "label": encoding.label, "sample": encoding.sample}


def _unpacked(name: str, data: bytes, encoding: str) -> list[Reply]:
    found: list[Reply] = []
    for one in read_all(name, data, encoding):
        if isinstance(one, Refused):
            found.append({"name": one.name, "refused": one.why})
            continue
        document = one.document
        title = document.title or one.name.rpartition(".")[0]
        document.title = title
        kept = to_browser(document)
        story = {
            "title": document.title,
            "text": document.text,
            "copy": kept.text,
            "dropped": list(kept.dropped),
        }
        found.append({"name": one.name, **story})
    return found


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}" if number > 0 else ""


FILE_COMMANDS = {
    "export": export,
    "export_all": export_all,
    "export_status": export_status,
    "add_guidance": add_guidance,
    "inspect": inspect,
    "unpack": unpack,
}
