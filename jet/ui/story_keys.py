"""Recognize a story after a restart by a key that only its browser has.

The browser sends a key with each command, made of its own secret and the story's name. If states are stored
on disk, the salt of the story's cached prefixes is derived from the key and the account. Other users do not
have the key, so they can neither match these states nor delete them.
"""

from __future__ import annotations

import asyncio
import re

from jet.api import StoresStates
from jet.engine.holder import EngineHandle
from jet.engine.stored_states import StateFolder, durable_salt
from jet.story.json_fields import Fields
from jet.ui.sessions import Session

_KEY = re.compile(r"[A-Za-z0-9_-]{32,64}\.[A-Za-z0-9_-]{1,40}")


def read_salt(fields: Fields, name: str, account: str) -> str | None:
    """Return the salt that belongs to the key in a command's field; None without a valid key.

    Args:
        fields: the fields of the command.
        name: the name of the field.
        account: the account of the tab; "" without accounts.

    Raises StoryFileError.
    """
    key = fields.take(name, str) if fields.has(name) else ""
    return durable_salt("page", account, key) if _KEY.fullmatch(key) else None


def name_story(session: Session, fields: Fields, account: str, states: StateFolder | None) -> None:
    """Set the session's salt to the salt of the story that the command names.

    Does nothing while text is generated, or if no states are stored (`states` is None).
    """
    salt = read_salt(fields, "key", account)
    if salt is not None and states is not None and not session.generating:
        session.cache_salt = salt


async def forget_story(
    fields: Fields, account: str, states: StateFolder | None, source: EngineHandle
) -> None:
    """Remove the stored states of the story whose key is in a command's field `of`."""
    salt = read_salt(fields, "of", account)
    if salt is None or states is None:
        return
    await asyncio.to_thread(states.forget, salt)
    if source.ready:
        engine = source.engine()
        if isinstance(engine, StoresStates):
            engine.forget(salt)
