"""HybridCache: the cache of a batch of sequences, one entry per layer.

A jet layer keeps a state of fixed size, a window layer its last keys and values, a full-attention layer all
of them. Each layer counts the tokens it has seen, padding included, so any of them can report the length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from jet.modeling.config import JetNemotronConfig

# Full-attention buffers grow by this many tokens at once. Appending then copies only the new tokens, and at
# most this many unused tokens are allocated.
KV_GROWTH_TOKENS = 256


class _LayerCache(CacheLayerMixin):
    """Base of the three kinds of layer cache: a token count, and operations on rows of the cached tensors."""

    is_sliding = False
    tensor_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0
        self.clear()

    def clear(self) -> None:
        for name in self.tensor_names:
            setattr(self, name, None)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors in use, by name."""
        found = {name: getattr(self, name) for name in self.tensor_names}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def map_rows(self, operation: Callable[[Tensor], Tensor]) -> None:
        """Replace every tensor by `operation(tensor)`, which may change the batch dimension only."""
        for name, tensor in self.tensors().items():
            setattr(self, name, operation(tensor))

    def check_crop(self, remove: int) -> str | None:
        """Return why the last `remove` tokens cannot be removed; None if they can."""
        raise NotImplementedError

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `abs(tokens_to_remove)` tokens. Call it only if `check_crop` returns None."""
        raise NotImplementedError

    # The interface of a transformers cache layer:

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: tensors are created by the first update."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        raise TypeError(f"{type(self).__name__} holds no keys and values.")

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def reset(self) -> None:
        self.length = 0
        self.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.map_rows(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.map_rows(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.map_rows(lambda tensor: tensor[indices.to(tensor.device)])


class JetLayerCache(_LayerCache):
    """State of a jet layer, of constant size at any length.

    Attributes:
        recurrent_state: `[B, H, K, V]` float32, the memory of the gated delta rule.
        conv_state: `[B, D, W]` in the model's type, the last W inputs of the convolution, newest last;
            zeros before the first token.
    """

    tensor_names: tuple[str, ...] = ("recurrent_state", "conv_state")
    recurrent_state: Tensor | None
    conv_state: Tensor | None

    def store(self, recurrent_state: Tensor, conv_state: Tensor, tokens: int) -> None:
        """Store the state after `tokens` more tokens."""
        self.recurrent_state, self.conv_state = recurrent_state, conv_state
        self.length += tokens

    def check_crop(self, remove: int) -> str | None:
        return "its state keeps no past to go back to"


class FullAttentionCache(_LayerCache):
    """All keys and values, `[B, heads, length, head_dim]`: views of buffers that grow in steps."""

    tensor_names = ("_key_buffer", "_value_buffer")
    _key_buffer: Tensor | None
    _value_buffer: Tensor | None

    def clear(self) -> None:
        super().clear()
        self.keys = self.values = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values `[B, heads, T, head_dim]`; return all of them so far."""
        self._key_buffer = _append(self._key_buffer, key_states, self.length)
        self._value_buffer = _append(self._value_buffer, value_states, self.length)
        self.length += key_states.shape[2]
        self._take_views()
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _take_views(self) -> None:
        if self._key_buffer is not None and self._value_buffer is not None:
            self.keys = self._key_buffer[:, :, : self.length]
            self.values = self._value_buffer[:, :, : self.length]

    def map_rows(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().map_rows(operation)
        self._take_views()

    def check_crop(self, remove: int) -> str | None:
        return None

    def crop(self, tokens_to_remove: int) -> None:
        self.length -= abs(tokens_to_remove)
        self._take_views()


class WindowAttentionCache(_LayerCache):
    """The last `window - 1` keys and values, `[B, heads, <= window - 1, head_dim]`.

    The next token is the last one of its own window, so `window - 1` cached tokens are enough. Padding is
    evicted first, because the window counts unpadded tokens only.

    Attributes:
        padding_mask: `[B, <= window - 1]`, False where a cached token is padding; None if no token is
            padding.
        new_padding_mask: `[B, T]`, False where a token of the next update is padding; None if no token is.
    """

    is_sliding = True
    tensor_names = ("keys", "values", "padding_mask")
    padding_mask: Tensor | None

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.new_padding_mask: Tensor | None = None

    def kv_padding_mask(self, tokens: int, batch: int, device: torch.device) -> Tensor:
        """Return the mask of the cached and the next tokens, `[B, cached + tokens]`, False at padding."""
        kept = min(self.length, self.window - 1)
        parts = [(self.padding_mask, kept), (self.new_padding_mask, tokens)]
        return torch.cat(
            [
                torch.ones(batch, size, dtype=torch.bool, device=device) if part is None else part
                for part, size in parts
            ],
            dim=1,
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append `[B, heads, T, head_dim]`; return the keys and values that these T tokens may see."""
        keys = key_states if self.keys is None else torch.cat([self.keys, key_states], dim=2)
        values = value_states if self.values is None else torch.cat([self.values, value_states], dim=2)
        if self.padding_mask is None and self.new_padding_mask is None:
            self.keys, self.values = self._last(keys), self._last(values)
        else:
            self._store_unpadded(
                keys, values, self.kv_padding_mask(key_states.shape[2], keys.shape[0], keys.device)
            )
        self.length += key_states.shape[2]
        return keys, values

    def _store_unpadded(self, keys: Tensor, values: Tensor, padding_mask: Tensor) -> None:
        """Keep the last unpadded tokens of each row; padding only fills up a row that has too few."""
        if keys.shape[2] > self.window - 1:
            order = padding_mask.long().argsort(dim=1, stable=True)[:, keys.shape[2] - (self.window - 1) :]
            keys, values = (
                x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
                for x in (keys, values)
            )
            padding_mask = padding_mask.gather(1, order)
        self.keys, self.values, self.padding_mask = keys, values, padding_mask
        self.new_padding_mask = None

    def _last(self, states: Tensor) -> Tensor:
        beyond = states.shape[2] - (self.window - 1)
        # Copied, because a view would keep the whole prompt in memory.
        return states[:, :, beyond:].clone() if beyond > 0 else states

    def get_max_length(self) -> int:
        return self.window

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        kept = min(self.length, self.window - 1)
        return kept + query_length, self.length - kept

    def check_crop(self, remove: int) -> str | None:
        return "tokens that left its window are gone" if self.length > self.window - 1 else None

    def crop(self, tokens_to_remove: int) -> None:
        self.length -= abs(tokens_to_remove)
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        if self.padding_mask is not None:
            self.padding_mask = self.padding_mask[:, : self.length]


class HybridCache(Cache):
    """Cache of B sequences in a Jet-Nemotron network; pass it as `past_key_values`.

    It can be copied (`copy.deepcopy`), reordered for beams, and repeated or selected along the batch. It can
    be cropped only while no layer has dropped anything. Since a recurrent state cannot be truncated, copy the
    cache before tokens that you may want to remove.

    Attributes:
        padding_mask: `[B, length]`, False at padding, which no other token attends to; None if there is none.
    """

    layers: list[_LayerCache]  # type: ignore[assignment]
    padding_mask: Tensor | None = None

    def __init__(self, config: JetNemotronConfig) -> None:
        assert config.layer_types is not None
        super().__init__(layers=[_make_layer(config, layer_type) for layer_type in config.layer_types])

    def extend(self, padding_mask: Tensor | None, tokens: int) -> None:
        """Prepare the cache for `tokens` more tokens, before the layers run on them.

        `padding_mask`, `[B, past + tokens]`, is False at padding; None if there is none.
        """
        for layer in self.layers:
            if isinstance(layer, WindowAttentionCache):
                layer.new_padding_mask = None if padding_mask is None else padding_mask[:, -tokens:]
        self.padding_mask = padding_mask

    def leave_inference_mode(self) -> None:
        """Make tensors written under `torch.inference_mode()` usable and writable outside of it."""
        if torch.is_inference_mode_enabled():
            return
        for layer in self.layers:
            layer.map_rows(_outside_inference_mode)
        self.padding_mask = None if self.padding_mask is None else _outside_inference_mode(self.padding_mask)

    def reset(self) -> None:
        super().reset()  # type: ignore[no-untyped-call]
        self.padding_mask = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._map_padding_mask(
            lambda padding_mask: padding_mask.index_select(0, beam_idx.to(padding_mask.device))
        )

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._map_padding_mask(lambda padding_mask: padding_mask.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._map_padding_mask(lambda padding_mask: padding_mask[indices.to(padding_mask.device)])

    def _map_padding_mask(self, operation: Callable[[Tensor], Tensor]) -> None:
        self.padding_mask = None if self.padding_mask is None else operation(self.padding_mask)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last `-tokens_to_remove` tokens.

        A negative number removes that many tokens, zero does nothing. A positive number keeps that many, as
        in older transformers. Removing all tokens is always possible. Otherwise raises ValueError, and
        changes nothing, if a layer no longer has the state from before.
        """
        length = self.get_seq_length()
        remove = -tokens_to_remove if tokens_to_remove <= 0 else max(length - tokens_to_remove, 0)
        if remove == 0:
            return
        if remove >= length:
            self.reset()
            return
        for index, layer in enumerate(self.layers):
            reason = layer.check_crop(remove)
            if reason is not None:
                raise ValueError(
                    f"The last {remove} of {length} tokens cannot be taken back: layer {index} is a "
                    f"{type(layer).__name__} and {reason}. Copy the cache before tokens you may want to undo."
                )
        for layer in self.layers:
            layer.crop(-remove)
        self._map_padding_mask(lambda padding_mask: padding_mask[:, :-remove])

    def memory(self) -> dict[str, int]:
        """Return the bytes in use by kind: recurrent, conv, window_kv, full_kv.

        Full-attention buffers allocate up to `KV_GROWTH_TOKENS` unused tokens more.
        """
        sizes = {"recurrent": 0, "conv": 0, "window_kv": 0, "full_kv": 0}
        for layer in self.layers:
            if isinstance(layer, JetLayerCache):
                sizes["recurrent"] += _bytes(layer.recurrent_state)
                sizes["conv"] += _bytes(layer.conv_state)
            else:
                kind = "window_kv" if layer.is_sliding else "full_kv"
                sizes[kind] += _bytes(layer.keys) + _bytes(layer.values)
        return sizes


def _make_layer(config: JetNemotronConfig, layer_type: str) -> _LayerCache:
    if layer_type == "jet":
        return JetLayerCache()
    if layer_type == "swa":
        assert config.sliding_window is not None
        return WindowAttentionCache(config.sliding_window)
    return FullAttentionCache()


def _append(buffer: Tensor | None, states: Tensor, used: int) -> Tensor:
    """Write `states` after the first `used` tokens of `buffer`; return the buffer, or a larger copy of it."""
    if states.requires_grad or (buffer is not None and buffer.requires_grad):
        # A write in place would break the autograd graph.
        return states if buffer is None else torch.cat([buffer[:, :, :used], states], dim=2)
    needed = used + states.shape[2]
    if buffer is None or needed > buffer.shape[2]:
        capacity = -(-needed // KV_GROWTH_TOKENS) * KV_GROWTH_TOKENS
        grown = states.new_empty(*states.shape[:2], capacity, states.shape[3])
        if buffer is not None:
            grown[:, :, :used] = buffer[:, :, :used]
        buffer = grown
    buffer[:, :, used:needed] = states
    return buffer


def _outside_inference_mode(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy if it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _bytes(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.numel() * tensor.element_size()
