"""ModelRunner: the network with the state of each request, one token in, one token out.

Everything here runs on the engine's device thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from jet.engine.types import SamplingParams
from jet.modeling import HybridCache, JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.decoder import Decoder
from jet.ops.sampling import penalise_repetition, sample, uniform


@dataclass(eq=False)
class Sequence:
    """What the runner remembers of one request.

    Attributes:
        cache: the network's state after all tokens read so far.
        logits: `[1, V]` after the last token read; None before the first.
        pending: the token sampled last, not yet read by the network: most often the last one never has to be.
        seen: `[1, V]`, the tokens that the repetition penalty is for; None where there is no penalty.
        steps: tokens sampled so far, which numbers their random numbers.
    """

    sampling: SamplingParams
    cache: HybridCache
    seen: Tensor | None
    logits: Tensor | None = None
    pending: int | None = None
    steps: int = 0


class ModelRunner:
    """Runs requests on a network, one at a time and each with a state of its own."""

    def __init__(
        self, model: JetNemotronForCausalLM, stop_ids: frozenset[int], decode_threads: int | None = None
    ) -> None:
        """`decode_threads` is for single tokens on a CPU; prompts always get all of torch's threads."""
        assert isinstance(model.config, JetNemotronConfig)
        self._model = model
        self._config = model.config
        self._decoder = Decoder(model) if model.device.type == "cpu" else None
        self._prefill_threads = torch.get_num_threads()
        self._decode_threads = decode_threads or self._prefill_threads
        # Penalising an end token for the one that the document started with would only make endings rare.
        self._never_seen = torch.tensor(sorted(stop_ids), dtype=torch.long, device=model.device)

    @torch.inference_mode()
    def open(self, sampling: SamplingParams) -> Sequence:
        """The state of a new request. Its seed must be set."""
        seen = None
        if sampling.repetition_penalty != 1:
            seen = torch.zeros(1, self._config.vocab_size, dtype=torch.bool, device=self._model.device)
        return Sequence(sampling, HybridCache(self._config), seen)

    @torch.inference_mode()
    def prefill(self, sequence: Sequence, tokens: list[int]) -> None:
        """Read one piece of the prompt."""
        _use_threads(self._prefill_threads)
        with _memory_errors(f"reading {len(tokens)} tokens after {sequence.cache.get_seq_length()}"):
            ids = self._read(sequence, tokens)
        if sequence.seen is not None:
            sequence.seen[0, ids] = True
            sequence.seen[0, self._never_seen] = False

    @torch.inference_mode()
    def step(self, sequence: Sequence) -> int:
        """The next token. Something must have been read before.

        Raises FloatingPointError if the network's output is NaN, MemoryError if the device is full.
        """
        _use_threads(self._decode_threads)
        with _memory_errors(f"writing token {sequence.steps + 1}"):
            if sequence.pending is not None:
                self._read_one(sequence, sequence.pending)
            token = self._sample(sequence)
        if sequence.seen is not None:
            sequence.seen[0, token] = True
        sequence.pending = token
        sequence.steps += 1
        return token

    def memory(self, sequence: Sequence) -> dict[str, int]:
        """Bytes of the request's state: recurrent, conv, window_kv, full_kv."""
        return sequence.cache.memory()

    def release(self, sequence: Sequence) -> None:
        """Drop the request's state, whoever still holds the sequence."""
        sequence.cache = HybridCache(self._config)
        sequence.logits = sequence.seen = None

    def close(self) -> None:
        """Let go of the network, so that its memory is free for another."""
        del self._model, self._decoder
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _read_one(self, sequence: Sequence, token: int) -> None:
        if self._decoder is None:
            self._read(sequence, [token])
        else:
            sequence.logits = self._decoder.step(token, sequence.cache)

    def _read(self, sequence: Sequence, tokens: list[int]) -> Tensor:
        """Run tokens through the network; returns them as a tensor `[T]`."""
        ids = torch.tensor(tokens, device=self._model.device)
        output = self._model(
            input_ids=ids[None], past_key_values=sequence.cache, use_cache=True, logits_to_keep=1
        )
        sequence.logits = output.logits[:, -1]
        return ids

    def _sample(self, sequence: Sequence) -> int:
        logits, sampling = sequence.logits, sequence.sampling
        assert logits is not None and sampling.seed is not None
        if sequence.seen is not None:
            logits = penalise_repetition(logits, sequence.seen, sampling.repetition_penalty)
        chance = uniform(sampling.seed, sequence.steps)
        token = sample(
            logits,
            torch.tensor([chance], dtype=torch.float64, device=logits.device),
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
        )
        return int(token)


def _use_threads(count: int) -> None:
    """For this thread, from now on. Asking is free, changing is not."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def _memory_errors(doing: str) -> Iterator[None]:
    """Turn torch's ways of saying that memory is full into MemoryError, in words for the writer."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"The device ran out of memory when {doing}.") from None
