"""Offer a few words that would continue the text, and put them into the story if the writer takes them.

An offer has the lowest priority: it is made only if no request waits. It ends as soon as a request waits, the
writer types on, or the writer asks for more text.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

from jet.api import Request, RequestStats, TokenChunk
from jet.engine.stream import merge
from jet.engine.whole_words import whole_words
from jet.server.hosting import Hosting
from jet.story.offsets import to_utf16
from jet.story.pieces import ends_at_token_boundary
from jet.ui.commands import Command, parse_stops
from jet.ui.generation import TOP_LOGPROBS, GenerationService, with_alternatives
from jet.ui.inputs import parse_controls
from jet.ui.never_write import parse_banned
from jet.ui.offer import Offer
from jet.ui.sessions import Session
from jet.ui.word_choice import parse_word_bias

MAX_TOKENS = 12
DEADLINE_S = 20.0


async def make_offer(
    service: GenerationService, hosting: Hosting, session: Session, command: Command, user: str
) -> str:
    """Generate words to offer at the end of the session's story; store the offer and return its words.

    Returns "" if there is nothing to offer. Raises StoryError if the command is malformed, RequestError if a
    limit of the host or engine forbids the request.
    """
    document, info = session.document, service.info
    if info is None or session.generating or not document.text.strip():
        return ""
    if to_utf16(document.text, len(document.text)) != command.fields.take("of", int):
        return ""  # the writer has typed on
    settings = parse_controls(command.fields.take("settings", dict), document.sampling)
    sampling = replace(settings, max_new_tokens=MAX_TOKENS, end_at="none").with_seed()
    stops = parse_stops(command.fields)
    request = Request(
        document.text,
        sampling,
        TOP_LOGPROBS if with_alternatives(command) else 0,
        session.cache_salt,
        healing=not ends_at_token_boundary(document.tree.branch().pieces),
        banned=parse_banned(command.fields),
        word_bias=parse_word_bias(command.fields),
        stop_strings=stops,
    )
    hosting.limiter.check(document.text, sampling)
    if (await service.recent_info()).queued_requests:
        return ""
    hosting.limiter.check_spare(user)
    tree = document.tree
    stream = service.streamed_request(session, request, stops, deadline_s=DEADLINE_S)
    session.offering, session.offer = stream, None
    chunks: list[TokenChunk] = []
    try:
        async with aclosing(stream.chunks()) as found:
            async for chunk in found:
                chunks.append(chunk)
                stale = session.offering is not stream or session.document.tree is not tree
                if stale or _somebody_waits(chunk.stats):
                    return ""
    finally:
        if session.offering is stream:
            session.offering = None
    whole = merge(chunks)
    if whole.stats.finish_reason not in ("length", "stop", "stop_string", "banned"):
        return ""
    text = whole_words(whole.text, whole.stats.finish_reason != "length")
    if text:
        session.offer = Offer(command.number, tree, info.model, sampling, whole, text)
    return text


def _somebody_waits(stats: RequestStats) -> bool:
    """Return whether another request waits for its turn.

    While the request of `stats` is queued itself, `queued_requests` counts it too.
    """
    return stats.queue_position > 0 or (stats.queued_requests or 0) > (stats.phase == "queued")
