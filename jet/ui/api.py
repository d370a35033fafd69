"""What programs call: `/generate`, which streams, and `/stats`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import gradio as gr
from gradio.events import api

from jet.engine.types import RequestError, RequestStats, SamplingParams
from jet.ui.inputs import read_request
from jet.ui.writing import EngineSource, Writing

DEFAULTS = SamplingParams()

Stats = dict[str, Any]


def add_api(source: EngineSource) -> None:
    """Add the named endpoints to the Blocks that are being built."""

    async def generate(
        prompt: str,
        max_new_tokens: int = DEFAULTS.max_new_tokens,
        temperature: float = DEFAULTS.temperature,
        top_p: float = DEFAULTS.top_p,
        top_k: int = DEFAULTS.top_k,
        min_p: float = DEFAULTS.min_p,
        repetition_penalty: float = DEFAULTS.repetition_penalty,
        seed: int | None = DEFAULTS.seed,
    ) -> AsyncIterator[tuple[str, Stats]]:
        """Continue a story. Streams (story, stats): the prompt with what is written so far, and the numbers.

        The same prompt, parameters and seed give the same story; without a seed one is drawn, and the stats
        name it. Cancelling the job ends the request.
        """
        try:
            request = read_request(
                prompt, max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed
            )
        except RequestError as error:
            raise _refusal(str(error)) from None
        story, writing = request.prompt, Writing(source, request)
        yield story, stats_of(writing.stats)
        async with aclosing(writing.chunks()) as chunks:
            async for chunk in chunks:
                story += chunk.text
                yield story, stats_of(chunk.stats)
        if writing.stats.error is not None:
            raise _refusal(writing.stats.error)

    async def stats() -> Stats:
        """What runs here: model, device, dtype, kernels, licence, times of loading and warm-up, memory."""
        try:
            engine = await asyncio.to_thread(source.engine)
            return asdict(await asyncio.to_thread(engine.info))
        except Exception as error:
            raise _refusal(f"The model could not be loaded: {error}") from error

    _say_outputs(generate, tuple[str, Stats])
    _say_outputs(stats, Stats)
    api(generate, api_name="generate", concurrency_limit=None)
    api(stats, api_name="stats", concurrency_limit=None)


def stats_of(stats: RequestStats) -> Stats:
    """Everything measured about a request, with the two sums that callers want most."""
    return asdict(stats) | {"state_bytes": stats.state_bytes, "kv_bytes": stats.kv_bytes}


def _say_outputs(function: Callable[..., object], outputs: object) -> None:
    """Gradio reads the outputs off the return annotation: of a generator it must be shown what is yielded."""
    signature = inspect.signature(function).replace(return_annotation=outputs)
    setattr(function, "__signature__", signature)  # noqa: B010 - functions declare no such attribute


def _refusal(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)
