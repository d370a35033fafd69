"""ModelRunner: the network with a state slot for each request; prompt chunks in, tokens out.

A request leaves snapshots behind: at the end of its prompt, every `snapshot_interval` tokens and at its own
end. The same user's next request with a common prefix starts from the longest one. Snapshots that the device
has no room for move to host memory, and are loaded back from there.

Everything here runs on the engine's device thread.
"""

from __future__ import annotations

import logging
from array import array
from collections import abc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from jet.api import SamplingParams, TokenLogprob, TokenLogprobs
from jet.cache.disk_store import DiskStore
from jet.cache.host_pool import HostPool, HostSnapshot
from jet.cache.pinned import to_device, to_host
from jet.cache.prefix_cache import CacheEntry, PrefixCache
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.decode_step import DecodeStep
from jet.engine.decoder import Decoder, make_decoder
from jet.engine.prefill import Prefill, make_prefill
from jet.engine.rollback import Rollback
from jet.engine.sampler import attempt_stream
from jet.engine.scoring import ScoringPrefill
from jet.engine.sequence import Sequence, Snapshot
from jet.engine.step_output import StepFuture
from jet.engine.stored_states import StoredStates
from jet.engine.text.healing import Healing, HealingPath, Logits, NoPathError, log_softmax
from jet.engine.text.healing import draw as sample_path
from jet.engine.text.word_bias import BiasedSequence
from jet.engine.unpacked_prefill import Part
from jet.hardware import synchronize
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.structure_check import StructureGuard
from jet.ops.sampling import uniform
from jet.token_ids import Tokens

SNAPSHOT_INTERVAL = 256  # tokens: an edit recomputes at most so many before it, while the snapshots last
DECODE_SNAPSHOT_INTERVAL = 8  # tokens between snapshots of a request that decodes alone
HEALING_STEP = 2**62  # the random step of healing, which no token has

log = logging.getLogger(__name__)


class ModelRunner:
    """Runs requests on a network: prefill one at a time, decode in batches."""

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
            host_bytes: host memory for snapshots that the device has no room for.
            small_cache: keep no more than `cache_slots` snapshots, also while slots of requests are free.
            disk_store: stores snapshots of users who are known again after a restart.
        """
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model = model
        self._context = context or config.max_position_embeddings
        self._stop_ids = stop_ids
        self._snapshot_interval = snapshot_interval
        self._max_snapshots = max(3, cache_slots // 8)
        self._most_cached = cache_slots if small_cache else slots + cache_slots
        self._batch_size = 1  # of the last step; snapshots so many tokens apart cost one copy a step
        self._prefill_threads = torch.get_num_threads()
        self._decode_threads = decode_threads or self._prefill_threads
        tokens = slots * self._context if tokens is None else tokens
        with torch.inference_mode():
            tokens += slots * 2 * PAGE_SIZE  # each may have a partly filled page, and one copied on write
            self._pool = StatePool(
                config, slots + cache_slots, tokens, model.dtype, model.device, self._context, scratch=True
            )
            self._decoder: Decoder = make_decoder(
                model, self._pool, stop_ids, dry_sequence_breakers, slots, self._decode_threads
            )
            self._prefill = make_prefill(model, self._pool)
            self._guard = StructureGuard(model)
            self._host_pool = HostPool(self._pool, host_bytes)
        self._prefix_cache: PrefixCache[Snapshot] = PrefixCache(self._free_snapshot, self._offload)
        self._rollback = Rollback(
            self._pool, self._prefix_cache, self._decoder, self._restore, self._reserve_next
        )
        self._pool.allocator.evict = self._prefix_cache.evict
        self._host_pool.evict = self._prefix_cache.evict_host
        self.stored_states = StoredStates(disk_store, self._pool, self._prefix_cache, config.vocab_size)

    @property
    def kernels(self) -> dict[str, str]:
        """Return operation → implementation, in words for people."""
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
        """Return the pages that running requests hold or have reserved; those of snapshots are evictable."""
        return self._pool.allocator.in_use

    def capture_next(self) -> bool:
        """Compile or capture a small part of later steps; False if nothing is left."""
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
        handle = self._lock_prefix(cache_salt, np.asarray(prompt, np.int32))
        try:
            slot = self._pool.allocate(self._pages_to_reserve(max_tokens, handle))
        except MemoryError:
            self._unlock_prefix(handle)
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
        """Return the tokens drawn by healing; None before that."""
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
        """Set the logit bias, before the prefill; `raw_logprobs` are taken before bias and penalties."""
        sequence.logit_bias, sequence.raw_logprobs = logit_bias, raw_logprobs
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    def guard(self, sequence: Sequence) -> None:
        """Prepare for rollbacks of a new sequence."""
        sequence.guarded = True

    @torch.inference_mode()
    def mark(self, sequence: Sequence, length: int) -> None:
        """Keep what a rollback of a guarded sequence to `length` tokens or more needs, as memory allows."""
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
        """Take back all tokens from `length` on; see `Rollback.roll_back`. False: `reset` it instead."""
        with _memory_errors("going back"):
            return self._rollback.roll_back(sequence, length, num_generated, barred, healing)

    @torch.inference_mode()
    def bias_words(self, sequence: Sequence, word_bias: tuple[BiasedSequence, ...]) -> None:
        """Set the bias of words, before the prefill."""
        sequence.word_bias = word_bias
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    @torch.inference_mode()
    def forbid(self, sequence: Sequence, token_ids: abc.Sequence[int], steps: int) -> None:
        """Forbid tokens among the first `steps` of the answer; call before any prefill."""
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
        if found is not None and self._restore(found, sequence):
            sequence.num_computed_tokens = sequence.last_snapshot = len(found.tokens)
            sequence.token_ids = array("i", found.tokens.tobytes())
            if len(found.tokens) == len(tokens):
                sequence.logits = self._on_device(found.state.logits)
            ids = to_device(found.tokens, torch.int64, self._model.device)
            self._decoder.append_prompt(sequence, ids)
        handle, sequence.cache_handle = sequence.cache_handle, None
        self._unlock_prefix(handle)
        return sequence.num_computed_tokens

    @torch.inference_mode()
    def prefill(
        self,
        sequence: Sequence,
        tokens: abc.Sequence[int] | Tokens,
        prefill: Prefill | ScoringPrefill | None = None,
    ) -> None:
        """Run one chunk of the prompt, by `prefill` if given. Raises MemoryError without memory for it."""
        self._begin_chunk(sequence, len(tokens))
        assert sequence.slot is not None
        with _memory_errors(f"reading {len(tokens)} tokens after {sequence.num_computed_tokens}"):
            ids = to_device(np.asarray(tokens), torch.int64, self._model.device)
            logits = (prefill or self._prefill).run(sequence.slot, sequence.num_computed_tokens, ids)
        self._check_network()
        self._end_chunk(sequence, tokens, logits)

    @property
    def max_packed(self) -> int:
        """Return the tokens that one chunk of several sequences can hold; 0 if each is prefilled alone."""
        return self._prefill.max_packed

    @torch.inference_mode()
    def prefill_packed(
        self, sequences: abc.Sequence[Sequence], chunks: abc.Sequence[Tokens]
    ) -> list[MemoryError | None]:
        """Run the next tokens of several sequences in one chunk; return who had no memory for its own.

        An exception that is raised concerns all; then no sequence has changed.
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
        """Take the snapshot that is due, and reserve memory for a chunk. Raises MemoryError."""
        assert sequence.slot is not None
        _use_threads(self._prefill_threads)
        # More of the prompt follows, so the last chunk's logits are never sampled: snapshot without them.
        if sequence.num_computed_tokens - sequence.last_snapshot >= self._snapshot_interval:
            sequence.logits = None
            self._snapshot(sequence)
        with _memory_errors(f"reading {tokens} tokens after {sequence.num_computed_tokens}"):
            before = sequence.num_computed_tokens
            self._pool.reserve(sequence.slot, before + tokens, before)

    def _check_network(self) -> None:
        """Raise CheckpointError if prefill and decode do not run the same network.

        To be called once a chunk has been launched: the check takes the host a millisecond.
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
        """Prefill one chunk of the prompt; return the log-probabilities of the tokens `following` its own.

        `following` has one token for every token of the chunk, or one less at the end of the prompt.
        """
        scorer = ScoringPrefill(self._model, self._pool, following, top_logprobs)
        self.prefill(sequence, tokens, scorer)
        return scorer.found

    def synchronize(self, blocking: bool) -> bool:
        """Return whether the prefill has finished, as always on a CPU; with `blocking`, wait for it first."""
        if blocking:
            synchronize(self._model.device)
        return blocking or self._model.device.type == "cpu"

    @torch.inference_mode()
    def decode(self, sequences: abc.Sequence[Sequence]) -> list[int | Exception]:
        """Return each sequence's next token, or the MemoryError or FloatingPointError that ends it alone.

        Each must have been prefilled. An exception that is raised concerns all: their states are lost.
        """
        _use_threads(self._decode_threads)
        sequences, outcomes = list(sequences), dict[Sequence, int | Exception]()
        self._batch_size = len(sequences)
        for sequence in sequences:
            sequence.num_accepted = sequence.num_generated - (sequence.in_flight is not None)
        with _memory_errors("writing"):
            in_flight = [(one, one.in_flight) for one in sequences if one.in_flight is not None]
            all_go_on = len(in_flight) == len(sequences) and all(map(self._continues, sequences))
            # If the device holds this batch already, launch the next step before reading this one's tokens.
            overlap = all_go_on and self._decoder.batch_is_on_device(sequences)
            if overlap:
                self._launch_next(sequences)
            for sequence, step in in_flight:
                sequence.in_flight = sequence.in_flight if overlap else None
                outcomes[sequence] = self._accept(sequence, step)
            if not overlap:
                self._sample_first([one for one in sequences if one not in outcomes], outcomes)
                self._decode_step([one for one in sequences if one not in outcomes], outcomes)
                self._launch_next([one for one in sequences if isinstance(outcomes[one], int)])
        return [outcomes[sequence] for sequence in sequences]

    def decode_one(self, sequence: Sequence) -> int:
        """Return the next token of one request, or raise the error that `decode` returns."""
        (outcome,) = self.decode([sequence])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @torch.inference_mode()
    def reset(self, sequence: Sequence) -> None:
        """Empty a lost state, for the engine to prefill the prompt and the accepted tokens again."""
        assert sequence.slot is not None
        self._rollback.drop_all(sequence)
        slot, sequence.slot = sequence.slot, None
        self._pool.free(slot)
        sequence.slot = self._pool.allocate(self._pages_to_reserve(sequence.max_tokens, None))
        sequence.token_ids, sequence.num_computed_tokens, sequence.last_snapshot = array("i"), 0, 0
        sequence.logits = sequence.in_flight = None
        sequence.num_generated = sequence.num_accepted
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    def logprobs(self, sequence: Sequence) -> TokenLogprobs | None:
        """Return the last token's log-probabilities, without texts; None if the request wants none."""
        return sequence.logprobs

    def state_bytes(self, sequence: Sequence) -> dict[str, int]:
        """Return the bytes of the request's state by kind: recurrent, conv, window_kv, full_kv."""
        if sequence.slot is None:
            return {}
        return self._pool.state_bytes(sequence.num_computed_tokens)

    @torch.inference_mode()
    def free(self, sequence: Sequence, keep_snapshot: bool = True) -> None:
        """Free a finished request; keep its state as a snapshot unless it is broken."""
        if sequence.slot is not None and sequence.in_flight is not None and keep_snapshot:
            step, sequence.in_flight = sequence.in_flight, None
            keep_snapshot = isinstance(self._accept(sequence, step), int)
        self._rollback.drop_all(sequence)
        slot, sequence.slot = sequence.slot, None
        handle, sequence.cache_handle = sequence.cache_handle, None
        self._unlock_prefix(handle)
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
            self._insert(sequence, Snapshot(slot, logits))
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
            self._prefix_cache,
            self._rollback,
            self.stored_states,
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _restore(self, found: CacheEntry[Snapshot], sequence: Sequence) -> bool:
        """Restore a sequence from a cache entry. Returns False, with the sequence empty, if that failed."""
        assert sequence.slot is not None
        location = found.state.location
        if not isinstance(location, HostSnapshot):
            self._pool.restore(location, sequence.slot)
            return True
        found.lock_ref += 1
        try:
            self._host_pool.load(location, sequence.slot)
            self._load_back(found, sequence.slot)
        except Exception:
            log.warning("A cached state could not be restored; its prompt is prefilled again.", exc_info=True)
            self._prefix_cache.remove(found)
            self.reset(sequence)
            return False
        finally:
            found.lock_ref -= 1
        return True

    def _load_back(self, found: CacheEntry[Snapshot], slot: int) -> None:
        """Move an entry that was just restored from the host back to the device tier, if that has room."""
        kept = self._pool.snapshot(slot, len(found.tokens))
        if kept is not None:
            self._prefix_cache.load_back(found, Snapshot(kept, self._on_device(found.state.logits)))

    def _on_device(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits.to(self._model.device, non_blocking=True)

    def _offload(self, snapshot: Snapshot) -> Snapshot | None:
        """Copy a snapshot to the host; None if there is no room or the copy failed."""
        assert isinstance(snapshot.location, int)
        try:
            saved = self._host_pool.save(snapshot.location)
            logits = None if snapshot.logits is None else to_host(snapshot.logits)
            return None if saved is None else Snapshot(saved, logits)
        except Exception:
            log.warning("A state could not be offloaded; its text will be prefilled again.", exc_info=True)
            return None

    def _free_snapshot(self, snapshot: Snapshot) -> None:
        if isinstance(snapshot.location, HostSnapshot):
            self._host_pool.free(snapshot.location)
        else:
            self._pool.free_snapshot(snapshot.location)

    def _lock_prefix(self, cache_salt: str, prompt: Tokens) -> tuple[CacheEntry[Snapshot], list[int]] | None:
        """Lock the longest cached prefix of a prompt, so that it is not evicted before its prefill."""
        found = self._prefix_cache.match_prefix(cache_salt, prompt) if cache_salt else None
        if found is None:
            return None
        found.lock_ref += 1
        location = found.state.location
        return found, [] if isinstance(location, HostSnapshot) else self._pool.ref_pages(location)

    def _unlock_prefix(self, handle: tuple[CacheEntry[Snapshot], list[int]] | None) -> None:
        if handle is not None:
            handle[0].lock_ref -= 1
            self._pool.allocator.unref(handle[1])

    def _pages_to_reserve(self, tokens: int, handle: tuple[CacheEntry[Snapshot], list[int]] | None) -> int:
        """Return the pages to reserve: those of `tokens`, less the full pages of the matched prefix.

        The prefix's last page is copied on write, hence one more. An entry on the host shares no pages.
        """
        if not tokens:
            return 0
        shared = 0 if handle is None or handle[0].on_host else len(handle[0].tokens) // PAGE_SIZE
        return -(-tokens // PAGE_SIZE) - shared + 1

    def _sample_first(
        self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, int | Exception]
    ) -> None:
        """Draw the first token of sequences that have just been prefilled, and snapshot their states."""
        launched = list[tuple[Sequence, StepFuture]]()
        for sequence in sequences:
            if sequence.logits is not None and sequence.healing is not None:
                outcomes[sequence] = self._sample_healing(sequence, sequence.healing)
            elif sequence.logits is not None:
                self._rollback.mark_first(sequence)
                launched.append((sequence, self._decoder.sample(sequence)))
                sequence.num_generated += 1
        for sequence, step in launched:
            outcome = outcomes[sequence] = self._accept(sequence, step)
            if isinstance(outcome, int) and sequence.num_computed_tokens > sequence.last_snapshot:
                self._snapshot(sequence)
            sequence.logits = None

    def _sample_healing(self, sequence: Sequence, healing: Healing) -> int | Exception:
        """Draw the end of the prompt again. The state before it is kept as a snapshot."""
        if sequence.num_computed_tokens > sequence.last_snapshot:
            self._snapshot(sequence)
        self._rollback.mark_first(sequence)
        barred = sequence.barred_now
        logits, sequence.logits, sequence.has_generated = sequence.logits, None, True
        assert logits is not None
        lookahead = _Lookahead(self, sequence, logits)
        sampling = sequence.sampling
        try:
            chance = uniform(sampling.seed or 0, HEALING_STEP, attempt_stream(len(barred)))
            filters = sampling.top_k, sampling.top_p, barred
            healed = sample_path(healing.root, lookahead, sampling.temperature, chance, *filters)
            lookahead.advance(healed.path)
        except (MemoryError, FloatingPointError, NoPathError) as error:
            return error
        if sequence.top_logprobs:
            sequence.logprobs = lookahead.logprobs(healed)
        sequence.healing, sequence.healed_path = None, healed
        sequence.num_generated += healed.adds
        sequence.token_ids.append(healed.token)
        ids = torch.tensor([*healed.path, healed.token], device=self._model.device)
        self._decoder.append_prompt(sequence, ids)
        return healed.token

    def _decode_step(
        self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, int | Exception]
    ) -> None:
        """Run one step of sequences without a step in flight."""
        full = {one: error for one in sequences if (error := self._reserve_next(one)) is not None}
        outcomes.update(full)
        able = [one for one in sequences if one not in full]
        for sequence, step in zip(able, self._launch(able), strict=True):
            outcomes[sequence] = self._accept(sequence, step)

    def _launch_next(self, sequences: abc.Sequence[Sequence]) -> None:
        """Launch the next step ahead, if all that will continue can overlap; does nothing otherwise."""
        for sequence in sequences:
            sequence.in_flight = None
        continuing = [one for one in sequences if self._continues(one)]
        if not continuing or not self._decoder.can_overlap(continuing):
            return
        if any(map(self._reserve_next, continuing)):
            return
        for sequence, step in zip(continuing, self._launch(continuing), strict=True):
            sequence.in_flight = step

    def _continues(self, sequence: Sequence) -> bool:
        more = (
            sequence.num_generated < sequence.sampling.max_new_tokens
            and sequence.num_computed_tokens < self._context
        )
        return more and sequence.last_token not in self._stop_ids

    def _reserve_next(self, sequence: Sequence) -> MemoryError | None:
        """Reserve memory for one more token; return the MemoryError if there is none."""
        assert sequence.slot is not None
        try:
            self._pool.reserve(sequence.slot, sequence.num_computed_tokens + 1, sequence.num_computed_tokens)
        except MemoryError as error:
            return error
        return None

    def _launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        """Launch a step of these sequences: one future each."""
        if not sequences:
            return []
        steps = self._decoder.launch(sequences)
        for sequence in sequences:
            sequence.num_computed_tokens += 1
            sequence.num_generated += 1
        return steps

    def _accept(self, sequence: Sequence, step: StepFuture) -> int | Exception:
        """Wait for a token and append it; return it, or the FloatingPointError of NaN logits."""
        try:
            token, sequence.logprobs = step.result()
        except FloatingPointError as error:
            return error
        sequence.has_generated = True
        sequence.token_ids.append(token)
        if sequence.in_flight is not None and token in self._stop_ids:
            sequence.in_flight = None  # the step in flight skips sequences that have stopped
            sequence.num_computed_tokens -= 1
        if sequence.num_computed_tokens - sequence.last_snapshot >= min(
            self._snapshot_interval, max(DECODE_SNAPSHOT_INTERVAL, self._batch_size)
        ):
            self._snapshot(sequence)
        return token

    def _snapshot(self, sequence: Sequence) -> None:
        """Copy the state to a snapshot in the prefix cache, if a slot is free."""
        assert sequence.slot is not None
        if not sequence.cache_salt:
            return
        kept = self._pool.snapshot(sequence.slot, sequence.num_computed_tokens)
        if kept is not None:
            self._insert(sequence, Snapshot(kept, sequence.logits))

    def _insert(self, sequence: Sequence, snapshot: Snapshot) -> None:
        has_logits = snapshot.logits is not None
        self._prefix_cache.insert(
            CacheEntry(sequence.cache_salt, sequence.computed_tokens, snapshot, has_logits, sequence)
        )
        self._prefix_cache.prune(sequence, self._max_snapshots)
        while len(self._prefix_cache) - self._prefix_cache.num_on_host > self._most_cached:
            if not self._prefix_cache.evict():
                break
        sequence.last_snapshot = sequence.num_computed_tokens


class _Lookahead:
    """Computes logits after candidate tokens of healing, moving one sequence's state along."""

    def __init__(self, runner: ModelRunner, sequence: Sequence, logits: Tensor) -> None:
        self._runner, self._sequence = runner, sequence
        self._path: tuple[int, ...] = ()
        self._known: dict[tuple[int, ...], Logits] = {(): _to_numpy(logits)}

    def __call__(self, path: tuple[int, ...]) -> Logits:
        """Return the logits `[V]` after a path of tokens."""
        if path not in self._known:
            self._known[path] = self.advance(path)
        return self._known[path]

    def advance(self, path: tuple[int, ...]) -> Logits:
        """Move the state to the end of a path and return its logits `[V]`. Raises MemoryError."""
        runner, sequence = self._runner, self._sequence
        assert sequence.slot is not None
        if not self._path and path:
            runner._pool.save_scratch(sequence.slot)
        elif path[: len(self._path)] != self._path:
            runner._pool.restore_scratch(sequence.slot)
            sequence.num_computed_tokens -= len(self._path)
            del sequence.token_ids[sequence.num_computed_tokens :]
            self._path = ()
        for token in path[len(self._path) :]:
            if (error := runner._reserve_next(sequence)) is not None:
                raise error
            sequence.token_ids.append(token)
            logits = runner._decoder.compute_logits(sequence)
            sequence.num_computed_tokens += 1
            self._path = (*self._path, token)
            self._known[self._path] = _to_numpy(logits)
        return self._known[path]

    def logprobs(self, healed: HealingPath) -> TokenLogprobs:
        """Return log-probabilities of a path's last token and of the likeliest tokens that add text there."""
        logprobs = log_softmax(self(healed.path), 1.0)
        node = healed.node
        ids = np.array([one for one in node.covers.tolist() if one not in node.exact], np.int32)
        ids = ids[np.argsort(-logprobs[ids], kind="stable")][: self._sequence.top_logprobs]
        top = tuple(TokenLogprob(id, "", float(logprobs[id])) for id in ids.tolist())
        return TokenLogprobs(TokenLogprob(healed.token, "", float(logprobs[healed.token])), top)


def _to_numpy(logits: Tensor) -> Logits:
    numbers: Logits = logits[0].double().cpu().numpy()
    return numbers


def _use_threads(count: int) -> None:
    """Set torch's threads for this thread; reading the number is free, setting it is not."""
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
