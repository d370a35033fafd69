"""Find the Triton kernels that an engine launches, without a GPU and without weights.

Binds the same steps and samplers as `CudaGraphDecoder` and `CudaGraphPrefill`, over tensors of the device
"meta", and records every launch. Memory sizes (slots, pages, the longest story) do not change a kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.decode_step import DecodeStep
from jet.engine.prefill_step import PrefillStep, jet_sizes
from jet.modeling import JetNemotronConfig
from jet.modeling.meta_network import meta_network
from jet.ops import prefill_backends
from jet.ops.backends import has_dependent_launch, triton_backend
from jet.ops.decode_batch import DecodeBatch
from jet.ops.gpu_target import GpuTarget

if TYPE_CHECKING:
    from jet.ops.triton.compile_jobs import CompileJob

_META = torch.device("meta")
_HALF = (torch.bfloat16, torch.float16)
# Of one kernel: about how long it takes to compile, relative to the others; the slowest are begun first.
_SLOW = ("_split_kv_kernel", "_heads_linear_add", "_jet_step", "_solve", "_prepare", "_scan", "_draw_kernel",
         "_norm_swiglu", "_flash_kernel", "_linear_add", "product_kernel", "_norm_linear",
         "_rotate_and_store", "jet_step_kernel")  # fmt: skip


def kernels_of(
    config: JetNemotronConfig,
    dtype: torch.dtype,
    scheme: str | None,
    sizes: Sequence[int],
    target: GpuTarget,
    prefill: bool = True,
) -> list[CompileJob]:
    """Return a compile job for each kernel that batches of these sizes (in rows) need, longest jobs first.

    `scheme`: "int8" or "int4" for quantized weights, otherwise None. `prefill`: whether to include the
    kernels of prefill chunks.
    """
    from jet.ops.triton.compile_jobs import trace_launches

    found = trace_launches(target, lambda: _launch_all(config, dtype, scheme, sizes, prefill))
    return sorted(found, key=lambda job: _SLOW.index(job.name) if job.name in _SLOW else len(_SLOW))


def _launch_all(
    config: JetNemotronConfig, dtype: torch.dtype, scheme: str | None, sizes: Sequence[int], prefill: bool
) -> None:
    from jet.engine.cuda_graphs import CAPTURED_SAMPLERS, MIN_TOKENS_SAMPLER, Sampler
    from jet.engine.prefill import SIZES

    model = meta_network(config, dtype, scheme)
    pool = StatePool(config, 1, PAGE_SIZE, dtype, _META, PAGE_SIZE, scratch=True)
    seen = torch.zeros(pool.null_slot + 1, config.vocab_size, dtype=torch.uint8, device=_META)
    heads = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    largest: DecodeStep | None = None
    rows = _rows(max(sizes, default=1), pool.null_slot)
    pdl = has_dependent_launch(_META)
    for size in sorted({1, *sizes}, reverse=True):
        backend = triton_backend(_META, size, *heads, dtype, scheme)
        step = DecodeStep(model, pool, rows.first(size), backend, share_with=largest)
        largest = largest or step
        step.run()
        sampler = Sampler(step.logits, rows.first(size), seen, step.first_weight)
        for flags in (*CAPTURED_SAMPLERS, MIN_TOKENS_SAMPLER):
            sampler.sample(flags, pdl)
            if size == 1:
                sampler.sample(flags)  # the first token of a request
    if prefill and dtype in _HALF:
        prefill_backend = prefill_backends.triton_prefill_backend(SIZES[-1], jet_sizes(config), dtype, _META)
        PrefillStep(model, pool, prefill_backend, SIZES[-1]).run(SIZES[0])


def _rows(batch: int, idle: int) -> DecodeBatch:
    made = DecodeBatch.make(batch, "cpu", (), idle)
    values = {field.name: getattr(made, field.name) for field in fields(made)}
    moved: dict[str, Any] = {name: v.to(_META) for name, v in values.items() if isinstance(v, Tensor)}
    return replace(made, **moved)


def graph_sizes(most: int) -> list[int]:
    """Return the batch sizes that have graphs in an engine for up to `most` running requests."""
    from jet.engine.cuda_graphs import padded_size

    sizes = chain((1, 2), range(3, most + 1))
    return sorted({padded_size(size) for size in sizes if size <= most} | {padded_size(most)})
