"""Basic layers of the network: linear layer, root-mean-square norms and the SwiGLU MLP."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jet.modeling.config import JetNemotronConfig
from jet.ops.precision import linear, upcast


class Linear(nn.Linear):
    """Linear layer with precise float32 products; see `jet.ops.precision.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `[…, in]` by the weight; return `[…, out]`."""
        return linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last dimension of `[…, size]`."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class GatedRMSNorm(RMSNorm):
    """Root-mean-square norm times `silu(gate)`, in at least float32."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Normalize the last dimension of `[…, size]`; `gate`, of the same shape, must be given."""
        assert gate is not None
        normed = F.rms_norm(upcast(x), self.weight.shape, upcast(self.weight), self.eps)
        return (normed * F.silu(upcast(gate))).to(x.dtype)


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform `[…, hidden]`; return the same shape."""
        down: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return down
