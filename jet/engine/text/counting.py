"""PromptCounting: counts the tokens of texts and prompts, for engines that have a tokenizer."""

from __future__ import annotations

from typing import Protocol

from jet.api import Request


class CountingTokenizer(Protocol):
    """The tokenizer's methods that `PromptCounting` calls."""

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""

    def count_prompt(self, prompt: str, instruction: str = "", cache_salt: str = "") -> int:
        """Return the number of tokens of a prompt, with chat template and start token."""

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as the model gets it with healing."""


class PromptCounting:
    """Mixin: the methods of `jet.api.Engine` that need a tokenizer only."""

    _tokenizer: CountingTokenizer

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text. Raises RequestError if it cannot be tokenized."""
        return self._tokenizer.count(text)

    def count_prompt(self, request: Request) -> int:
        """Return the number of tokens of a request's prompt, with chat template and start token."""
        prompt = self.normalize_prompt(request.prompt) if request.healing else request.prompt
        return self._tokenizer.count_prompt(prompt, request.instruction, request.cache_salt)

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as the model gets it with `Request.healing`: trailing blanks may change."""
        return self._tokenizer.normalize_prompt(prompt)
