"""Count the bytes that a network moves for a token and caches for a story; plain arithmetic without torch.

Decoding a token reads every weight once (one row of an untied embedding), reads and writes the recurrent and
convolution states, and reads the keys and values of all tokens before it. Prefill reads the weights at least
once and writes the states, keys and values. Moving these bytes is a lower bound on the time of a step.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BytesMoved:
    """Bytes moved per token, by kind. Keys and values are means, since they grow with the text."""

    weights: int
    recurrent: int
    conv: int
    window_kv: int
    full_kv: int

    @property
    def total(self) -> int:
        """Return the sum over all kinds."""
        return self.weights + self.recurrent + self.conv + self.window_kv + self.full_kv


@dataclass(frozen=True)
class Footprint:
    """Sizes of a network, from which the bytes moved and cached are computed. All but `window` are in bytes.

    Attributes:
        weights: weights that decoding one token reads.
        recurrent, conv: states of one story, independent of its length.
        window: number of tokens that a sliding window reads, without the newest one.
        window_token, full_token: keys and values of one token, in all layers with a sliding window or with
            full attention.
        full_attention_token: keys and values of one token if every layer had full attention.
    """

    weights: int
    recurrent: int
    conv: int
    window: int
    window_token: int
    full_token: int
    full_attention_token: int

    def decode(self, context: int, tokens: int) -> BytesMoved:
        """Return the mean bytes moved per token when `tokens` tokens are generated after `context` tokens.

        The first token is not counted, since its logits come from the prefill.
        """
        return BytesMoved(
            self.weights, 2 * self.recurrent, 2 * self.conv, *self._kv(context, context + max(tokens - 1, 1))
        )

    def prefill(self, context: int) -> BytesMoved:
        """Return the bytes moved by a prefill of `context` tokens."""
        return BytesMoved(self.weights, self.recurrent, self.conv, *self._kv(context, context + 1))

    def cache_bytes(self, tokens: int) -> int:
        """Return the bytes cached for a story of this many tokens."""
        window = min(tokens, self.window + 1) * self.window_token  # the ring also stores the newest token
        return self.recurrent + self.conv + window + tokens * self.full_token

    def full_attention_cache_bytes(self, tokens: int) -> int:
        """Return the bytes cached for a story of this many tokens if every layer had full attention."""
        return self.full_attention_token * tokens

    def _kv(self, first: int, end: int) -> tuple[int, int]:
        """Return the mean bytes of the keys and values read, as (sliding window, full attention).

        The mean is over the lengths from `first` to `end` - 1 tokens.
        """
        cache_bytes = sum(min(length, self.window) for length in range(first, end)) / (end - first)
        whole = (first + end - 1) / 2
        return round(cache_bytes * self.window_token), round(whole * self.full_token)
