"""Quantized networks: the modules that replace linear layers and the embedding.

On a CPU with numba, `forward` quantizes the activations too and multiplies integers, as `DecodeStep` does.
Elsewhere it dequantizes a block of rows at a time and multiplies as usual. This suits prefill, where one
weight serves many tokens. For decode, `DecodeStep` multiplies by the quantized codes themselves.

A quantized network is for inference only: to train one, dequantize it before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from jet.modeling.checkpoint import CheckpointError
from jet.modeling.layers import Linear
from jet.modeling.model import JetNemotronForCausalLM
from jet.ops import activations
from jet.ops.blocked import BlockedTensor, in_blocks, in_rows
from jet.ops.precision import linear
from jet.ops.quantization import INT4, INT8, SCHEMES, QuantizedTensor, quantize, row_ranges

__all__ = [
    "SCHEMES",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "QuantizedWeight",
    "check_scheme",
    "count_parameters",
    "dequantize_network",
    "is_tied",
    "quantize_network",
    "replace_weights",
    "scheme_of",
]

MAX_DEQUANTIZED = 2**24  # dequantized weights at once: whole layers mostly, a large head in parts


class QuantizedWeight(nn.Module):
    """A quantized matrix as buffers, so that it moves with the network. Several layers may share it."""

    qweight: Tensor
    scales: Tensor

    def __init__(self, weight: QuantizedTensor) -> None:
        super().__init__()
        self.weight = weight

    @property
    def weight(self) -> QuantizedTensor:
        """Return the quantized matrix, `[outputs, inputs]`."""
        parts = self.qweight, self.scales, self._columns, self._dtype
        return QuantizedTensor(*parts) if self._rows is None else BlockedTensor(*parts, *self._rows)

    @weight.setter
    def weight(self, weight: QuantizedTensor) -> None:
        self._columns, self._dtype = weight.columns, weight.dtype
        self._rows = (weight.first, weight.rows) if isinstance(weight, BlockedTensor) else None
        self.register_buffer("qweight", weight.qweight)
        self.register_buffer("scales", weight.scales)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedWeight:
        """Move codes and scales without converting them; a new dtype only applies to dequantized values."""
        qweight = fn(self.qweight)
        if qweight.device != self.qweight.device:  # blocks are for a CPU
            self.weight = in_rows(self.weight)
            qweight = fn(self.qweight)
        self._dtype = fn(torch.empty(0, dtype=self._dtype, device=qweight.device)).dtype
        self.qweight, self.scales = qweight, self.scales.to(qweight.device)
        return self

    def in_blocks(self) -> BlockedTensor:
        """Convert the matrix in place to the layout in blocks, and return it."""
        weight = in_blocks(self.weight)
        self.weight = weight
        return weight


class QuantizedLinear(nn.Module):
    """Replaces a `Linear`. Several layers may share one `quantized_weight`."""

    quantized_weight: QuantizedWeight

    def __init__(
        self, quantized_weight: QuantizedWeight, bias: nn.Parameter | None, tied: bool = False
    ) -> None:
        """Wrap a weight. `tied`: the weight is registered with another module, not here."""
        super().__init__()
        if tied:
            self.__dict__["quantized_weight"] = quantized_weight
        else:
            self.quantized_weight = quantized_weight
        self.bias = bias
        self.out_features, self.in_features = quantized_weight.weight.shape

    @property
    def weight(self) -> QuantizedTensor:
        """Return the quantized matrix, `[outputs, inputs]`."""
        return self.quantized_weight.weight

    def forward(self, x: Tensor) -> Tensor:
        """Multiply `[…, inputs]` by the quantized weight; return `[…, outputs]`."""
        weight = self.weight
        multiply = activations.compiled_linear(x)
        if multiply is not None:
            return multiply(x, self.quantized_weight.in_blocks(), self.bias)
        if weight.numel() <= MAX_DEQUANTIZED:
            return linear(x, weight.dequantize(x.dtype), self.bias)
        out = x.new_empty(*x.shape[:-1], self.out_features)
        for begin, end in row_ranges((self.out_features, self.in_features), MAX_DEQUANTIZED):
            bias = None if self.bias is None else self.bias[begin:end]
            out[..., begin:end] = linear(x, weight[begin:end].dequantize(x.dtype), bias)
        return out


class QuantizedEmbedding(nn.Module):
    """Replaces an `nn.Embedding`."""

    def __init__(self, quantized_weight: QuantizedWeight) -> None:
        super().__init__()
        self.quantized_weight = quantized_weight

    @property
    def weight(self) -> QuantizedTensor:
        """Return the quantized matrix, `[tokens, channels]`."""
        return self.quantized_weight.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Look up ids `[…]`; return `[…, channels]`."""
        rows = self.weight[ids.flatten()].dequantize()
        return rows.view(*ids.shape, rows.shape[1])


def is_tied(model: JetNemotronForCausalLM) -> bool:
    """Return True if head and embedding share one matrix, quantized or not."""
    head, embedding = model.lm_head, model.model.embed_tokens
    return head.weight is embedding.weight or getattr(head, "quantized_weight", None) is getattr(
        embedding, "quantized_weight", head
    )


def count_parameters(model: JetNemotronForCausalLM) -> int:
    """Count the parameters of a network, quantized or not, tied ones once."""
    quantized = [module.weight.numel() for module in model.modules() if isinstance(module, QuantizedWeight)]
    return sum(parameter.numel() for parameter in model.parameters()) + sum(quantized)


def scheme_of(scheme: str, name: str) -> str:
    """Return the scheme for the module called `name`: with int4, head and embedding are int8.

    Rounding errors of these two affect the logits directly, and they are a small part of the weights.
    """
    return INT8 if scheme == INT4 and name in ("lm_head", "model.embed_tokens") else scheme


def quantize_network(model: JetNemotronForCausalLM, scheme: str) -> JetNemotronForCausalLM:
    """Quantize the weights of a network in place.

    `load_model` quantizes while loading, which takes less memory.
    """
    check_scheme(scheme)

    def weight_of(name: str, module: nn.Module) -> QuantizedTensor:
        weight = cast(Tensor, module.weight).data
        shape = (weight.shape[0], weight.shape[1])
        return quantize(
            lambda begin, end: weight[begin:end], shape, scheme_of(scheme, name), weight.dtype, weight.device
        )

    replace_weights(model, weight_of, scheme)
    model.requires_grad_(False)
    return model


def dequantize_network(model: JetNemotronForCausalLM, dtype: torch.dtype) -> JetNemotronForCausalLM:
    """Replace the quantized modules of a network in place by plain ones with dequantized weights.

    The whole network is converted to `dtype`, and its weights can be trained.
    """
    tied = is_tied(model)
    model.quantization = model.model.quantization = None
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedEmbedding):
            plain: nn.Module = nn.Embedding.from_pretrained(module.weight.dequantize(dtype), freeze=False)
        elif isinstance(module, QuantizedLinear):
            plain = Linear(module.in_features, module.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(module.weight.dequantize(dtype))
            plain.register_parameter("bias", module.bias)
        else:
            continue
        model.set_submodule(name, plain)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    del model._tied_weights_keys  # those of the class hold again
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=False)
    model.requires_grad_(True)
    model.to(dtype)  # type: ignore[arg-type]  # transformers wraps it without its types
    return model


def check_scheme(scheme: str) -> None:
    """Raise CheckpointError unless `scheme` is one of `SCHEMES`."""
    if scheme not in SCHEMES:
        raise CheckpointError(f"There is no quantization {scheme!r}: choose {' or '.join(SCHEMES)}, or none.")


def replace_weights(
    model: JetNemotronForCausalLM, weight_of: Callable[[str, nn.Module], QuantizedTensor], scheme: str
) -> None:
    """Replace all linear layers and the embedding by quantized modules, in the order of the modules.

    `weight_of` returns the quantized weight of a module, given its name and the module. A tied head shares
    the embedding's weight, so `weight_of` is not called for it.
    """
    tied = is_tied(model)
    for name, module in list(model.named_modules()):
        is_tied_head = name == "lm_head" and tied
        if is_tied_head:
            quantized_weight = cast(QuantizedWeight, model.model.embed_tokens.quantized_weight)
        elif isinstance(module, (Linear, nn.Embedding)):
            quantized_weight = QuantizedWeight(weight_of(name, module))
        else:
            continue
        bias = getattr(module, "bias", None)
        embeds = isinstance(module, nn.Embedding)
        new = (
            QuantizedEmbedding(quantized_weight)
            if embeds
            else QuantizedLinear(quantized_weight, bias, is_tied_head)
        )
        model.set_submodule(name, new)
    model.eval()  # type: ignore[no-untyped-call]
    model.quantization = model.model.quantization = scheme
    # There is no lm_head.weight any more that transformers could tie to the embedding's.
    model._tied_weights_keys, model.all_tied_weights_keys = {}, {}
