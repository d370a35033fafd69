"""Bytes that a network reads for a token and caches for a story: plain arithmetic, no torch.

One decoded token reads every weight once (of an embedding that is not the head as well only one row), reads
and writes the recurrent and convolution state, and reads the keys and values of all tokens before it. Reading
a prompt can do with the weights once, and writes what is to be remembered. No time is shorter than that of
moving these bytes: the floor.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BytesMoved:
    """Bytes that must be moved, by what they are; means over the tokens where they grow with the text."""

    weights: int
    recurrent: int
    conv: int
    window_kv: int
    full_kv: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.recurrent + self.conv + self.window_kv + self.full_kv


@dataclass(frozen=True)
class Footprint:
    """The sizes of a network that its floor and its memory follow from, in bytes unless said otherwise.

    Attributes:
        weights: that one token reads.
        recurrent, conv: the states of one story, however long it is.
        window: tokens that a sliding window looks back on, the newest aside.
        window_token, full_token: keys and values of one token, in all layers of the kind.
        full_attention_token: the same if every layer had full attention.
    """

    weights: int
    recurrent: int
    conv: int
    window: int
    window_token: int
    full_token: int
    full_attention_token: int

    def decode(self, context: int, tokens: int) -> BytesMoved:
        """Per token of decoding `tokens` tokens after `context`, the first left out: it is the prompt's."""
        return BytesMoved(
            self.weights, 2 * self.recurrent, 2 * self.conv, *self._kv(context, context + max(tokens - 1, 1))
        )

    def prefill(self, context: int) -> BytesMoved:
        """Bytes moved by a prefill of `context` tokens, in any number of chunks."""
        return BytesMoved(self.weights, self.recurrent, self.conv, *self._kv(context, context + 1))

    def cache_bytes(self, tokens: int) -> int:
        """Bytes cached for a story of so many tokens."""
        window = min(tokens, self.window + 1) * self.window_token  # the ring has a place for the newest, too
        return self.recurrent + self.conv + window + tokens * self.full_token

    def full_attention_cache_bytes(self, tokens: int) -> int:
        """Bytes cached for it if every layer had full attention."""
        return self.full_attention_token * tokens

    def _kv(self, first: int, end: int) -> tuple[int, int]:
        """Window and full keys and values, the mean over the lengths from `first` to `end` - 1."""
        cache_bytes = sum(min(length, self.window) for length in range(first, end)) / (end - first)
        whole = (first + end - 1) / 2
        return round(cache_bytes * self.window_token), round(whole * self.full_token)
