"""Usage: counts the tokens of all answers to one request, as OpenAI does."""

from __future__ import annotations

from typing import Any

from jet.api import RequestStats


class Usage:
    """Counts the tokens of prompts and answers. A prompt with several answers counts once."""

    def __init__(self, answers_each: int = 1) -> None:
        self._each = answers_each
        self._prompts: dict[int, tuple[int, int]] = {}
        self.completion_tokens = 0

    def add(self, number: int, tokens: int, stats: RequestStats) -> None:
        """Count a part of answer `number` with so many `tokens`."""
        self.completion_tokens += tokens
        if number % self._each == 0:
            self._prompts[number] = stats.prompt_tokens, stats.cached_tokens

    def plain(self) -> dict[str, Any]:
        """Return OpenAI's `usage` object."""
        prompt = sum(tokens for tokens, _ in self._prompts.values())
        cached = sum(cached for _, cached in self._prompts.values())
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
