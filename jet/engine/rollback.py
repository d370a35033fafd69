"""Rollback: removes drawn tokens from a sequence, so that others can be drawn instead.

A recurrent state cannot be truncated. A sequence that may be rolled back therefore keeps marks: snapshots of
its state, with the next token's logits where they are known. The keys and values of full attention are not
copied: the sequence still has their pages, and those of removed tokens are overwritten. Marks are entries of
the prefix cache that no request matches, so the cache counts and evicts them like any other entry. If no mark
is left, the sequence is prefilled again.

Without overlapped steps, a mark is set at exactly the tokens that may be removed, at the cost of one state
copy each. With overlapped steps, the host knows a token too late for this. In batches of up to `MARKED_ROWS`
rows a mark is set at every step, and dropped at the next step unless the token may be removed. In larger
batches so many copies would cost more than they save. There a mark is set every `MARK_INTERVAL` tokens, and
the tokens after it are recomputed one by one, which gives the same values.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from jet.cache.pinned import to_device
from jet.cache.prefix_cache import CacheEntry, PrefixCache
from jet.cache.state_pool import StatePool
from jet.engine.decoder import Decoder
from jet.engine.sequence import Sequence, Snapshot
from jet.engine.text.healing import Healing

MARK_INTERVAL = 4  # tokens between two marks of a sequence whose steps are launched ahead in a large batch
MAX_MARKS = 3


class Rollback:
    """Sets marks and rolls sequences back to them, for one model runner, on its thread."""

    def __init__(
        self,
        pool: StatePool,
        cache: PrefixCache[Snapshot],
        decoder: Decoder,
        reserve_next: Callable[[Sequence], MemoryError | None],
    ) -> None:
        """`reserve_next` reserves memory for one more token of a sequence, or returns the error."""
        self._pool, self._cache, self._decoder = pool, cache, decoder
        self._reserve_next = reserve_next
        self._device = pool.page_table.device
        self._mark_salts = 0

    def mark_first(self, sequence: Sequence) -> None:
        """Set a mark before a token is drawn from the logits that a prefill or a rollback has left."""
        if sequence.guarded and self._newest(sequence) != sequence.num_computed_tokens:
            self._set(sequence, sequence.logits)

    def mark_before_launch(self, sequence: Sequence) -> None:
        """Set a mark before the launch of a step whose input token the host does not know yet.

        Does nothing if the sequence is not guarded, has no logits of its last step, or has this mark already.
        """
        logits = self._decoder.last_logits(sequence) if sequence.guarded else None
        if logits is not None and self._newest(sequence) < sequence.num_computed_tokens:
            self._set(sequence, logits)

    def mark(self, sequence: Sequence, length: int) -> None:
        """Set the mark that a rollback to `length` or more tokens needs, and drop marks that are not needed.

        Called after each token, once it is known how many tokens may have to be taken back.
        """
        computed, decoder = sequence.num_computed_tokens, self._decoder
        if length > computed and not decoder.overlaps:  # nothing that has been computed can be taken back
            self.drop_all(sequence)
            return
        newest = self._newest(sequence)
        if decoder.overlaps:
            logits = decoder.last_logits(sequence)
            if computed - newest >= (MARK_INTERVAL if logits is None else 1):
                self._set(sequence, logits)
        elif newest < length == computed or 0 <= newest <= computed - 2 * MARK_INTERVAL:
            self._set(sequence, decoder.last_logits(sequence))
        while len(sequence.marks) > 1 and _serves(sequence.marks[1], length):
            self._drop(sequence, 0)

    def drop_all(self, sequence: Sequence) -> None:
        """Drop all marks of a sequence."""
        while sequence.marks:
            self._drop(sequence, 0)

    def roll_back(
        self,
        sequence: Sequence,
        length: int,
        num_generated: int,
        barred: tuple[int, ...],
        healing: Healing | None,
    ) -> bool:
        """Take back all tokens from position `length` on; the next token is then drawn there again.

        Afterwards the sequence's state is that of its first `length` tokens, and its snapshots of more tokens
        are removed. Returns False if no mark is left: the caller must then reset the sequence and prefill it
        again. Raises MemoryError.

        Args:
            sequence: the sequence; the result of its step in flight is dropped.
            length: the number of tokens that stay.
            num_generated: how many of these tokens count as drawn.
            barred: tokens that must not be drawn in this place, one for each earlier attempt.
            healing: the end of the prompt if it has to be drawn again, too; None otherwise.
        """
        assert sequence.slot is not None
        sequence.in_flight = sequence.logits = sequence.logprobs = None
        sequence.num_generated = sequence.num_accepted = num_generated
        sequence.barred = length, barred
        if healing is not None:
            sequence.healing, sequence.healed_path = healing, None
        longest = self._cache.remove_longer(sequence, length)
        if sequence.last_snapshot > length:
            sequence.last_snapshot = longest
        while sequence.marks and not self._usable(sequence.marks[-1], length):
            self._drop(sequence, -1)
        if not sequence.marks:
            return False
        self._restore(sequence, sequence.marks[-1], length)
        return True

    def _restore(self, sequence: Sequence, mark: CacheEntry[Snapshot], length: int) -> None:
        """Restore the state at a mark, and compute the tokens from there up to `length` again."""
        slot = sequence.slot
        assert slot is not None
        tokens, begin = sequence.token_ids[:length], len(mark.tokens)
        assert isinstance(mark.state.location, int)
        self._pool.return_to(mark.state.location, slot, begin)
        logits = mark.state.logits
        sequence.logits = None if logits is None else logits.to(self._device, copy=True)
        sequence.token_ids, sequence.num_computed_tokens = array("i", tokens[:begin]), begin
        self._decoder.remove(sequence)
        self._decoder.add(sequence)
        for token in tokens[begin:]:
            if (error := self._reserve_next(sequence)) is not None:
                raise error
            sequence.token_ids.append(token)
            sequence.logits = self._decoder.compute_logits(sequence)
            sequence.num_computed_tokens += 1
        ids = to_device(np.array(tokens, np.int32), torch.int64, self._device)
        self._decoder.append_prompt(sequence, ids)

    def _newest(self, sequence: Sequence) -> int:
        """Return the number of tokens of the newest mark that was not evicted.

        Returns a large negative number if there is no such mark.
        """
        sequence.marks[:] = [mark for mark in sequence.marks if self._cache.has(mark)]
        return len(sequence.marks[-1].tokens) if sequence.marks else -(2**31)

    def _set(self, sequence: Sequence, logits: Tensor | None) -> None:
        """Set a mark at the sequence's present state, if there is room."""
        assert sequence.slot is not None
        kept = self._pool.mark(sequence.slot)
        if kept is None:
            return
        if not sequence.mark_salt:
            self._mark_salts += 1
            sequence.mark_salt = f"\0mark {self._mark_salts}"
        snapshot = Snapshot(kept, None if logits is None else logits.clone())
        mark = CacheEntry(
            sequence.mark_salt, sequence.computed_tokens, snapshot, logits is not None, sequence.marks
        )
        self._cache.insert(mark)
        self._newest(sequence)
        sequence.marks.append(mark)
        while len(sequence.marks) > MAX_MARKS:
            self._drop(sequence, 1)

    def _usable(self, mark: CacheEntry[Snapshot], length: int) -> bool:
        return _serves(mark, length) and self._cache.has(mark)

    def _drop(self, sequence: Sequence, number: int) -> None:
        self._cache.remove(sequence.marks.pop(number))


def _serves(mark: CacheEntry[Snapshot], length: int) -> bool:
    """Return whether a mark has the logits after `length` tokens, or these can be computed from its state."""
    return len(mark.tokens) < length or (len(mark.tokens) == length and mark.has_logits)
