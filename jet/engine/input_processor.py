"""InputProcessor: checks a request and tokenizes its prompt, on the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from jet.api import EngineInfo, Request, RequestError
from jet.engine.banned import BannedGuard, matcher_of, text_before
from jet.engine.interfaces import Tokenizer
from jet.engine.request_state import RequestState
from jet.engine.text.ending import make_ending, overrun_tokens
from jet.engine.text.word_bias import biased_sequences
from jet.token_ids import Tokens


class InputProcessor:
    """Turns requests into the states that an engine schedules; called from any thread."""

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo, clock: Callable[[], float]) -> None:
        """`info`: has the model's context and vocabulary sizes. `clock`: returns the time in seconds."""
        self._tokenizer, self._clock = tokenizer, clock
        self._context, self._vocabulary = info.context, info.vocabulary

    def process(self, request: Request) -> RequestState:
        """Return a new request's state. Raises RequestError if the request can never be served."""
        submitted = self._clock()
        most = self._context - 1
        given = (request.prompt, most, request.instruction, request.cache_salt)
        self._check_tokens([token for token, _ in request.logit_bias])
        self._check_tokens(request.stop_token_ids)
        if request.prompt_ids:
            prompt, healing = self._check_ids(request.prompt_ids, most), None
            detokenizer = self._tokenizer.detokenizer(prompt)
        elif request.healing:
            prompt, healing, detokenizer = self._tokenizer.encode_healed(*given)
        else:
            prompt, healing = self._tokenizer.encode(*given), None
            detokenizer = self._tokenizer.detokenizer(prompt)
        req = RequestState(request, prompt, healing, detokenizer, submitted)
        if request.banned:
            req.guard = self._make_guard(request)
        room = self._context - req.prompt_tokens
        if req.max_new_tokens > room:
            req.max_new_tokens, req.length_reason = room, "context"
        if request.word_bias:
            req.word_bias = biased_sequences(request.word_bias, self._tokenizer.ids_of)
        req.ending = make_ending(request, self._tokenizer.token_text)
        req.overrun = min(overrun_tokens(request.sampling), room - req.max_new_tokens)
        return req

    def _make_guard(self, request: Request) -> BannedGuard:
        matcher = matcher_of(tuple(request.banned), tuple(request.stop_strings))
        prompt = self._tokenizer.normalize_prompt(request.prompt) if request.healing else request.prompt
        before = text_before(prompt, request.prompt_ids, self._tokenizer.detokenizer(()), matcher)
        drawable = None if self._vocabulary is None else self._vocabulary - len(self._tokenizer.stop_ids)
        return BannedGuard(matcher, before, drawable)

    def _check_ids(self, ids: Sequence[int], most: int) -> Tokens:
        """Check a prompt of token ids and return it as an array.

        Raises RequestError if there are more than `most` ids, or if one is not in the vocabulary.
        """
        if len(ids) > most:
            raise RequestError(
                f"The prompt is too long: it has {len(ids):,} tokens, and {most:,} fit in the context of "
                "this model with room for one more. Please shorten it."
            )
        self._check_tokens(ids)
        return np.array(ids, np.int32)

    def _check_tokens(self, ids: Sequence[int]) -> None:
        if ids and self._vocabulary is not None and not 0 <= min(ids) <= max(ids) < self._vocabulary:
            raise RequestError(f"Token ids of this model are from 0 to {self._vocabulary - 1}.")
