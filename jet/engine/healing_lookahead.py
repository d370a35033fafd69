"""HealingLookahead: computes the logits after candidate tokens of token healing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from jet.api import TokenLogprob, TokenLogprobs
from jet.cache.state_pool import StatePool
from jet.engine.decoder import Decoder
from jet.engine.sequence import Sequence
from jet.engine.text.healing import HealingPath, Logits, log_softmax


class HealingLookahead:
    """Computes the logits after paths of candidate tokens, by running them on one sequence's state."""

    def __init__(
        self,
        pool: StatePool,
        decoder: Decoder,
        reserve_next: Callable[[Sequence], MemoryError | None],
        sequence: Sequence,
        logits: Tensor,
    ) -> None:
        """`logits`: `[1, V]`, of the token after the sequence's tokens.

        `reserve_next` reserves memory for one more token of a sequence, or returns the error.
        """
        self._pool, self._decoder, self._reserve_next = pool, decoder, reserve_next
        self._sequence = sequence
        self._path: tuple[int, ...] = ()
        self._known: dict[tuple[int, ...], Logits] = {(): _to_numpy(logits)}

    def __call__(self, path: tuple[int, ...]) -> Logits:
        """Return the logits `[V]` after a path of tokens."""
        if path not in self._known:
            self._known[path] = self.advance(path)
        return self._known[path]

    def advance(self, path: tuple[int, ...]) -> Logits:
        """Move the sequence's state to the end of a path; return the logits `[V]` after it.

        Raises MemoryError if there is no room for the path's tokens.
        """
        sequence = self._sequence
        assert sequence.slot is not None
        if not self._path and path:
            self._pool.save_scratch(sequence.slot)
        elif path[: len(self._path)] != self._path:
            self._pool.restore_scratch(sequence.slot)
            sequence.num_computed_tokens -= len(self._path)
            del sequence.token_ids[sequence.num_computed_tokens :]
            self._path = ()
        for token in path[len(self._path) :]:
            if (error := self._reserve_next(sequence)) is not None:
                raise error
            sequence.token_ids.append(token)
            logits = self._decoder.compute_logits(sequence)
            sequence.num_computed_tokens += 1
            self._path = (*self._path, token)
            self._known[self._path] = _to_numpy(logits)
        return self._known[path]

    def logprobs(self, healed: HealingPath) -> TokenLogprobs:
        """Return the log-probabilities of a path's last token and of the likeliest tokens in its place.

        Only tokens that add text after the prompt's bytes count as likely ones.
        """
        logprobs = log_softmax(self(healed.path), 1.0)
        node = healed.node
        ids = np.array([one for one in node.covers.tolist() if one not in node.exact], np.int32)
        ids = ids[np.argsort(-logprobs[ids], kind="stable")][: self._sequence.top_logprobs]
        top = tuple(TokenLogprob(id, "", float(logprobs[id])) for id in ids.tolist())
        return TokenLogprobs(TokenLogprob(healed.token, "", float(logprobs[healed.token])), top)


def _to_numpy(logits: Tensor) -> Logits:
    numbers: Logits = logits[0].double().cpu().numpy()
    return numbers
