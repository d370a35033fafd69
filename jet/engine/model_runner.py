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

from jet.api import SamplingParams
from jet.cache.host_pool import HostStore, Saved
from jet.cache.pinned import to_device, to_host
from jet.cache.prefix_cache import Resident, Sessions
from jet.cache.state_pool import PAGE, SlotPool
from jet.engine.decode_step import FusedStep
from jet.engine.decoder import Stepper, make_stepper
from jet.engine.prefill import make_prefill
from jet.engine.sequence import Kept, Sequence
from jet.engine.step_output import Arriving, Detail, Outcome
from jet.engine.text.healing import Healing, Logits, Way, log_softmax
from jet.engine.text.healing import draw as draw_again
from jet.hardware import synchronize
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM
from jet.modeling.structure_check import Unchanged
from jet.ops.sampling import uniform
from jet.token_ids import Tokens

KEEP_EVERY = 256  # tokens: no edit has more than these read again, as long as the states are there
KEEP_DRAWN = 8  # tokens: most that are read again before the end of what was written, if it was written alone
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
        breakers: frozenset[int] = frozenset(),
        kept_slots: int = 8,
        keep_every: int = KEEP_EVERY,
        host_bytes: int = 0,
    ) -> None:
        """Memory for `slots` requests, each of up to `context` tokens and all together of up to `tokens`.

        Besides, `kept_slots` states can be kept; their keys and values share the memory for `tokens`. Those
        that have to make room there may have `host_bytes` of the host's memory.
        `breakers` are the tokens at which repetitions end for DRY. `decode_threads` is for single tokens on a
        CPU; prompts always get all of torch's threads.
        """
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model = model
        self._context = context or config.max_position_embeddings
        self._stop_ids = stop_ids
        self._keep_every = keep_every
        self._most_of_one = max(3, kept_slots // 8)
        self._rows = 1  # sequences of the last step: as many tokens apart, one state is kept a step
        self._prefill_threads = torch.get_num_threads()
        self._decode_threads = decode_threads or self._prefill_threads
        tokens = slots * self._context if tokens is None else tokens
        with torch.inference_mode():
            places = slots + kept_slots
            tokens += slots * 2 * PAGE  # each may have begun a page, and another may be copied for it
            self._pool = SlotPool(
                config, places, tokens, model.dtype, model.device, self._context, spare=True
            )
            self._stepper: Stepper = make_stepper(model, self._pool, stop_ids, breakers, slots)
            self._prefill = make_prefill(model, self._pool)
            self._network = Unchanged(model)
            self._store = HostStore(self._pool, host_bytes)
        self._sessions: Sessions[Kept] = Sessions(self._discard, self._offload)
        self._pool.ledger.reclaim = self._sessions.evict
        self._store.reclaim = self._sessions.evict_offloaded

    @property
    def kernels(self) -> dict[str, str]:
        """What computes a step: operation → implementation, in words for people."""
        return self._stepper.kernels | self._prefill.kernels

    @property
    def fused_step(self) -> FusedStep:
        """What reads a token of one row, to be looked at."""
        return self._stepper.step

    @property
    def resident(self) -> int:
        """How many states are kept."""
        return len(self._sessions)

    @property
    def offloaded(self) -> tuple[int, int]:
        """How many of them are in the host's memory, and their bytes there."""
        return self._sessions.offloaded, self._store.nbytes

    @property
    def held_pages(self) -> int:
        """Pages of memory that somebody's story holds; those of kept states can be had for the asking."""
        return self._pool.ledger.held

    def prepare(self) -> bool:
        """Do a small part of what makes later steps quicker. False if nothing was left to do."""
        return self._stepper.prepare()

    @torch.inference_mode()
    def open(
        self,
        sampling: SamplingParams,
        alternatives: int = 0,
        prompt: abc.Sequence[int] | Tokens = (),
        tokens: int = 0,
        user: str = "",
    ) -> Sequence:
        """The state of a new request. Its seed must be set.

        Memory for `tokens` tokens is promised to it, prompt and all; less what is resident of the prompt.
        Raises MemoryError if there is no room for it now.
        """
        assert sampling.seed is not None
        claim = self._claim(user, np.asarray(prompt, np.int32))
        try:
            slot = self._pool.open(self._needed(tokens, claim))
        except MemoryError:
            self._unclaim(claim)
            raise
        sequence = Sequence(sampling, slot, user, tokens, alternatives=alternatives, claim=claim)
        self._stepper.open(sequence)
        return sequence

    def heal(self, sequence: Sequence, healing: Healing) -> None:
        """Draw these tokens again once the prompt, which ends before them, has been read."""
        sequence.healing = healing

    def healed(self, sequence: Sequence) -> Way | None:
        """What they have become; None as long as they have not been drawn."""
        return sequence.healed

    @torch.inference_mode()
    def bar_end(self, sequence: Sequence, tokens: int) -> None:
        """Let no token end the text among the first so many; before anything has been read."""
        sequence.min_tokens = tokens
        self._stepper.release(sequence)
        self._stepper.open(sequence)

    @torch.inference_mode()
    def resume(self, sequence: Sequence, prompt: abc.Sequence[int] | Tokens) -> int:
        """Start from what is resident of the prompt, just before it is read: how many tokens need not be."""
        assert sequence.slot is not None and not sequence.length
        tokens = np.asarray(prompt, np.int32)
        # Others may have read more of it in the meantime. For what is shared, no pages were promised.
        shares = sequence.claim is not None and not sequence.claim[0].offloaded
        found = self._sessions.find(sequence.user, tokens, near=shares) if sequence.user else None
        if found is not None and self._restore(found, sequence):
            sequence.length = sequence.kept = len(found.tokens)
            sequence.text = array("i", found.tokens.tobytes())
            if len(found.tokens) == len(tokens):
                sequence.logits = self._on_device(found.state.logits)
            ids = to_device(found.tokens, torch.int64, self._model.device)
            self._stepper.have_read(sequence, ids)
        claim, sequence.claim = sequence.claim, None
        self._unclaim(claim)
        return sequence.length

    @torch.inference_mode()
    def prefill(self, sequence: Sequence, tokens: abc.Sequence[int] | Tokens) -> None:
        """Read one piece of the prompt."""
        assert sequence.slot is not None
        _use_threads(self._prefill_threads)
        # Only now is it known that this was not the end, whose next token somebody may want again.
        if sequence.length - sequence.kept >= self._keep_every:
            sequence.logits = None
            self._keep(sequence)
        with _memory_errors(f"reading {len(tokens)} tokens after {sequence.length}"):
            self._pool.reserve(sequence.slot, sequence.length + len(tokens), sequence.length)
            ids = to_device(np.asarray(tokens), torch.int64, self._model.device)
            self._network.require()  # or it would be read by another network than it is written with
            logits = self._prefill.read(sequence.slot, sequence.length, ids)
        sequence.length += len(tokens)
        sequence.text.extend(map(int, tokens))
        sequence.logits = logits
        self._stepper.have_read(sequence, ids)

    def settle(self, wait: bool) -> bool:
        """Whether what was read is there, as it always is on a CPU; if need be, wait for that."""
        if wait:
            synchronize(self._model.device)
        return wait or self._model.device.type == "cpu"

    @torch.inference_mode()
    def decode(self, sequences: abc.Sequence[Sequence]) -> list[Outcome]:
        """The next token of each, or what went wrong with it alone: MemoryError, FloatingPointError.

        Something must have been read before. What is raised concerns all of them, whose states are then lost.
        """
        _use_threads(self._decode_threads)
        sequences, outcomes = list(sequences), dict[Sequence, Outcome]()
        self._rows = len(sequences)
        for sequence in sequences:
            sequence.known = sequence.steps - (sequence.ahead is not None)
        with _memory_errors("writing"):
            arriving = [(one, one.ahead) for one in sequences if one.ahead is not None]
            all_go_on = len(arriving) == len(sequences) and all(map(self._goes_on, sequences))
            # Where the device already holds the tokens, it need not wait for us to have seen them.
            ahead = all_go_on and self._stepper.runs_ahead(sequences)
            if ahead:
                self._launch_ahead(sequences)
            for sequence, step in arriving:
                sequence.ahead = sequence.ahead if ahead else None
                outcomes[sequence] = self._arrived(sequence, step)
            if not ahead:
                self._draw_first([one for one in sequences if one not in outcomes], outcomes)
                self._step([one for one in sequences if one not in outcomes], outcomes)
                self._launch_ahead([one for one in sequences if isinstance(outcomes[one], int)])
        return [outcomes[sequence] for sequence in sequences]

    def step(self, sequence: Sequence) -> int:
        """The next token of one request; raises what went wrong with it."""
        (outcome,) = self.decode([sequence])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @torch.inference_mode()
    def rewind(self, sequence: Sequence) -> None:
        """A state that was lost: it is empty again, to be read once more with all that has been drawn."""
        assert sequence.slot is not None
        self._pool.close(sequence.slot)
        sequence.slot = self._pool.open(self._needed(sequence.promise, None))
        sequence.text, sequence.length, sequence.kept = array("i"), 0, 0
        sequence.logits = sequence.ahead = None
        sequence.steps = sequence.known
        self._stepper.release(sequence)
        self._stepper.open(sequence)

    def detail(self, sequence: Sequence) -> Detail | None:
        """How likely the last token was and what else might have stood there, if the request asked."""
        return sequence.detail

    def memory(self, sequence: Sequence) -> dict[str, int]:
        """Bytes of the request's state: recurrent, conv, window_kv, full_kv."""
        if sequence.slot is None:
            return {}
        return self._pool.memory(sequence.length)

    @torch.inference_mode()
    def release(self, sequence: Sequence, keep: bool = True) -> None:
        """The request is over. Its state may be kept for those that begin alike, unless it is broken."""
        if sequence.slot is not None and sequence.ahead is not None and keep:
            step, sequence.ahead = sequence.ahead, None
            keep = isinstance(self._arrived(sequence, step), int)
        slot, sequence.slot = sequence.slot, None
        claim, sequence.claim = sequence.claim, None
        self._unclaim(claim)
        if slot is None:
            return
        # Whoever takes the last token back, to draw it again, then has nothing to read.
        logits = self._stepper.drawn_from(sequence) if len(sequence.text) == sequence.length + 1 else None
        self._stepper.release(sequence)
        if not keep:
            self._sessions.forget_origin(sequence)
        if keep and sequence.user and sequence.length > sequence.kept:
            self._pool.retain(slot, sequence.length)
            self._remember(sequence, Kept(slot, logits))
        else:
            self._pool.close(slot)
        sequence.ahead = sequence.logits = None

    def close(self) -> None:
        """Let go of the network and of all states, so that their memory is free for others."""
        self._stepper.close()
        self._store.close()
        del self._model, self._stepper, self._prefill, self._network, self._pool, self._store, self._sessions
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _restore(self, found: Resident[Kept], sequence: Sequence) -> bool:
        """Put a sequence in a resident state. Whether that went well; otherwise it is empty as before."""
        assert sequence.slot is not None
        place = found.state.place
        if not isinstance(place, Saved):
            self._pool.restore(place, sequence.slot)
            return True
        found.pins += 1
        try:
            self._store.load(place, sequence.slot)
            self._bring_back(found, sequence.slot)
        except Exception:
            log.warning("A story is read again, since its state could not be restored.", exc_info=True)
            self._sessions.forget(found)
            self.rewind(sequence)
            return False
        finally:
            found.pins -= 1
        return True

    def _bring_back(self, found: Resident[Kept], slot: int) -> None:
        """What was just restored from the host into a slot is kept on the device again, if it has room."""
        kept = self._pool.snapshot(slot, len(found.tokens))
        if kept is not None:
            self._sessions.bring_back(found, Kept(kept, self._on_device(found.state.logits)))

    def _on_device(self, logits: Tensor | None) -> Tensor | None:
        return None if logits is None else logits.to(self._model.device, non_blocking=True)

    def _offload(self, kept: Kept) -> Kept | None:
        """A copy in the host's memory, if that has room. What goes wrong costs this state, nothing else."""
        assert isinstance(kept.place, int)
        try:
            saved = self._store.save(kept.place)
            logits = None if kept.logits is None else to_host(kept.logits)
            return None if saved is None else Kept(saved, logits)
        except Exception:
            log.warning("A state could not be offloaded; its story will be read again.", exc_info=True)
            return None

    def _discard(self, kept: Kept) -> None:
        if isinstance(kept.place, Saved):
            self._store.drop(kept.place)
        else:
            self._pool.discard(kept.place)

    def _claim(self, user: str, prompt: Tokens) -> tuple[Resident[Kept], list[int]] | None:
        """Make sure that what is resident of a prompt stays until it is needed."""
        found = self._sessions.find(user, prompt) if user else None
        if found is None:
            return None
        found.pins += 1
        place = found.state.place
        return found, [] if isinstance(place, Saved) else self._pool.hold(place)

    def _unclaim(self, claim: tuple[Resident[Kept], list[int]] | None) -> None:
        if claim is not None:
            claim[0].pins -= 1
            self._pool.ledger.release(claim[1])

    def _needed(self, tokens: int, claim: tuple[Resident[Kept], list[int]] | None) -> int:
        """Pages to be promised: those of a claim are there but for the last, and one may be copied.

        What lies in the host's memory shares none.
        """
        if not tokens:
            return 0
        shared = 0 if claim is None or claim[0].offloaded else len(claim[0].tokens) // PAGE
        return -(-tokens // PAGE) - shared + 1

    def _draw_first(self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, Outcome]) -> None:
        """The tokens of those who have just read their prompts, whose states can then be kept."""
        for sequence in sequences:
            if sequence.logits is not None and sequence.healing is not None:
                outcomes[sequence] = self._draw_again(sequence, sequence.healing)
            elif sequence.logits is not None:
                drawn = Arriving(self._stepper.draw(sequence), 0)
                sequence.steps += 1
                outcome = outcomes[sequence] = self._arrived(sequence, drawn)
                if isinstance(outcome, int) and sequence.length > sequence.kept:
                    self._keep(sequence)
                sequence.logits = None

    def _draw_again(self, sequence: Sequence, healing: Healing) -> Outcome:
        """The tokens at the end of the prompt. The state before them is kept for whoever comes back there."""
        if sequence.length > sequence.kept:
            self._keep(sequence)
        logits, sequence.logits, sequence.begun = sequence.logits, None, True
        assert logits is not None
        look = _Look(self, sequence, logits)
        sampling = sequence.sampling
        try:
            chance = uniform(sampling.seed or 0, HEALING_STEP)
            way = draw_again(healing.root, look, sampling.temperature, chance, sampling.top_k, sampling.top_p)
            look.go(way.path)
        except (MemoryError, FloatingPointError) as error:
            return error
        if sequence.alternatives:
            sequence.detail = look.detail(way)
        sequence.healing, sequence.healed = None, way
        sequence.steps += way.adds
        sequence.text.append(way.token)
        self._stepper.have_read(sequence, torch.tensor([*way.path, way.token], device=self._model.device))
        return way.token

    def _step(self, sequences: abc.Sequence[Sequence], outcomes: dict[Sequence, Outcome]) -> None:
        """One step of those whose last token is known, and no step of theirs under way."""
        full = {one: error for one in sequences if (error := self._no_memory(one)) is not None}
        outcomes.update(full)
        able = [one for one in sequences if one not in full]
        for sequence, step in zip(able, self._launch(able), strict=True):
            outcomes[sequence] = self._arrived(sequence, step)

    def _launch_ahead(self, sequences: abc.Sequence[Sequence]) -> None:
        """Start a step that may turn out not to be wanted: nothing is said if it cannot be."""
        for sequence in sequences:
            sequence.ahead = None
        going = [one for one in sequences if self._goes_on(one)]
        if not going or not self._stepper.may_run_ahead(going):
            return
        if any(map(self._no_memory, going)):
            return
        for sequence, step in zip(going, self._launch(going), strict=True):
            sequence.ahead = step

    def _goes_on(self, sequence: Sequence) -> bool:
        more = sequence.steps < sequence.sampling.max_new_tokens and sequence.length < self._context
        return more and sequence.last not in self._stop_ids

    def _no_memory(self, sequence: Sequence) -> MemoryError | None:
        """See to it that there is memory for one more token; why there is none."""
        assert sequence.slot is not None
        try:
            self._pool.reserve(sequence.slot, sequence.length + 1, sequence.length)
        except MemoryError as error:
            return error
        return None

    def _launch(self, sequences: abc.Sequence[Sequence]) -> list[Arriving]:
        """Start a step: read the last token of each, then draw the next."""
        if not sequences:
            return []
        pending = self._stepper.launch(sequences)
        for sequence in sequences:
            sequence.length += 1
            sequence.steps += 1
        return [Arriving(pending, row) for row in range(len(sequences))]

    def _arrived(self, sequence: Sequence, step: Arriving) -> Outcome:
        """Wait for a token, and note it."""
        try:
            token = step.token()
        except FloatingPointError as error:
            return error
        sequence.detail = step.detail() if sequence.alternatives else None
        sequence.begun = True
        sequence.text.append(token)
        if sequence.ahead is not None and token in self._stop_ids:
            sequence.ahead = None  # the device has seen to it that the token was not read
            sequence.length -= 1
        if sequence.length - sequence.kept >= min(self._keep_every, max(KEEP_DRAWN, self._rows)):
            self._keep(sequence)
        return token

    def _keep(self, sequence: Sequence) -> None:
        """Keep a copy of the state for requests that begin alike."""
        assert sequence.slot is not None
        if not sequence.user:
            return
        kept = self._pool.snapshot(sequence.slot, sequence.length)
        if kept is not None:
            self._remember(sequence, Kept(kept, sequence.logits))

    def _remember(self, sequence: Sequence, kept: Kept) -> None:
        complete = kept.logits is not None
        self._sessions.keep(Resident(sequence.user, sequence.tokens, kept, complete, sequence))
        self._sessions.thin(sequence, self._most_of_one)
        sequence.kept = sequence.length


class _Look:
    """What the network says behind some tokens that may follow a state, and that state in between."""

    def __init__(self, runner: ModelRunner, sequence: Sequence, logits: Tensor) -> None:
        self._runner, self._sequence = runner, sequence
        self._here: tuple[int, ...] = ()
        self._known: dict[tuple[int, ...], Logits] = {(): _numbers(logits)}

    def __call__(self, path: tuple[int, ...]) -> Logits:
        """Logits `[V]`."""
        if path not in self._known:
            self._known[path] = self.go(path)
        return self._known[path]

    def go(self, path: tuple[int, ...]) -> Logits:
        """Have these tokens read, from the state on. Raises MemoryError."""
        runner, sequence = self._runner, self._sequence
        assert sequence.slot is not None
        if not self._here and path:
            runner._pool.put_aside(sequence.slot)
        elif path[: len(self._here)] != self._here:
            runner._pool.take_back(sequence.slot)
            sequence.length -= len(self._here)
            del sequence.text[sequence.length :]
            self._here = ()
        for token in path[len(self._here) :]:
            if (error := runner._no_memory(sequence)) is not None:
                raise error
            sequence.text.append(token)
            logits = runner._stepper.read(sequence)
            sequence.length += 1
            self._here = (*self._here, token)
            self._known[self._here] = _numbers(logits)
        return self._known[path]

    def detail(self, way: Way) -> Detail:
        """Of the last token of a way, and of the others that have new text there."""
        logprobs = log_softmax(self(way.path), 1.0)
        ids = np.array([one for one in way.node.covers.tolist() if one not in way.node.exact], np.int32)
        ids = ids[np.argsort(-logprobs[ids], kind="stable")][: self._sequence.alternatives]
        return Detail(float(logprobs[way.token]), ids.tolist(), logprobs[ids].tolist())


def _numbers(logits: Tensor) -> Logits:
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
