"""Write the inputs of a decode batch to the device: the sampling parameters and states of its rows.

Afterwards only the device updates these inputs, until the batch changes.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from jet.cache.pinned import pinned
from jet.engine.chain import as_numbers, state_at
from jet.engine.row_samplers import RowSamplers
from jet.engine.sequence import Sequence
from jet.ops.decode_batch import DecodeBatch, FinalSettings, SamplerFlags

if TYPE_CHECKING:
    from jet.ops.triton.shape_logits import ShapeBuffers


class HasShape(Protocol):
    """An object with the buffers of the samplers that `SamplerFlags.uses_shape` turns on."""

    @property
    def shape(self) -> ShapeBuffers:
        """Return the buffers; allocated on first use."""
        ...


def write_inputs(
    rows: DecodeBatch,
    flags: SamplerFlags | None,
    sampler: HasShape,
    sequences: abc.Sequence[Sequence],
    inactive: abc.Container[Sequence] = (),
) -> None:
    """Copy to the rows all inputs that a step with the samplers in `flags` reads.

    `sampler`: has the buffers of shape samplers. `inactive`: as in `write_batch`.
    """
    write_batch(rows, sequences, inactive)
    if flags is not None and flags.uses_shape:
        write_shape(sampler.shape, sequences)
    if flags is not None and flags.uses_final:
        write_final(rows, sequences)


def write_batch(
    rows: DecodeBatch, sequences: abc.Sequence[Sequence], inactive: abc.Container[Sequence] = ()
) -> None:
    """Copy the sequences' inputs to the rows; afterwards only the device updates the rows.

    Rows beyond the sequences use the null slot. The device draws no token for the sequences in `inactive`.
    """
    missing = len(rows.token) - len(sequences)

    def write(tensor: Tensor, values: Iterable[float], otherwise: float = 0) -> None:
        given = pinned([*values, *[otherwise] * missing], tensor.dtype, tensor.device)
        tensor.copy_(given, non_blocking=True)

    samplings, samplers = [sequence.sampling for sequence in sequences], _row_samplers(sequences)
    write(rows.temperature, (one.temperature for one in samplers))
    write(rows.top_k, (one.top_k for one in samplers))
    write(rows.top_p, (one.top_p for one in samplers), 1)
    write(rows.min_p, (one.min_p for one in samplers))
    write(rows.repetition_penalty, (sampling.repetition_penalty for sampling in samplings), 1)
    write(rows.seed, (sampling.seed or 0 for sampling in samplings))
    write(rows.step, (sequence.num_generated for sequence in sequences))
    write(rows.min_tokens, (sequence.min_tokens for sequence in sequences))
    write(rows.position, (sequence.num_computed_tokens for sequence in sequences))
    write(rows.slot, (sequence.slot or 0 for sequence in sequences), rows.null_slot)
    write(rows.active, (sequence not in inactive for sequence in sequences))
    write(rows.token, (sequence.last_token or 0 for sequence in sequences))
    write(rows.status, (0 for _ in sequences))


def write_shape(buffers: ShapeBuffers, sequences: abc.Sequence[Sequence]) -> None:
    """Copy the settings of top-nσ, typical sampling and dynamic temperature to the device.

    Sequences without these samplers get neutral values.
    """
    buffers.write(
        (one.top_n_sigma, one.typical_p, one.dynatemp_range, one.dynatemp_exponent)
        for one in _row_samplers(sequences)
    )


def _row_samplers(sequences: abc.Sequence[Sequence]) -> list[RowSamplers]:
    """Return the rows' samplers; neutral ones for sequences whose tokens the host draws."""
    return [sequence.row_samplers or RowSamplers() for sequence in sequences]


def write_final(rows: DecodeBatch, sequences: abc.Sequence[Sequence]) -> None:
    """Copy the settings of the final samplers (XTC, adaptive-p, mirostat) and their states to the device.

    Sequences without these samplers, and rows beyond the sequences, get neutral values.
    """
    missing = len(rows.token) - len(sequences)
    settings = [*(one.final for one in _row_samplers(sequences)), *[FinalSettings()] * missing]
    states = [as_numbers(state_at(one.sampling, one.sampler_states, one.num_generated)) for one in sequences]
    states += [as_numbers(None)] * missing
    given: list[tuple[Tensor, Any]] = [(rows.final_settings, settings), (rows.sampler_state, states)]
    for tensor, values in given:
        tensor.copy_(pinned(values, tensor.dtype, tensor.device), non_blocking=True)
