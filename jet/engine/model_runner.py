"""ModelRunner: runs prompt chunks and decode steps of requests, each of which has a slot for its state.

A request leaves snapshots behind: at the end of its prompt, every `snapshot_interval` tokens and at its own
end. The same user's next request starts from the longest snapshot that is a prefix of its prompt. Snapshots
that the device has no room for move to host memory, and are loaded back from there.

Everything here runs on the engine's device thread.
"""

from __future__ import annotations

from array import array
from collections import abc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from jet.api import SamplingParams, TokenLogprobs
from jet.cache.disk_store import DiskStore
from jet.cache.host_pool import HostPool
from jet.cache.pinned import to_device
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.decode_loop import DecodeLoop
from jet.engine.decode_step import DecodeStep
from jet.engine.decoder import Decoder, make_decoder
from jet.engine.prefill import Prefill, make_prefill
from jet.engine.rollback import Rollback
from jet.engine.scoring import ScoringPrefill
from jet.engine.sequence import Sequence, Snapshot
from jet.engine.snapshots import Snapshots, pages_to_reserve
from jet.engine.stored_states import StoredStates
from jet.engine.text.healing import Healing, HealingPath
from jet.engine.text.word_bias import BiasedSequence
from jet.engine.unpacked_prefill import Part
from jet.hardware import synchronize
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.structure_check import StructureGuard
from jet.token_ids import Tokens

SNAPSHOT_INTERVAL = 256  # tokens: an edit recomputes at most so many before it, while the snapshots last


class ModelRunner:
    """Runs requests on a network: prefills prompts in chunks and decodes all requests in one batch."""

    def __init__(
        self,
        model: JetNemotronForCausalLM,
        stop_ids: frozenset[int],
        decode_threads: int | None = None,
        slots: int = 4,
        tokens: int | None = None,
        context: int | None = None,
        dry_sequence_breakers: frozenset[int] = frozenset(),
        cache_slots: int = 8,
        snapshot_interval: int = SNAPSHOT_INTERVAL,
        host_bytes: int = 0,
        disk_store: DiskStore | None = None,
        small_cache: bool = False,
    ) -> None:
        """Allocate memory for `slots` requests of up to `context` tokens each and `tokens` in total.

        Args:
            model: the network; its weights are fused in place.
            stop_ids: tokens that end a text.
            decode_threads: threads for decode steps on a CPU; prefill uses all of torch's threads.
            slots: requests that run at once.
            tokens: tokens of all requests and snapshots in full attention; None for `slots * context`.
            context: most tokens of a request; None for the network's limit.
            dry_sequence_breakers: tokens at which DRY ends a repetition.
            cache_slots: snapshots on the device; their keys and values share the memory for `tokens`.
            snapshot_interval: tokens between snapshots of a request.
            host_bytes: bytes of host memory for snapshots that the device has no room for.
            small_cache: keep no more than `cache_slots` snapshots, also while slots of requests are free.
            disk_store: stores snapshots of users whose cache salt stays the same after a restart; None to
                store none.
        """
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model = model
        context = context or config.max_position_embeddings
        self._snapshot_interval = snapshot_interval
        self._prefill_threads = torch.get_num_threads()
        self._decode_threads = decode_threads or self._prefill_threads
        tokens = slots * context if tokens is None else tokens
        with torch.inference_mode():
            tokens += slots * 2 * PAGE_SIZE  # each may have a partly filled page, and one copied on write
            self._pool = StatePool(
                config, slots + cache_slots, tokens, model.dtype, model.device, context, scratch=True
            )
            self._decoder: Decoder = make_decoder(
                model, self._pool, stop_ids, dry_sequence_breakers, slots, self._decode_threads
            )
            self._prefill = make_prefill(model, self._pool)
            self._guard = StructureGuard(model)
            self._host_pool = HostPool(self._pool, host_bytes)
        most_on_device = cache_slots if small_cache else slots + cache_slots
        self._snapshots = Snapshots(
            self._pool, self._host_pool, most_on_device, max(3, cache_slots // 8), self.reset
        )
        self._prefix_cache = self._snapshots.cache
        self._rollback = Rollback(self._pool, self._prefix_cache, self._decoder, self._reserve_next)
        self._decode_loop = DecodeLoop(
            self._pool,
            self._decoder,
            self._snapshots,
            self._rollback,
            self._reserve_next,
            stop_ids,
            context,
            snapshot_interval,
        )
        self.stored_states = StoredStates(disk_store, self._pool, self._prefix_cache, config.vocab_size)

    @property
    def kernels(self) -> dict[str, str]:
        """Return a description of the implementation of each operation, by the operation's name."""
        return self._decoder.kernels | self._prefill.kernels

    @property
    def decode_step(self) -> DecodeStep:
        """Return the decode step of one row, for inspection."""
        return self._decoder.step

    @property
    def num_cached(self) -> int:
        """Return the number of snapshots in the prefix cache."""
        return len(self._prefix_cache)

    @property
    def num_on_host(self) -> tuple[int, int]:
        """Return how many snapshots are in host memory, and their bytes."""
        return self._prefix_cache.num_on_host, self._host_pool.nbytes

    @property
    def pages_in_use(self) -> int:
        """Return the number of pages that running requests hold or have reserved.

        Pages of snapshots alone do not count, since they can be evicted.
        """
        return self._pool.allocator.in_use

    def capture_next(self) -> bool:
        """Compile one kernel or capture one graph for later steps; return False if nothing is left to do."""
        return self._decoder.capture_next() or self._prefill.capture_next()

    @torch.inference_mode()
    def allocate(
        self,
        sampling: SamplingParams,
        top_logprobs: int = 0,
        prompt: abc.Sequence[int] | Tokens = (),
        max_tokens: int = 0,
        cache_salt: str = "",
    ) -> Sequence:
        """Allocate a slot for a new request, whose seed must be set.

        Reserves pages for `max_tokens` tokens, prompt included, less those of the cached prefix.
        Raises MemoryError if there is no room now.
        """
        assert sampling.seed is not None
        self.stored_states.load(cache_salt, np.asarray(prompt, np.int32))
        handle = self._snapshots.lock_prefix(cache_salt, np.asarray(prompt, np.int32))
        try:
            slot = self._pool.allocate(pages_to_reserve(max_tokens, handle))
        except MemoryError:
            self._snapshots.unlock_prefix(handle)
            raise
        sequence = Sequence(
            sampling, slot, cache_salt, max_tokens, top_logprobs=top_logprobs, cache_handle=handle
        )
        self._decoder.add(sequence)
        return sequence

    def heal(self, sequence: Sequence, healing: Healing) -> None:
        """Set the tokens that token healing has removed from the prompt's end.

        They are drawn again after the prefill of the remaining prompt.
        """
        sequence.healing = healing

    def healed_path(self, sequence: Sequence) -> HealingPath | None:
        """Return the tokens that healing has drawn; None before that."""
        return sequence.healed_path

    @torch.inference_mode()
    def set_min_tokens(self, sequence: Sequence, tokens: int) -> None:
        """Forbid stop tokens among the first `tokens` of the answer; call before any prefill."""
        sequence.min_tokens = tokens
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    @torch.inference_mode()
    def bias(
        self, sequence: Sequence, logit_bias: abc.Sequence[tuple[int, float]], raw_logprobs: bool
    ) -> None:
        """Set the logit bias: pairs of a token id and a number that is added to its logit.

        Must be called before any prefill. `raw_logprobs`: whether log-probabilities are those from before
        bias and penalties.
        """
        sequence.logit_bias, sequence.raw_logprobs = logit_bias, raw_logprobs
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    def guard(self, sequence: Sequence) -> None:
        """Declare that a new sequence may be rolled back, so that `mark` keeps snapshots of it."""
        sequence.guarded = True

    @torch.inference_mode()
    def mark(self, sequence: Sequence, length: int, may_complete: bool = False) -> None:
        """Keep the snapshots that a rollback of a guarded sequence to `length` tokens or more needs.

        Keeps none if there is no memory for them. `may_complete`: whether the next token may complete a
        banned phrase.
        """
        sequence.waits = may_complete
        self._rollback.mark(sequence, length)

    @torch.inference_mode()
    def roll_back(
        self,
        sequence: Sequence,
        length: int,
        num_generated: int,
        barred: tuple[int, ...],
        healing: Healing | None = None,
    ) -> bool:
        """Take back all tokens from `length` on; see `Rollback.roll_back`.

        Returns False if the sequence has to be `reset` instead. Raises MemoryError.
        """
        with _memory_errors("going back"):
            return self._rollback.roll_back(sequence, length, num_generated, barred, healing)

    @torch.inference_mode()
    def bias_words(self, sequence: Sequence, word_bias: tuple[BiasedSequence, ...]) -> None:
        """Set the biases of words, which are given as token sequences; call before any prefill."""
        sequence.word_bias = word_bias
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    @torch.inference_mode()
    def forbid(self, sequence: Sequence, token_ids: abc.Sequence[int], steps: int) -> None:
        """Forbid tokens in the first `steps` steps of the answer; call before any prefill."""
        sequence.forbidden = token_ids, steps
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    @torch.inference_mode()
    def restore_prefix(self, sequence: Sequence, prompt: abc.Sequence[int] | Tokens) -> int:
        """Restore the longest cached prefix of the prompt, before its prefill; return its token count."""
        assert sequence.slot is not None and not sequence.num_computed_tokens
        tokens = np.asarray(prompt, np.int32)
        # A longer prefix may have been cached since `allocate`. Shared pages were not reserved, so then only
        # device entries, which share theirs, will do.
        shares = sequence.cache_handle is not None and not sequence.cache_handle[0].on_host
        found = (
            self._prefix_cache.match_prefix(sequence.cache_salt, tokens, device_only=shares)
            if sequence.cache_salt
            else None
        )
        if found is not None and self._snapshots.restore(found, sequence):
            sequence.num_computed_tokens = sequence.last_snapshot = len(found.tokens)
            sequence.token_ids = array("i", found.tokens.tobytes())
            if len(found.tokens) == len(tokens):
                sequence.logits = self._snapshots.on_device(found.state.logits)
            ids = to_device(found.tokens, torch.int64, self._model.device)
            self._decoder.append_prompt(sequence, ids)
        handle, sequence.cache_handle = sequence.cache_handle, None
        self._snapshots.unlock_prefix(handle)
        return sequence.num_computed_tokens

    @torch.inference_mode()
    def prefill(
        self,
        sequence: Sequence,
        tokens: abc.Sequence[int] | Tokens,
        prefill: Prefill | ScoringPrefill | None = None,
    ) -> None:
        """Run one chunk of the prompt, with another implementation than the usual one if `prefill` is given.

        Raises MemoryError if there is no room, CheckpointError if the network's modules have been replaced.
        """
        self._begin_chunk(sequence, len(tokens))
        assert sequence.slot is not None
        with _memory_errors(f"reading {len(tokens)} tokens after {sequence.num_computed_tokens}"):
            ids = to_device(np.asarray(tokens), torch.int64, self._model.device)
            logits = (prefill or self._prefill).run(sequence.slot, sequence.num_computed_tokens, ids)
        self._check_network()
        self._end_chunk(sequence, tokens, logits)

    @property
    def max_packed(self) -> int:
        """Return how many tokens one chunk of several sequences can hold; 0 if each is prefilled alone."""
        return self._prefill.max_packed

    @torch.inference_mode()
    def prefill_packed(
        self, sequences: abc.Sequence[Sequence], chunks: abc.Sequence[Tokens]
    ) -> list[MemoryError | None]:
        """Run the next tokens of several sequences in one chunk.

        Returns a value for each sequence: its MemoryError if there was no room for it, otherwise None. If an
        exception is raised, no sequence has changed.
        """
        errors: list[MemoryError | None] = [None] * len(sequences)
        parts, ready = list[Part](), list[tuple[Sequence, Tokens]]()
        for index, (sequence, tokens) in enumerate(zip(sequences, chunks, strict=True)):
            try:
                self._begin_chunk(sequence, len(tokens))
            except MemoryError as error:
                errors[index] = error
                continue
            assert sequence.slot is not None
            parts.append(Part(sequence.slot, sequence.num_computed_tokens, np.asarray(tokens, np.int32)))
            ready.append((sequence, tokens))
        if ready:
            with _memory_errors(f"reading {len(ready)} prompts"):
                logits = self._prefill.run_packed(parts)
            self._check_network()
            for row, (sequence, tokens) in enumerate(ready):
                self._end_chunk(sequence, tokens, logits[row : row + 1].clone())
        return errors

    def _begin_chunk(self, sequence: Sequence, tokens: int) -> None:
        """Take a snapshot if one is due, and reserve memory for `tokens` more tokens. Raises MemoryError."""
        assert sequence.slot is not None
        _use_threads(self._prefill_threads)
        # More of the prompt follows, so the last chunk's logits are never sampled: snapshot without them.
        if sequence.num_computed_tokens - sequence.last_snapshot >= self._snapshot_interval:
            sequence.logits = None
            self._snapshots.take(sequence)
        with _memory_errors(f"reading {tokens} tokens after {sequence.num_computed_tokens}"):
            before = sequence.num_computed_tokens
            self._pool.reserve(sequence.slot, before + tokens, before)

    def _check_network(self) -> None:
        """Raise CheckpointError if prefill and decode do not run the same network.

        Called once a chunk has been launched, so that the check, about a millisecond, overlaps with it.
        """
        self._guard.check()

    def _end_chunk(self, sequence: Sequence, tokens: abc.Sequence[int] | Tokens, logits: Tensor) -> None:
        sequence.num_computed_tokens += len(tokens)
        sequence.token_ids.extend(map(int, tokens))
        sequence.logits = logits
        ids = to_device(np.asarray(tokens), torch.int64, self._model.device)
        self._decoder.append_prompt(sequence, ids)

    @torch.inference_mode()
    def score(
        self, sequence: Sequence, tokens: Tokens, following: Tokens, top_logprobs: int
    ) -> list[TokenLogprobs]:
        """Prefill one chunk of the prompt; return the log-probability of each token in `following`.

        `following` has the token after each token of the chunk. In the prompt's last chunk it is one token
        shorter than the chunk.
        """
        scorer = ScoringPrefill(self._model, self._pool, following, top_logprobs)
        self.prefill(sequence, tokens, scorer)
        return scorer.found

    def synchronize(self, blocking: bool) -> bool:
        """Return whether the prefill is known to have finished; with `blocking`, wait for it first.

        On a CPU the prefill has always finished. On a GPU this is known only with `blocking`.
        """
        if blocking:
            synchronize(self._model.device)
        return blocking or self._model.device.type == "cpu"

    @torch.inference_mode()
    def decode(self, sequences: abc.Sequence[Sequence]) -> list[int | Exception]:
        """Return each sequence's next token, or the MemoryError or FloatingPointError that ends the sequence.

        All must have been prefilled. If an exception is raised, the states of all are lost.
        """
        _use_threads(self._decode_threads)
        with _memory_errors("writing"):
            return self._decode_loop.step(sequences)

    def decode_one(self, sequence: Sequence) -> int:
        """Return the next token of one request, or raise the error that `decode` returns."""
        (outcome,) = self.decode([sequence])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @torch.inference_mode()
    def reset(self, sequence: Sequence) -> None:
        """Empty a lost state, so that the engine can prefill the prompt and the accepted tokens again."""
        assert sequence.slot is not None
        self._rollback.drop_all(sequence)
        slot, sequence.slot = sequence.slot, None
        self._pool.free(slot)
        sequence.slot = self._pool.allocate(pages_to_reserve(sequence.max_tokens, None))
        sequence.token_ids, sequence.num_computed_tokens, sequence.last_snapshot = array("i"), 0, 0
        sequence.logits = sequence.in_flight = None
        sequence.num_generated = sequence.num_accepted
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    def logprobs(self, sequence: Sequence) -> TokenLogprobs | None:
        """Return the last token's log-probabilities, without texts; None if the request wants none."""
        return sequence.logprobs

    def state_bytes(self, sequence: Sequence) -> dict[str, int]:
        """Return the bytes of the request's state by kind: recurrent, conv, window_kv, full_kv.

        Returns an empty dictionary once the request has been freed.
        """
        if sequence.slot is None:
            return {}
        return self._pool.state_bytes(sequence.num_computed_tokens)

    @torch.inference_mode()
    def free(self, sequence: Sequence, keep_snapshot: bool = True) -> None:
        """Free a finished request.

        `keep_snapshot`: whether to keep the request's state as a snapshot. If not, all snapshots that the
        request has left are removed, too.
        """
        if sequence.slot is not None and sequence.in_flight is not None and keep_snapshot:
            step, sequence.in_flight = sequence.in_flight, None
            keep_snapshot = isinstance(self._decode_loop.accept(sequence, step), int)
        self._rollback.drop_all(sequence)
        slot, sequence.slot = sequence.slot, None
        handle, sequence.cache_handle = sequence.cache_handle, None
        self._snapshots.unlock_prefix(handle)
        if slot is None:
            return
        # With these logits, a request that draws the last token again has nothing to prefill.
        logits = sequence.logits if sequence.barred_now else None  # just rolled back
        if len(sequence.token_ids) == sequence.num_computed_tokens + 1:
            logits = self._decoder.last_logits(sequence)
        self._decoder.remove(sequence)
        if not keep_snapshot:
            self._prefix_cache.remove_request(sequence)
        if keep_snapshot and sequence.cache_salt and sequence.num_computed_tokens > sequence.last_snapshot:
            self._pool.freeze(slot, sequence.num_computed_tokens)
            self._snapshots.insert(sequence, Snapshot(slot, logits))
        else:
            self._pool.free(slot)
        sequence.in_flight = sequence.logits = None
        if keep_snapshot:
            self.stored_states.note(sequence)

    @torch.inference_mode()
    def close(self) -> None:
        """Release the network and all states, and return their memory to the device."""
        self.stored_states.close()
        self._decoder.close()
        self._host_pool.close()
        del (
            self._model,
            self._decoder,
            self._prefill,
            self._guard,
            self._pool,
            self._host_pool,
            self._snapshots,
            self._prefix_cache,
            self._rollback,
            self._decode_loop,
            self.stored_states,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _reserve_next(self, sequence: Sequence) -> MemoryError | None:
        """Reserve memory for one more token; return the MemoryError if there is none."""
        assert sequence.slot is not None
        try:
            self._pool.reserve(sequence.slot, sequence.num_computed_tokens + 1, sequence.num_computed_tokens)
        except MemoryError as error:
            return error
        return None


def _use_threads(count: int) -> None:
    """Set torch's number of threads for this thread, unless it is set already, since setting takes time."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def _memory_errors(doing: str) -> Iterator[None]:
    """Turn torch's out-of-memory errors into MemoryError, with a message for the user."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"The device ran out of memory when {doing}.") from None
