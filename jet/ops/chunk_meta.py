"""Chunk metadata: tells which sequences the tokens of a prefill chunk belong to.

A chunk packs up to `MAX_PACKED` segments, runs of tokens of one sequence each. Its metadata is one int32
tensor on the device, so that a captured graph serves every chunk: four numbers for each segment, then the
segment of each block of `ALIGNMENT` tokens. Segments begin at multiples of `ALIGNMENT`, with padding between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_PACKED = 16  # segments in a chunk
ALIGNMENT = 64  # tokens; blocks of the delta rule are as long
FIELDS = 4


class Segment(NamedTuple):
    """Tokens of one sequence within a chunk.

    Attributes:
        slot: the sequence's state slot.
        start: the number of the sequence's tokens before the chunk.
        size: the number of the sequence's tokens in the chunk; 0 for an unused segment.
        offset: the index in the chunk of the segment's first token.
    """

    slot: int
    start: int
    size: int
    offset: int


def aligned(tokens: int) -> int:
    """Return how many places of a chunk a segment of `tokens` tokens takes, padding included."""
    return -(-tokens // ALIGNMENT) * ALIGNMENT


def max_segments(tokens: int) -> int:
    """Return how many segments a chunk of `tokens` tokens can have."""
    return min(MAX_PACKED, aligned(tokens) // ALIGNMENT)


def place_segments(parts: Sequence[tuple[int, int, int]]) -> list[Segment]:
    """Make consecutive segments from the (slot, start, size) of each sequence."""
    segments, offset = [], 0
    for slot, start, size in parts:
        segments.append(Segment(slot, start, size, offset))
        offset += aligned(size)
    return segments


def chunk_table(segments: Sequence[Segment], tokens: int) -> list[int]:
    """Return the metadata of a chunk of `tokens` tokens. Raises ValueError if the segments do not fit."""
    if not 0 < len(segments) <= MAX_PACKED or segments[-1].offset + segments[-1].size > tokens:
        raise ValueError(f"{segments} do not fit into a chunk of {tokens} tokens and {MAX_PACKED} segments.")
    unused = (segments[0].slot, 0, 0, 0)
    table = [*segments, *[unused] * (MAX_PACKED - len(segments))]
    blocks = [len(segments) - 1] * (aligned(tokens) // ALIGNMENT)  # also of the padding at the end
    for index, segment in enumerate(segments):
        first = segment.offset // ALIGNMENT
        last = first + aligned(segment.size) // ALIGNMENT
        blocks[first:last] = [index] * (last - first)
    return [number for segment in table for number in segment] + blocks


def make_chunk_meta(segments: Sequence[Segment], tokens: int, device: torch.device | str) -> Tensor:
    """Return the metadata of `chunk_table` as an int32 tensor."""
    return torch.tensor(chunk_table(segments, tokens), dtype=torch.int32, device=device)


def read_segments(chunk_meta: Tensor) -> list[Segment]:
    """Return the used segments of a metadata tensor, in order. Reading waits for the device."""
    numbers = segment_fields(chunk_meta).tolist()
    return [Segment(*fields) for fields in numbers if fields[2]]


def segment_fields(chunk_meta: Tensor) -> Tensor:
    """Return a view `[MAX_PACKED, FIELDS]` of all segments' slot, start, size and offset."""
    return chunk_meta[: MAX_PACKED * FIELDS].view(MAX_PACKED, FIELDS)


def last_tokens(chunk_meta: Tensor) -> Tensor:
    """Return the index in the chunk of each segment's last token, `[MAX_PACKED]`; 0 for unused segments."""
    fields = segment_fields(chunk_meta)
    return (fields[:, 2] + fields[:, 3] - 1).clamp_min(0)
