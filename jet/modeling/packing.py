"""Unpack rows that contain several texts into one row for each text, and pack the results.

With one row per text, recurrent states, convolutions, windows and full attention all end with the text.
Callers mark packed rows as in transformers and flash-linear-attention, by any of:

- `position_ids` that start again at every text;
- `cu_seq_lens_q` and `cu_seq_lens_k`, or `cu_seqlens`: the offsets of the texts and the total length;
- `seq_idx`: the number of each token's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

_BORDERS = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens")
# Also passed by callers that pack, or by generate(); they do not change the result.
_IGNORED = {"max_length_q", "max_length_k", "max_seqlen", "cache_position", "is_first_iteration"}
OPTIONS = {*_BORDERS, "seq_idx", *_IGNORED}


@dataclass(frozen=True)
class Packing:
    """Positions of N texts in packed tokens `[B, T]`; L is the length of the longest text.

    Attributes:
        begins: `[B, T]`, True at the first token of every text except the first text of each row.
        index: `[N, L]`, the index in the flattened `[B · T]` of each token of each text; 0 after a text's
            end.
        mask: `[N, L]`, False after a text's end.
    """

    begins: Tensor
    index: Tensor
    mask: Tensor

    def unpack(self, packed: Tensor) -> Tensor:
        """Give every text a row of its own: `[B, T, …]` → `[N, L, …]`."""
        texts: Tensor = packed.flatten(0, 1)[self.index]
        return texts

    def pack(self, texts: Tensor) -> Tensor:
        """Undo `unpack`: `[N, L, …]` → `[B, T, …]`, with zeros at padding."""
        batch, length = self.begins.shape
        packed = texts.new_zeros(batch * length, *texts.shape[2:])
        flat: Tensor = packed.index_copy(0, self.index[self.mask], texts[self.mask])
        return flat.view(batch, length, *texts.shape[2:])


def check_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError for an argument of `forward` that is unknown and not None."""
    unknown = sorted(name for name, value in options.items() if value is not None and name not in OPTIONS)
    if unknown:
        raise TypeError(f"forward() has no argument {', '.join(unknown)}: Jet-Nemotron would leave it out.")


def find_packing(
    shape: tuple[int, int],
    position_ids: Tensor | None,
    padding_mask: Tensor | None,
    options: Mapping[str, Any],
) -> Packing | None:
    """Find the texts in rows of `shape` `[B, T]`; None if every row holds one text.

    `padding_mask` `[B, T]` is False at padding, which belongs to no text. Raises ValueError if the
    arguments contradict each other.
    """
    if position_ids is not None:
        _check_shape("position_ids", position_ids, shape)
    given = [name for name in (*_BORDERS, "seq_idx") if options.get(name) is not None]
    if shape[1] == 1 or (position_ids is None and not given):
        return None
    said = [(name, _begins(name, options[name], shape)) for name in given]
    for name, same in said[1:]:
        if not torch.equal(same.cpu(), said[0][1].cpu()):
            raise ValueError(f"{said[0][0]} and {name} do not name the same texts.")
    begins: Tensor | None = said[0][1] if said else None
    if position_ids is not None:
        begins = _check_positions(position_ids.expand(shape), padding_mask, begins)
    assert begins is not None
    if not bool(begins.any()):
        return None
    return _index(begins, begins.new_ones(shape) if padding_mask is None else padding_mask.to(begins.device))


def check_continuation(position_ids: Tensor, padding_mask: Tensor | None, seen: int, new: int) -> None:
    """Raise ValueError if the positions of `new` tokens start again after `seen` tokens in the cache.

    `padding_mask` `[B, seen + new]` is False at padding. Positions may jump ahead, because those of the
    cached tokens are not stored.
    """
    first = position_ids.reshape(-1, new)[:, :1]
    if padding_mask is None:
        again = first < seen
    else:
        padding_mask = padding_mask.to(first.device)
        again = (first < padding_mask[:, :seen].sum(1, keepdim=True)) & padding_mask[:, seen : seen + 1]
    if bool(again.any()):
        raise ValueError(
            f"position_ids begin again at {int(first.min())} behind the {seen} tokens in past_key_values: "
            "another text needs a cache of its own."
        )


def _begins(name: str, value: Any, shape: tuple[int, int]) -> Tensor:
    """Convert the packing argument `name` to `Packing.begins`, `[B, T]`.

    Raises ValueError if the argument is malformed.
    """
    value = torch.as_tensor(value)
    batch, length = shape
    if name == "seq_idx":
        _check_shape(name, value, shape)
        value = value.expand(shape)
        return torch.nn.functional.pad(value[:, 1:] != value[:, :-1], (1, 0))
    places = value.flatten().tolist()
    if batch != 1 or value.dim() not in (1, 2) or places[:1] != [0] or places[-1:] != [length]:
        raise ValueError(
            f"{name} {places} must go from 0 to the number of tokens, for a batch of one row; "
            f"there are {batch} of {length} tokens."
        )
    if any(later < earlier for earlier, later in pairwise(places)):
        raise ValueError(f"{name} {places} must not fall.")
    begins = torch.zeros(1, length, dtype=torch.bool, device=value.device)
    begins[0, [place for place in places if 0 < place < length]] = True
    return begins


def _check_positions(positions: Tensor, padding_mask: Tensor | None, begins: Tensor | None) -> Tensor:
    """Check positions `[B, T]`; return `begins`, or derive `Packing.begins` from the positions if it is None.

    Raises ValueError if the positions contradict the given `begins`, or jump ahead where no text begins.
    """
    padding_mask = (
        torch.ones_like(positions, dtype=torch.bool)
        if padding_mask is None
        else padding_mask.to(positions.device)
    )
    places = torch.arange(positions.shape[1], device=positions.device).expand_as(positions)
    before = torch.where(padding_mask, places, -1).cummax(dim=1).values
    before = torch.nn.functional.pad(
        before[:, :-1], (1, 0), value=-1
    )  # index of the row's last unpadded token before this one
    follows = padding_mask & (before >= 0)
    steps = positions - positions.gather(1, before.clamp(min=0))
    again = follows & (steps <= 0)
    if begins is None:
        begins = again
    elif bool((again & ~begins.to(again.device)).any()):
        raise ValueError("position_ids begin again where cu_seq_lens or seq_idx do not begin a text.")
    begins = begins.to(again.device)
    jumps = follows & (steps > 1) & (before == places - 1) & ~begins
    if bool(jumps.any()):
        row, place = jumps.nonzero()[0].tolist()
        raise ValueError(
            f"position_ids jump from {int(positions[row, place - 1])} to {int(positions[row, place])} in row "
            f"{row}: give cu_seq_lens_q and cu_seq_lens_k, or seq_idx, if another text begins there."
        )
    return begins


def _index(begins: Tensor, padding_mask: Tensor) -> Packing:
    batch, length = begins.shape
    rows = torch.arange(batch, device=begins.device)[:, None]
    texts = (begins.long().cumsum(1) + rows * length)[padding_mask]
    flat = padding_mask.flatten().nonzero()[:, 0]
    _, number, counts = texts.unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(flat), device=flat.device) - (counts.cumsum(0) - counts)[number]
    index = flat.new_zeros(len(counts), int(counts.max()))
    mask = torch.zeros_like(index, dtype=torch.bool)
    index[number, place], mask[number, place] = flat, True
    return Packing(begins, index, mask)


def _check_shape(name: str, value: Tensor, shape: tuple[int, int]) -> None:
    if tuple(value.shape) not in (shape, (1, shape[1]), (shape[1],)):
        raise ValueError(f"{name} must be [batch, tokens] = {list(shape)}, not {list(value.shape)}.")
