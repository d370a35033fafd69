"""The API for programs: `/generate`, which streams, `/stats` and `/presets`.

The docstrings of the endpoints are shown to users of the API, and to models that use it through MCP.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

import gradio as gr
from gradio.events import api

from jet.api import RequestError, RequestStats, SamplingParams
from jet.engine.banned_lists import banned_phrases
from jet.engine.holder import EngineHandle
from jet.server.hosting import Hosting, current_cache_salt, current_user_id
from jet.ui.inputs import parse_request
from jet.ui.presets import PRESETS
from jet.ui.streamed_request import StreamedRequest

DEFAULTS = SamplingParams()

# What a preset says of the arguments of `/generate`: not how much is written, nor from which seed.
PRESET_FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

# Fields of `RequestStats` and `EngineInfo` whose names in the API are older.
_PUBLISHED_NAMES = {
    "cached_tokens": "resumed_tokens",
    "placement": "residence",
    "license": "licence",
    "max_running_requests": "writers",
    "max_total_tokens": "tokens",
    "bandwidth_confirmed": "bandwidth_sure",
}
_PUBLISHED_PLACEMENTS = {"local": "resident", "zerogpu": "on demand"}

Stats = dict[str, Any]
Settings = dict[str, float]


def add_api(source: EngineHandle, hosting: Hosting) -> None:
    """Add the named endpoints to the current Blocks."""
    limits, limiter = hosting.limits, hosting.limiter

    async def generate(
        prompt: str,
        max_new_tokens: int = DEFAULTS.max_new_tokens,
        temperature: float = DEFAULTS.temperature,
        top_p: float = DEFAULTS.top_p,
        top_k: int = DEFAULTS.top_k,
        min_p: float = DEFAULTS.min_p,
        repetition_penalty: float = DEFAULTS.repetition_penalty,
        seed: int | None = DEFAULTS.seed,
        end_at: str = DEFAULTS.end_at,
        banned: list[str] | None = None,
        banned_lists: list[str] | None = None,
    ) -> AsyncIterator[tuple[str, Stats]]:
        """Continue a story. Streams pairs (story, stats): the prompt with the text so far, and measurements.

        The prompt may end anywhere, also in a blank or within a word, which is then completed. Its line
        breaks are converted to LF.

        The same prompt, parameters and seed give the same story. Without a seed a random one is used, which
        the stats name. Canceling the job ends the request.

        Args:
            prompt: The beginning of the story; it may be empty.
            max_new_tokens: Write at most so many tokens. A token is about three quarters of an English word.
            temperature: 0 always takes the likeliest token; higher values are more random; up to 5.
            top_p: Choose among the likeliest tokens that together have this probability; above 0, up to 1.
            top_k: Choose among so many of the likeliest tokens; 0 for all.
            min_p: Leave out tokens less than this fraction as likely as the likeliest; 0 to 1.
            repetition_penalty: Above 1, tokens that the story already has become less likely; 0.1 to 10.
            seed: A whole number that makes the result repeatable; leave it out for a random one.
            end_at: With "none", the story ends after exactly max_new_tokens. With "sentence", "paragraph" or
                "scene", it goes on for at most 30 tokens until one ends, or is cut back to the last whole
                one. The stats have the text that was cut off as `unfinished`.
            banned: Words and phrases that the new text never has, in any case, punctuation and regular
                inflection. If there is no other way to go on, the story ends there: finish reason "banned".
            banned_lists: Names of ready lists of such phrases: "stock phrases", "worn endings",
                "said otherwise", "favorite names", "essay words", "machine talk".
        """
        try:
            request = parse_request(
                prompt, max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, end_at
            )
            limiter.check(request.prompt, request.sampling)
            with limiter.admit(current_user_id()):
                story = request.prompt
                phrases = banned_phrases(banned, banned_lists)
                request = replace(request, cache_salt=current_cache_salt(), healing=True, banned=phrases)
                stream = StreamedRequest(
                    source, request, deadline_s=limits.deadline_s, on_end=hosting.metrics.record_request
                )
                yield story, stats_to_dict(stream.stats)
                async with aclosing(stream.chunks()) as chunks:
                    async for chunk in chunks:
                        story = (story + chunk.text).removesuffix(chunk.stats.unfinished)
                        yield story, stats_to_dict(chunk.stats)
        except RequestError as error:
            raise _to_gradio_error(str(error)) from None
        if stream.stats.error is not None:
            raise _to_gradio_error(stream.stats.error)

    async def stats() -> Stats:
        """Describe the running model: name, device, dtype, kernels, license, loading times, memory."""
        try:
            engine = await asyncio.to_thread(source.engine)
            return _published(asdict(await asyncio.to_thread(engine.info)))
        except Exception as error:
            raise _to_gradio_error(f"The model could not be loaded: {error}") from error

    def presets() -> dict[str, Settings]:
        """Return ready settings for `generate` by name: steady, balanced, wild and neutral."""
        return {
            name: {field: getattr(sampling, field) for field in PRESET_FIELDS}
            for name, sampling in PRESETS.items()
        }

    _annotate_outputs(generate, tuple[str, Stats])
    _annotate_outputs(stats, Stats)
    _annotate_outputs(presets, dict[str, Settings])
    api(generate, api_name="generate", concurrency_limit=None)
    api(stats, api_name="stats", concurrency_limit=None)
    api(presets, api_name="presets", concurrency_limit=None)


def stats_to_dict(stats: RequestStats) -> Stats:
    """Return all measurements of a request, with `state_bytes` and `kv_bytes`, the sums of its memory."""
    return _published(asdict(stats)) | {"state_bytes": stats.state_bytes, "kv_bytes": stats.kv_bytes}


def _published(fields: Stats) -> Stats:
    """Map field names and placement values to the API's stable ones."""
    published = {_PUBLISHED_NAMES.get(name, name): value for name, value in fields.items()}
    if "residence" in published:
        published["residence"] = _PUBLISHED_PLACEMENTS.get(published["residence"], published["residence"])
    return published


def _annotate_outputs(function: Callable[..., object], outputs: object) -> None:
    """Set the return annotation that Gradio reads, since a generator's own does not name the outputs."""
    signature = inspect.signature(function).replace(return_annotation=outputs)
    setattr(function, "__signature__", signature)  # noqa: B010 - functions declare no such attribute


def _to_gradio_error(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)
