"""Protocols of the engine's dependencies: the model runner, the tokenizer and the snapshot store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from jet.api import SamplingParams, TokenLogprobs
from jet.engine.text.detokenizer import Detokenizer
from jet.engine.text.healing import Healing, HealingPath
from jet.engine.text.word_bias import BiasedSequence
from jet.token_ids import Tokens


class Runner(Protocol):
    """The model runner's methods that the engine calls. `sequence` is a request's opaque state."""

    def capture_next(self) -> bool:
        """Compile one kernel or capture one graph for later steps; return False if nothing is left to do."""
        ...

    def allocate(
        self, sampling: SamplingParams, top_logprobs: int, prompt: Tokens, max_tokens: int, cache_salt: str
    ) -> Any:
        """Allocate the state of a new request of up to `max_tokens` tokens, prompt included.

        `top_logprobs`: how many log-probabilities to keep for each token. Raises MemoryError if there is no
        room now.
        """
        ...

    def heal(self, sequence: Any, healing: Healing) -> None:
        """Set the tokens that token healing has removed from the prompt's end.

        They are drawn again after the prefill of the remaining prompt.
        """
        ...

    def healed_path(self, sequence: Any) -> HealingPath | None:
        """Return the tokens that healing has drawn; None before that."""
        ...

    def set_min_tokens(self, sequence: Any, tokens: int) -> None:
        """Forbid stop tokens among the first `tokens` of the answer."""
        ...

    def bias(self, sequence: Any, logit_bias: Sequence[tuple[int, float]], raw_logprobs: bool) -> None:
        """Set the logit bias: pairs of a token id and a number that is added to its logit.

        `raw_logprobs`: whether log-probabilities are those from before bias and penalties.
        """
        ...

    def bias_words(self, sequence: Any, word_bias: tuple[BiasedSequence, ...]) -> None:
        """Set the biases of words, which are given as token sequences."""
        ...

    def forbid(self, sequence: Any, token_ids: Sequence[int], steps: int) -> None:
        """Forbid tokens in the first `steps` steps of the answer."""
        ...

    def guard(self, sequence: Any) -> None:
        """Declare that a new sequence may be rolled back, so that `mark` keeps snapshots of it."""
        ...

    def mark(self, sequence: Any, length: int, may_complete: bool = False) -> None:
        """Keep the snapshots that a rollback to `length` tokens or more needs; call it after each token.

        `may_complete`: whether the next token may complete a banned phrase and have to be taken back.
        """
        ...

    def roll_back(
        self,
        sequence: Any,
        length: int,
        num_generated: int,
        barred: tuple[int, ...],
        healing: Healing | None = None,
    ) -> bool:
        """Take back all tokens from `length` on; return False if the sequence has to be reset instead.

        Args:
            sequence: the sequence.
            length: the number of tokens that stay, prompt included.
            num_generated: how many of these tokens count as drawn.
            barred: the tokens that must not be drawn next.
            healing: the end of the prompt if it has to be drawn again, too; None otherwise.
        """
        ...

    @property
    def max_packed(self) -> int:
        """Return how many tokens a chunk of several sequences can hold; 0 if each is prefilled alone."""
        ...

    def prefill_packed(self, sequences: Sequence[Any], chunks: Sequence[Tokens]) -> list[MemoryError | None]:
        """Run the next tokens of several sequences in one chunk.

        Returns a value for each sequence: its MemoryError if there was no room for it, otherwise None. If an
        exception is raised, no sequence has changed.
        """
        ...

    def score(
        self, sequence: Any, tokens: Tokens, following: Tokens, top_logprobs: int
    ) -> Sequence[TokenLogprobs]:
        """Prefill one chunk of the prompt; return the log-probability of each token in `following`.

        `following` has the token after each token of the chunk.
        """
        ...

    def restore_prefix(self, sequence: Any, prompt: Tokens) -> int:
        """Restore the longest cached prefix of the prompt; return its number of tokens."""
        ...

    def prefill(self, sequence: Any, tokens: Tokens) -> None:
        """Run one chunk of the prompt."""
        ...

    def synchronize(self, blocking: bool) -> bool:
        """Return whether the prefill has finished.

        With `blocking`, wait for it, so that its duration is known.
        """
        ...

    def decode(self, sequences: Sequence[Any]) -> list[int | Exception]:
        """Run a decode step; return each sequence's next token, or the error that ends the sequence.

        If an exception is raised, the states of all these sequences are lost.
        """
        ...

    def reset(self, sequence: Any) -> None:
        """Empty a lost state. The engine then prefills the prompt and the output so far again."""
        ...

    def logprobs(self, sequence: Any) -> TokenLogprobs | None:
        """Return the last token's log-probabilities, without texts; None if the request wants none."""
        ...

    def state_bytes(self, sequence: Any) -> dict[str, int]:
        """Return the bytes of the state by kind: recurrent, conv, window_kv, full_kv."""
        ...

    def free(self, sequence: Any, keep_snapshot: bool) -> None:
        """Free the state; with `keep_snapshot`, move it to the prefix cache."""
        ...

    def close(self) -> None:
        """Release the model."""
        ...


class Tokenizer(Protocol):
    """The tokenizer's methods that the engine calls."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end a text."""
        ...

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """Tokenize a prompt. Raises RequestError unless the prompt has 1 to `max_tokens` tokens.

        `instruction`: the user's turn for a chat model. `cache_salt`: identifies the user, whose earlier
        texts are reused.
        """
        ...

    def encode_healed(
        self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = ""
    ) -> tuple[Tokens, Healing | None, Detokenizer]:
        """Return the tokens to prefill, the tokens to draw again (None for none) and a detokenizer.

        The arguments are those of `encode`. Raises RequestError as `encode` does.
        """
        ...

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as `encode_healed` tokenizes it."""
        ...

    def count_prompt(self, prompt: str, instruction: str = "", cache_salt: str = "") -> int:
        """Return the number of tokens that `encode` returns, for a prompt of any length."""
        ...

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Detokenizer:
        """Return a detokenizer for the tokens after `prompt`."""
        ...

    def token_text(self, token: int, skip: int = 0) -> str:
        """Return the text of a single token, without its first `skip` bytes."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of a text. Raises RequestError if it cannot be tokenized."""
        ...

    def ids_of(self, text: str, cache_salt: str = "") -> Tokens:
        """Return the tokens of a text, without start token. Raises RequestError if it cannot be tokenized."""
        ...


class StateStorage(Protocol):
    """Stores the states of finished requests, one at a time."""

    def store_next(self) -> bool:
        """Store one state; return False if none is left to store."""
        ...

    def forget(self, cache_salt: str) -> None:
        """Remove a user's states from disk and memory; may be called from any thread."""
        ...
