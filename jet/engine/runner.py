"""ModelRunner: the network with the state of each request in a slot, one token in, one token out.

Everything here runs on the engine's device thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from jet.engine.prefill import make_prefill
from jet.engine.stepping import Detail, Pending, Stepper, make_stepper
from jet.engine.types import SamplingParams
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.slots import SlotPool
from jet.modeling.step import FusedStep


@dataclass(eq=False)
class Sequence:
    """What the runner remembers of one request.

    Attributes:
        slot: its place in all states; None once it has been released.
        length: tokens in its state.
        steps: tokens drawn so far, which numbers their random numbers.
        last: the token drawn last; None before the first. It is read when the next one is wanted.
        ahead: the step that has been launched before anybody asked for its token.
        alternatives: how many to note for every token; 0 notes nothing.
        detail: what was noted of the last token.
    """

    sampling: SamplingParams
    slot: int | None
    length: int = 0
    steps: int = 0
    last: int | None = None
    ahead: Pending | None = None
    alternatives: int = 0
    detail: Detail | None = None


class ModelRunner:
    """Runs requests on a network, one at a time and each with a state of its own."""

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        stop_ids: frozenset[int],
        decode_threads: int | None = None,
        slots: int = 4,
        tokens: int | None = None,
        context: int | None = None,
        breakers: frozenset[int] = frozenset(),
    ) -> None:
        """Memory for `slots` requests, each of up to `context` tokens and all together of up to `tokens`.

        `breakers` are the tokens at which repetitions end for DRY.

        `decode_threads` is for single tokens on a CPU; prompts always get all of torch's threads.
        """
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model = model
        self._context = context or config.max_position_embeddings
        self._prefill_threads = torch.get_num_threads()
        self._decode_threads = decode_threads or self._prefill_threads
        tokens = slots * self._context if tokens is None else tokens
        with torch.inference_mode():
            self._pool = SlotPool(config, slots, tokens, model.dtype, model.device, self._context)
            self._stepper: Stepper = make_stepper(model, self._pool, stop_ids, breakers)
            self._prefill = make_prefill(model, self._pool)

    @property
    def kernels(self) -> dict[str, str]:
        """What computes a step: operation → implementation, in words for people."""
        return self._stepper.kernels | {"prefill": self._prefill.name}

    @property
    def fused_step(self) -> FusedStep:
        """What reads a token, to be looked at."""
        return self._stepper.step

    @torch.inference_mode()
    def open(self, sampling: SamplingParams, alternatives: int = 0) -> Sequence:
        """The state of a new request. Its seed must be set. Raises MemoryError if every slot is taken."""
        assert sampling.seed is not None
        sequence = Sequence(sampling, self._pool.open(), alternatives=alternatives)
        self._stepper.open(sequence)
        return sequence

    @torch.inference_mode()
    def prefill(self, sequence: Sequence, tokens: list[int]) -> None:
        """Read one piece of the prompt."""
        assert sequence.slot is not None
        _use_threads(self._prefill_threads)
        with _memory_errors(f"reading {len(tokens)} tokens after {sequence.length}"):
            self._pool.reserve(sequence.slot, sequence.length + len(tokens))
            ids = torch.tensor(tokens, device=self._model.device)
            logits = self._prefill.read(sequence.slot, sequence.length, ids)
        sequence.length += len(tokens)
        self._stepper.have_read(sequence, ids, logits)

    @torch.inference_mode()
    def step(self, sequence: Sequence) -> int:
        """The next token. Something must have been read before.

        Raises FloatingPointError if the network's output is NaN, MemoryError if the device is full.
        """
        _use_threads(self._decode_threads)
        with _memory_errors(f"writing token {sequence.steps + 1}"):
            pending = sequence.ahead or self._launch(sequence)
            sequence.ahead = None
            # Where the device already holds the token, it need not wait for us to have seen it.
            if self._stepper.runs_ahead(sequence):
                sequence.ahead = self._try_launch(sequence)
            sequence.last = pending.result()
            sequence.detail = pending.detail()
            return sequence.last

    def detail(self, sequence: Sequence) -> Detail | None:
        """How likely the last token was and what else might have stood there, if the request asked."""
        return sequence.detail

    def memory(self, sequence: Sequence) -> dict[str, int]:
        """Bytes of the request's state: recurrent, conv, window_kv, full_kv."""
        if sequence.slot is None:
            return {}
        return self._pool.memory(sequence.slot, sequence.length)

    def release(self, sequence: Sequence) -> None:
        """Free the request's slot for others."""
        slot, sequence.slot, sequence.ahead = sequence.slot, None, None
        if slot is not None:
            self._stepper.release(sequence)
            self._pool.close(slot)

    def close(self) -> None:
        """Let go of the network and of all states, so that their memory is free for others."""
        self._stepper.close()
        del self._model, self._stepper, self._prefill, self._pool
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _launch(self, sequence: Sequence) -> Pending:
        """Start a step: read the last token if there is one, then draw the next."""
        assert sequence.slot is not None
        reads = sequence.steps > 0
        if reads:
            self._pool.reserve(sequence.slot, sequence.length + 1)
        pending = self._stepper.launch(sequence, reads)
        sequence.length += reads
        sequence.steps += 1
        return pending

    def _try_launch(self, sequence: Sequence) -> Pending | None:
        """Start a step that may turn out not to be wanted: nothing is said if it cannot be."""
        if sequence.steps >= sequence.sampling.max_new_tokens or sequence.length >= self._context:
            return None
        try:
            return self._launch(sequence)
        except MemoryError:
            return None


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
