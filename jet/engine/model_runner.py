"""ModelRunner: the network with the state of each request in a slot; pieces of prompts in, tokens out.

A request of a user leaves states behind: where its prompt ended, every so many tokens, and where it ended
itself. The next one that begins with the same tokens starts from there. What there is no room for any more on
the device goes to the host's memory, and comes back from there.

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
from jet.cache.host_pool import HostPool, HostSnapshot
from jet.cache.pinned import to_device, to_host
from jet.cache.prefix_cache import CacheEntry, PrefixCache
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.decode_step import DecodeStep
from jet.engine.decoder import Decoder, make_decoder
from jet.engine.prefill import make_prefill
from jet.engine.sequence import Sequence, Snapshot
from jet.engine.step_output import StepFuture
from jet.engine.text.healing import Healing, HealingPath, Logits, log_softmax
from jet.engine.text.healing import draw as sample_path
from jet.hardware import synchronize
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.structure_check import StructureGuard
from jet.ops.sampling import uniform
from jet.token_ids import Tokens

SNAPSHOT_INTERVAL = 256  # tokens: no edit has more than these read again, as long as the states are there
# Tokens: most that are read again before the end of what was written, if it was written alone.
DECODE_SNAPSHOT_INTERVAL = 8
HEALING_STEP = 2**62  # the number of the draw at the border, which no token of a story has


log = logging.getLogger(__name__)


class ModelRunner:
    """Runs requests on a network, those that write together."""

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
    ) -> None:
        """Memory for `slots` requests, each of up to `context` tokens and all together of up to `tokens`.

        Besides, `cache_slots` states can be kept; their keys and values share the memory for `tokens`. Those
        that have to make room there may have `host_bytes` of the host's memory.
        `dry_sequence_breakers` are the tokens at which repetitions end for DRY. `decode_threads` is for
        single tokens on a CPU; prompts always get all of torch's threads.
        """
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model = model
        self._context = context or config.max_position_embeddings
        self._stop_ids = stop_ids
        self._snapshot_interval = snapshot_interval
        self._max_snapshots = max(3, cache_slots // 8)
        self._batch_size = 1  # sequences of the last step: as many tokens apart, one state is kept a step
        self._prefill_threads = torch.get_num_threads()
        self._decode_threads = decode_threads or self._prefill_threads
        tokens = slots * self._context if tokens is None else tokens
        with torch.inference_mode():
            places = slots + cache_slots
            tokens += slots * 2 * PAGE_SIZE  # each may have begun a page, and another may be copied for it
            self._pool = StatePool(
                config, places, tokens, model.dtype, model.device, self._context, scratch=True
            )
            self._decoder: Decoder = make_decoder(model, self._pool, stop_ids, dry_sequence_breakers, slots)
            self._prefill = make_prefill(model, self._pool)
            self._guard = StructureGuard(model)
            self._host_pool = HostPool(self._pool, host_bytes)
        self._prefix_cache: PrefixCache[Snapshot] = PrefixCache(self._free_snapshot, self._offload)
        self._pool.allocator.evict = self._prefix_cache.evict
        self._host_pool.evict = self._prefix_cache.evict_host

    @property
    def kernels(self) -> dict[str, str]:
        """What computes a step: operation → implementation, in words for people."""
        return self._decoder.kernels | self._prefill.kernels

    @property
    def decode_step(self) -> DecodeStep:
        """What reads a token of one row, to be looked at."""
        return self._decoder.step

    @property
    def num_cached(self) -> int:
        """How many states are kept."""
        return len(self._prefix_cache)

    @property
    def num_on_host(self) -> tuple[int, int]:
        """How many of them are in the host's memory, and their bytes there."""
        return self._prefix_cache.num_on_host, self._host_pool.nbytes

    @property
    def pages_in_use(self) -> int:
        """Pages of memory that somebody's story holds; those of kept states can be had for the asking."""
        return self._pool.allocator.in_use

    def capture_next(self) -> bool:
        """Do a small part of what makes later steps quicker. False if nothing was left to do."""
        return self._decoder.capture_next()

    @torch.inference_mode()
    def allocate(
        self,
        sampling: SamplingParams,
        top_logprobs: int = 0,
        prompt: abc.Sequence[int] | Tokens = (),
        max_tokens: int = 0,
        cache_salt: str = "",
    ) -> Sequence:
        """The state of a new request. Its seed must be set.

        Memory for `max_tokens` tokens is promised to it, prompt and all; less what is resident of the prompt.
        Raises MemoryError if there is no room for it now.
        """
        assert sampling.seed is not None
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
        """Draw these tokens again once the prompt, which ends before them, has been read."""
        sequence.healing = healing

    def healed_path(self, sequence: Sequence) -> HealingPath | None:
        """What they have become; None as long as they have not been drawn."""
        return sequence.healed_path

    @torch.inference_mode()
    def set_min_tokens(self, sequence: Sequence, tokens: int) -> None:
        """Let no token end the text among the first so many; before anything has been read."""
        sequence.min_tokens = tokens
        self._decoder.remove(sequence)
        self._decoder.add(sequence)

    @torch.inference_mode()
    def restore_prefix(self, sequence: Sequence, prompt: abc.Sequence[int] | Tokens) -> int:
        """Start from what is resident of the prompt, just before it is read: how many tokens need not be."""
        assert sequence.slot is not None and not sequence.num_computed_tokens
        tokens = np.asarray(prompt, np.int32)
        # Others may have read more of it in the meantime. For what is shared, no pages were promised.
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
    def prefill(self, sequence: Sequence, tokens: abc.Sequence[int] | Tokens) -> None:
        """Read one piece of the prompt."""
        assert sequence.slot is not None
        _use_threads(self._prefill_threads)
        # Only now is it known that this was not the end, whose next token somebody may want again.
        if sequence.num_computed_tokens - sequence.last_snapshot >= self._snapshot_interval:
            sequence.logits = None
            self._snapshot(sequence)
        with _memory_errors(f"reading {len(tokens)} tokens after {sequence.num_computed_tokens}"):
            self._pool.reserve(
                sequence.slot, sequence.num_computed_tokens + len(tokens), sequence.num_computed_tokens
            )
            ids = to_device(np.asarray(tokens), torch.int64, self._model.device)
            self._guard.check()  # or it would be read by another network than it is written with
            logits = self._prefill.run(sequence.slot, sequence.num_computed_tokens, ids)
        sequence.num_computed_tokens += len(tokens)
        sequence.token_ids.extend(map(int, tokens))
        sequence.logits = logits
        self._decoder.append_prompt(sequence, ids)

    def synchronize(self, blocking: bool) -> bool:
        """Whether what was read is there, as it always is on a CPU; if need be, wait for that."""
        if blocking:
            synchronize(self._model.device)
        return blocking or self._model.device.type == "cpu"

    @torch.inference_mode()
    def decode(self, sequences: abc.Sequence[Sequence]) -> list[int | Exception]:
        """The next token of each, or what went wrong with it alone: MemoryError, FloatingPointError.

        Something must have been read before. What is raised concerns all of them, whose states are then lost.
        """
        _use_threads(self._decode_threads)
        sequences, outcomes = list(sequences), dict[Sequence, int | Exception]()
        self._batch_size = len(sequences)
        for sequence in sequences:
            sequence.num_accepted = sequence.num_generated - (sequence.in_flight is not None)
        with _memory_errors("writing"):
            in_flight = [(one, one.in_flight) for one in sequences if one.in_flight is not None]
            all_go_on = len(in_flight) == len(sequences) and all(map(self._continues, sequences))
            # Where the device already holds the tokens, it need not wait for us to have seen them.
            ahead = all_go_on and self._decoder.batch_is_on_device(sequences)
            if ahead:
                self._launch_next(sequences)
            for sequence, step in in_flight:
                sequence.in_flight = sequence.in_flight if ahead else None
                outcomes[sequence] = self._accept(sequence, step)
            if not ahead:
                self._sample_first([one for one in sequences if one not in outcomes], outcomes)
                self._decode_step([one for one in sequences if one not in outcomes], outcomes)
                self._launch_next([one for one in sequences if isinstance(outcomes[one], int)])
        return [outcomes[sequence] for sequence in sequences]

    def decode_one(self, sequence: Sequence) -> int:
        """The next token of one request; raises what went wrong with it."""
        (outcome,) = self.decode([sequence])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @torch.inference_mode()
    def reset(self, sequence: Sequence) -> None:
        """A state that was lost: it is empty again, to be read once more with all that has been drawn."""
        assert sequence.slot is not None
        self._pool.free(sequence.slot)
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
        """Bytes of the request's state: recurrent, conv, window_kv, full_kv."""
        if sequence.slot is None:
            return {}
        return self._pool.state_bytes(sequence.num_computed_tokens)

    @torch.inference_mode()
    def free(self, sequence: Sequence, keep_snapshot: bool = True) -> None:
        """The request is over. Its state may be kept for those that begin alike, unless it is broken."""
        if sequence.slot is not None and sequence.in_flight is not None and keep_snapshot:
            step, sequence.in_flight = sequence.in_flight, None
            keep_snapshot = isinstance(self._accept(sequence, step), int)
        slot, sequence.slot = sequence.slot, None
        handle, sequence.cache_handle = sequence.cache_handle, None
        self._unlock_prefix(handle)
        if slot is None:
            return
        # Whoever takes the last token back, to draw it again, then has nothing to read.
        logits = (
            self._decoder.last_logits(sequence)
            if len(sequence.token_ids) == sequence.num_computed_tokens + 1
            else None
        )
        self._decoder.remove(sequence)
        if not keep_snapshot:
            self._prefix_cache.remove_request(sequence)
        if keep_snapshot and sequence.cache_salt and sequence.num_computed_tokens > sequence.last_snapshot:
            self._pool.freeze(slot, sequence.num_computed_tokens)
            self._insert(sequence, Snapshot(slot, logits))
        else:
            self._pool.free(slot)
        sequence.in_flight = sequence.logits = None

    def close(self) -> None:
        """Let go of the network and of all states, so that their memory is free for others."""
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
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _restore(self, found: CacheEntry[Snapshot], sequence: Sequence) -> bool:
        """Put a sequence in a resident state. Whether that went well; otherwise it is empty as before."""
        assert sequence.slot is not None
        place = found.state.location
        if not isinstance(place, HostSnapshot):
            self._pool.restore(place, sequence.slot)
            return True
        found.lock_ref += 1
        try:
            self._host_pool.load(place, sequence.slot)
            self._load_back(found, sequence.slot)
        except Exception:
            log.warning("A story is read again, since its state could not be restored.", exc_info=True)
            self._prefix_cache.remove(found)
            self.reset(sequence)
            return False
        finally:
            found.lock_ref -= 1
        return True

    def _load_back(self, found: CacheEntry[Snapshot], slot: int) -> None:
        """What was just restored from the host into a slot is kept on the device again, if it has room."""
        kept = self._pool.snapshot(slot, len(found.tokens))
        if kept is not None:
            self._prefix_cache.load_back(found, Snapshot(kept, self._on_device(found.state.logits)))

    def _on_device(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits.to(self._model.device, non_blocking=True)

    def _offload(self, snapshot: Snapshot) -> Snapshot | None:
        """A copy in the host's memory, if that has room. What goes wrong costs this state, nothing else."""
        assert isinstance(snapshot.location, int)
        try:
            saved = self._host_pool.save(snapshot.location)
            logits = None if snapshot.logits is None else to_host(snapshot.logits)
            return None if saved is None else Snapshot(saved, logits)
        except Exception:
            log.warning("A state could not be offloaded; its story will be read again.", exc_info=True)
            return None

    def _free_snapshot(self, snapshot: Snapshot) -> None:
        if isinstance(snapshot.location, HostSnapshot):
            self._host_pool.free(snapshot.location)
        else:
            self._pool.free_snapshot(snapshot.location)

    def _lock_prefix(self, cache_salt: str, prompt: Tokens) -> tuple[CacheEntry[Snapshot], list[int]] | None:
        """Make sure that what is resident of a prompt stays until it is needed."""
        found = self._prefix_cache.match_prefix(cache_salt, prompt) if cache_salt else None
        if found is None:
            return None
        found.lock_ref += 1
        place = found.state.location
        return found, [] if isinstance(place, HostSnapshot) else self._pool.ref_pages(place)

    def _unlock_prefix(self, handle: tuple[CacheEntry[Snapshot], list[int]] | None) -> None:
        if handle is not None:
            handle[0].lock_ref -= 1
            self._pool.allocator.unref(handle[1])

    def _pages_to_reserve(self, tokens: int, handle: tuple[CacheEntry[Snapshot], list[int]] | None) -> int:
        """Pages to be promised: those of a handle are there but for the last, and one may be copied.

        What lies in the host's memory shares none.
        """
        if not tokens:
            return 0
        shared = 0 if handle is None or handle[0].on_host else len(handle[0].tokens) // PAGE_SIZE
        return -(-tokens // PAGE_SIZE) - shared + 1

    def _sample_first(
        self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, int | Exception]
    ) -> None:
        """The tokens of those who have just read their prompts, whose states can then be kept."""
        for sequence in sequences:
            if sequence.logits is not None and sequence.healing is not None:
                outcomes[sequence] = self._sample_healing(sequence, sequence.healing)
            elif sequence.logits is not None:
                step = self._decoder.sample(sequence)
                sequence.num_generated += 1
                outcome = outcomes[sequence] = self._accept(sequence, step)
                if isinstance(outcome, int) and sequence.num_computed_tokens > sequence.last_snapshot:
                    self._snapshot(sequence)
                sequence.logits = None

    def _sample_healing(self, sequence: Sequence, healing: Healing) -> int | Exception:
        """The tokens at the end of the prompt. The state before them is kept for whoever comes back there."""
        if sequence.num_computed_tokens > sequence.last_snapshot:
            self._snapshot(sequence)
        logits, sequence.logits, sequence.has_generated = sequence.logits, None, True
        assert logits is not None
        look = _Lookahead(self, sequence, logits)
        sampling = sequence.sampling
        try:
            chance = uniform(sampling.seed or 0, HEALING_STEP)
            way = sample_path(
                healing.root, look, sampling.temperature, chance, sampling.top_k, sampling.top_p
            )
            look.advance(way.path)
        except (MemoryError, FloatingPointError) as error:
            return error
        if sequence.top_logprobs:
            sequence.logprobs = look.logprobs(way)
        sequence.healing, sequence.healed_path = None, way
        sequence.num_generated += way.adds
        sequence.token_ids.append(way.token)
        self._decoder.append_prompt(sequence, torch.tensor([*way.path, way.token], device=self._model.device))
        return way.token

    def _decode_step(
        self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, int | Exception]
    ) -> None:
        """One step of those whose last token is known, and no step of theirs under way."""
        full = {one: error for one in sequences if (error := self._reserve_next(one)) is not None}
        outcomes.update(full)
        able = [one for one in sequences if one not in full]
        for sequence, step in zip(able, self._launch(able), strict=True):
            outcomes[sequence] = self._accept(sequence, step)

    def _launch_next(self, sequences: abc.Sequence[Sequence]) -> None:
        """Start a step that may turn out not to be wanted: nothing is said if it cannot be."""
        for sequence in sequences:
            sequence.in_flight = None
        going = [one for one in sequences if self._continues(one)]
        if not going or not self._decoder.can_overlap(going):
            return
        if any(map(self._reserve_next, going)):
            return
        for sequence, step in zip(going, self._launch(going), strict=True):
            sequence.in_flight = step

    def _continues(self, sequence: Sequence) -> bool:
        more = (
            sequence.num_generated < sequence.sampling.max_new_tokens
            and sequence.num_computed_tokens < self._context
        )
        return more and sequence.last_token not in self._stop_ids

    def _reserve_next(self, sequence: Sequence) -> MemoryError | None:
        """See to it that there is memory for one more token; why there is none."""
        assert sequence.slot is not None
        try:
            self._pool.reserve(sequence.slot, sequence.num_computed_tokens + 1, sequence.num_computed_tokens)
        except MemoryError as error:
            return error
        return None

    def _launch(self, sequences: abc.Sequence[Sequence]) -> list[StepFuture]:
        """Start a step: read the last token of each, then draw the next."""
        if not sequences:
            return []
        steps = self._decoder.launch(sequences)
        for sequence in sequences:
            sequence.num_computed_tokens += 1
            sequence.num_generated += 1
        return steps

    def _accept(self, sequence: Sequence, step: StepFuture) -> int | Exception:
        """Wait for a token, and note it."""
        try:
            token, sequence.logprobs = step.result()
        except FloatingPointError as error:
            return error
        sequence.has_generated = True
        sequence.token_ids.append(token)
        if sequence.in_flight is not None and token in self._stop_ids:
            sequence.in_flight = None  # the device has seen to it that the token was not read
            sequence.num_computed_tokens -= 1
        if sequence.num_computed_tokens - sequence.last_snapshot >= min(
            self._snapshot_interval, max(DECODE_SNAPSHOT_INTERVAL, self._batch_size)
        ):
            self._snapshot(sequence)
        return token

    def _snapshot(self, sequence: Sequence) -> None:
        """Keep a copy of the state for requests that begin alike."""
        assert sequence.slot is not None
        if not sequence.cache_salt:
            return
        kept = self._pool.snapshot(sequence.slot, sequence.num_computed_tokens)
        if kept is not None:
            self._insert(sequence, Snapshot(kept, sequence.logits))

    def _insert(self, sequence: Sequence, snapshot: Snapshot) -> None:
        complete = snapshot.logits is not None
        self._prefix_cache.insert(
            CacheEntry(sequence.cache_salt, sequence.computed_tokens, snapshot, complete, sequence)
        )
        self._prefix_cache.prune(sequence, self._max_snapshots)
        sequence.last_snapshot = sequence.num_computed_tokens


class _Lookahead:
    """What the network says behind some tokens that may follow a state, and that state in between."""

    def __init__(self, runner: ModelRunner, sequence: Sequence, logits: Tensor) -> None:
        self._runner, self._sequence = runner, sequence
        self._path: tuple[int, ...] = ()
        self._known: dict[tuple[int, ...], Logits] = {(): _to_numpy(logits)}

    def __call__(self, path: tuple[int, ...]) -> Logits:
        """Logits `[V]`."""
        if path not in self._known:
            self._known[path] = self.advance(path)
        return self._known[path]

    def advance(self, path: tuple[int, ...]) -> Logits:
        """Have these tokens read, from the state on. Raises MemoryError."""
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

    def logprobs(self, way: HealingPath) -> TokenLogprobs:
        """Of the last token of a way, and of the others that have new text there."""
        logprobs = log_softmax(self(way.path), 1.0)
        ids = np.array([one for one in way.node.covers.tolist() if one not in way.node.exact], np.int32)
        ids = ids[np.argsort(-logprobs[ids], kind="stable")][: self._sequence.top_logprobs]
        top = tuple(TokenLogprob(id, "", float(logprobs[id])) for id in ids.tolist())
        return TokenLogprobs(TokenLogprob(way.token, "", float(logprobs[way.token])), top)


def _to_numpy(logits: Tensor) -> Logits:
    numbers: Logits = logits[0].double().cpu().numpy()
    return numbers


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
