"""Run one request through an engine, reading its stream as the page does."""

from __future__ import annotations

from collections.abc import Sequence

from jet.api import Engine, Request, RequestStats, SamplingParams, TokenChunk
from jet.bench.options import BenchError

POLL_INTERVAL_S = 0.05  # the page asks for 20 chunks a second


def token_request(prompt: Sequence[int], sampling: SamplingParams) -> Request:
    """Create a request whose prompt is token ids, as `IdTokenizer` reads them."""
    return Request(" ".join(map(str, prompt)), sampling)


def run_request(engine: Engine, prompt: Sequence[int], sampling: SamplingParams) -> RequestStats:
    """Run a request; return its last stats. Raises BenchError unless it generates all its tokens."""
    (*_, last) = engine.submit(token_request(prompt, sampling)).chunks(POLL_INTERVAL_S)
    return check_finished(last, sampling.max_new_tokens)


def check_finished(last: TokenChunk, tokens: int | None) -> RequestStats:
    """Return the stats of a stream's last chunk.

    Raises BenchError if the request failed, or has not generated `tokens` tokens; None allows any number.
    """
    stats = last.stats
    if stats.error is not None:
        raise BenchError(f"The engine failed: {stats.error}")
    if tokens is not None and stats.tokens != tokens:
        raise BenchError(f"The engine wrote {stats.tokens} of {tokens} tokens ({stats.finish_reason}).")
    return stats
