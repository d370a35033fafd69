"""The gated delta rule: token by token, in chunks, or by flash-linear-attention's kernels.

Per head, with a state S of shape `[K, V]` that maps keys to values:

    S ← exp(g_t) · S                  decay
    u = β_t · (v_t − Sᵀ k_t)          correction: the error of the state's value for this key
    S ← S + k_t uᵀ                    update
    o_t = Sᵀ q_t

Keys and queries are L2-normalized first and queries scaled by K^-0.5. See Yang, Kautz & Hatamizadeh, "Gated
Delta Networks" (arXiv 2412.06464), whose section 3.3 gives the chunked form used below.

The three forms take the same arguments and give the same results up to rounding. The two in plain torch
compute in float32, or in float64 for float64 inputs.

Shapes: q, k `[B, T, H, K]`; v `[B, T, H, V]`; g, beta `[B, T, H]` in float32, g being the logarithm of the
decay; state `[B, H, K, V]` in float32 or None for zeros. They return o `[B, T, H, V]` in v's type and the
state after the last token.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

from jet.ops import fla_backward, fla_import
from jet.ops.availability import has_triton
from jet.ops.precision import upcast

CHUNK_SIZE = 64
EPS = 1e-6


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule as fast as possible: one token by a plain step, several in chunks."""
    if q.shape[1] == 1:
        return naive_recurrent_gated_delta_rule(q, k, v, g, beta, state)
    if _fla_applies(q):
        return fla_gated_delta_rule(q, k, v, g, beta, state)
    return chunk_gated_delta_rule(q, k, v, g, beta, state)


def prefill_implementation(device: torch.device | str, dtype: torch.dtype) -> str:
    """Return the name, for display, of the implementation that prefill uses on a device with this dtype."""
    return "flash-linear-attention" if _fla_is_usable(torch.device(device).type, dtype) else "torch"


def naive_recurrent_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule token by token, as it is defined.

    The decode step uses this form, and the other forms are tested against it.
    """
    out_type = v.dtype
    q, k, v, g, beta = _prepare(q, k, v, g, beta)
    state = _initial_state(k, v) if state is None else upcast(state)
    decay = g.exp()[..., None, None]  # [B, H, T, 1, 1]
    outputs = []
    for t in range(q.shape[2]):
        key, query = k[:, :, t, :, None], q[:, :, t, None, :]  # [B, H, K, 1], [B, H, 1, K]
        state = state * decay[:, :, t]
        error = v[:, :, t, None, :] - key.transpose(-1, -2) @ state
        state = state + key * (beta[:, :, t, None, None] * error)
        outputs.append(query @ state)
    return torch.cat(outputs, dim=2).transpose(1, 2).to(out_type), state


def chunk_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule in chunks of `CHUNK_SIZE` tokens.

    Tokens within a chunk are computed by matrix products; the state is carried from chunk to chunk. Within a
    chunk the corrections u depend on each other through a unit lower triangular system. The systems of all
    chunks are solved at once; only the products with the state remain sequential.
    """
    out_type, length = v.dtype, q.shape[1]
    size = min(CHUNK_SIZE, length)
    # Padding at the end writes nothing (k = 0) and forgets nothing (g = 0).
    q, k, v, g, beta = (_into_chunks(x, size) for x in _prepare(q, k, v, g, beta))
    state = _initial_state(k, v) if state is None else upcast(state)

    decay = g.cumsum(-1)  # [B, H, N, C], from the chunk's start
    decay_ratio = (
        (decay[..., :, None] - decay[..., None, :]).tril().exp().tril()
    )  # exp of the decay from j to i
    keys_beta = k * beta[..., None]
    system = (keys_beta @ k.transpose(-1, -2) * decay_ratio).tril(-1)
    values_and_keys = torch.cat([v * beta[..., None], keys_beta * decay.exp()[..., None]], dim=-1)
    solved = torch.linalg.solve_triangular(system, values_and_keys, upper=False, unitriangular=True)
    u, w = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    attention = (q @ k.transpose(-1, -2)) * decay_ratio
    q = q * decay.exp()[..., None]
    last = decay[..., -1:]
    k = k * (last - decay).exp()[..., None]
    chunk_decay = last.exp()[..., None]

    outputs = []
    for n in range(q.shape[2]):
        corrections = u[:, :, n] - w[:, :, n] @ state
        outputs.append(q[:, :, n] @ state + attention[:, :, n] @ corrections)
        state = state * chunk_decay[:, :, n] + k[:, :, n].transpose(-1, -2) @ corrections
    out = torch.cat(outputs, dim=2)[:, :, :length]
    return out.transpose(1, 2).to(out_type), state


def fla_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule with flash-linear-attention's Triton kernels (CUDA, half precision)."""
    rule = fla_import.load_chunk_gated_delta_rule()  # before anything else of the library is imported
    if torch.is_grad_enabled() and q.requires_grad:
        fla_backward.install()
    out: Tensor
    out, state = rule(
        q=q,
        k=k,
        v=v,
        g=g.float(),
        beta=beta.float(),
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    assert state is not None  # asked for
    return out.to(v.dtype), state


def _prepare(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    """Return the inputs as `[B, H, T, …]` in at least float32, with q and k normalized and q scaled."""
    q, k, v, g, beta = (upcast(x.transpose(1, 2)) for x in (q, k, v, g, beta))
    q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + EPS) * q.shape[-1] ** -0.5
    k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + EPS)
    return q, k, v, g, beta


def _initial_state(k: Tensor, v: Tensor) -> Tensor:
    return k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])


def _into_chunks(x: Tensor, size: int) -> Tensor:
    """Split `[B, H, T, …]` into chunks `[B, H, N, size, …]`, padded with zeros."""
    missing = -x.shape[2] % size
    if missing:
        x = torch.cat([x, x.new_zeros(*x.shape[:2], missing, *x.shape[3:])], dim=2)
    chunks: Tensor = x.unflatten(2, (-1, size))
    return chunks


def _fla_applies(q: Tensor) -> bool:
    return q.shape[-1] <= 256 and _fla_is_usable(q.device.type, q.dtype)


def _fla_is_usable(device_type: str, dtype: torch.dtype) -> bool:
    return has_triton() and _fla_supports(device_type, dtype)


@cache
def _fla_supports(device_type: str, dtype: torch.dtype) -> bool:
    if device_type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return importlib.util.find_spec("fla") is not None
