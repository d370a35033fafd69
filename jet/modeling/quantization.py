"""A network whose weights are quantized: what stands in it for linear layers and the embedding.

On a CPU with numba, forward quantizes the activations too and multiplies whole numbers, as `FusedStep` does
there. Elsewhere it turns weights into numbers a piece at a time and multiplies as ever, which suits prompts,
where a weight is used for many tokens; single tokens are for `FusedStep`, which multiplies by the codes.

Such a network writes and reads; it is not trained, which is done with its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from jet.modeling.checkpoint import CheckpointError
from jet.modeling.model import JetNemotronForCausalLM, Linear
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
    "is_tied",
    "quantize_network",
    "replace_weights",
    "scheme_of",
]

MOST_NUMBERS = 2**24  # weights that are numbers at once: those of most layers, of a large head a part


class QuantizedWeight(nn.Module):
    """Holds a weight, which several layers may share; it moves with the network."""

    qweight: Tensor
    scales: Tensor

    def __init__(self, weight: QuantizedTensor) -> None:
        super().__init__()
        self.weight = weight

    @property
    def weight(self) -> QuantizedTensor:
        """The matrix."""
        held = self.qweight, self.scales, self._columns, self._dtype
        return QuantizedTensor(*held) if self._rows is None else BlockedTensor(*held, *self._rows)

    @weight.setter
    def weight(self, weight: QuantizedTensor) -> None:
        self._columns, self._dtype = weight.columns, weight.dtype
        self._rows = (weight.first, weight.rows) if isinstance(weight, BlockedTensor) else None
        self.register_buffer("qweight", weight.qweight)
        self.register_buffer("scales", weight.scales)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedWeight:
        """A network's type is that of its numbers. Codes and scales stay what they are, wherever they go."""
        qweight = fn(self.qweight)
        if qweight.device != self.qweight.device:  # blocks are for a CPU
            self.weight = in_rows(self.weight)
            qweight = fn(self.qweight)
        self._dtype = fn(torch.empty(0, dtype=self._dtype, device=qweight.device)).dtype
        self.qweight, self.scales = qweight, self.scales.to(qweight.device)
        return self

    def in_blocks(self) -> BlockedTensor:
        """The matrix, from now on in blocks."""
        weight = in_blocks(self.weight)
        self.weight = weight
        return weight


class QuantizedLinear(nn.Module):
    """Stands for a `Linear`."""

    held: QuantizedWeight

    def __init__(self, held: QuantizedWeight, bias: nn.Parameter | None, tied: bool = False) -> None:
        """`tied`: the weight is another module's, among whose tensors it is listed."""
        super().__init__()
        if tied:
            self.__dict__["held"] = held
        else:
            self.held = held
        self.bias = bias
        self.out_features, self.in_features = held.weight.shape

    @property
    def weight(self) -> QuantizedTensor:
        """The matrix."""
        return self.held.weight

    def forward(self, x: Tensor) -> Tensor:
        """`[…, inputs]` → `[…, outputs]`."""
        weight = self.weight
        multiply = activations.compiled_linear(x)
        if multiply is not None:
            return multiply(x, self.held.in_blocks(), self.bias)
        if weight.numel() <= MOST_NUMBERS:
            return linear(x, weight.dequantize(x.dtype), self.bias)
        out = x.new_empty(*x.shape[:-1], self.out_features)
        for begin, end in row_ranges((self.out_features, self.in_features), MOST_NUMBERS):
            bias = None if self.bias is None else self.bias[begin:end]
            out[..., begin:end] = linear(x, weight[begin:end].dequantize(x.dtype), bias)
        return out


class QuantizedEmbedding(nn.Module):
    """Stands for an `nn.Embedding`."""

    def __init__(self, held: QuantizedWeight) -> None:
        super().__init__()
        self.held = held

    @property
    def weight(self) -> QuantizedTensor:
        """The matrix."""
        return self.held.weight

    def forward(self, ids: Tensor) -> Tensor:
        """`[…]` → `[…, channels]`."""
        rows = self.weight[ids.flatten()].dequantize()
        return rows.view(*ids.shape, rows.shape[1])


def is_tied(model: JetNemotronForCausalLM) -> bool:
    """Whether head and embedding are one matrix, in a network of numbers as in a quantized one."""
    head, embedding = model.lm_head, model.model.embed_tokens
    return head.weight is embedding.weight or getattr(head, "held", None) is getattr(embedding, "held", head)


def count_parameters(model: JetNemotronForCausalLM) -> int:
    """Parameters of a network, tied ones once, whether they are numbers or codes."""
    held = [module.weight.numel() for module in model.modules() if isinstance(module, QuantizedWeight)]
    return sum(parameter.numel() for parameter in model.parameters()) + sum(held)


def scheme_of(scheme: str, name: str) -> str:
    """How the weights of the module called `name` are held: those of head and embedding never in int4.

    What they round reaches the logits directly, and they are read once a token, not once a layer.
    """
    return INT8 if scheme == INT4 and name in ("lm_head", "model.embed_tokens") else scheme


def quantize_network(model: JetNemotronForCausalLM, scheme: str) -> JetNemotronForCausalLM:
    """The same network with its weights quantized where it is; `load_model` does that while it loads."""
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


def check_scheme(scheme: str) -> None:
    """Raise CheckpointError if there is no such way to hold weights."""
    if scheme not in SCHEMES:
        raise CheckpointError(f"There is no quantization {scheme!r}: choose {' or '.join(SCHEMES)}, or none.")


def replace_weights(
    model: JetNemotronForCausalLM, weight_of: Callable[[str, nn.Module], QuantizedTensor], scheme: str
) -> None:
    """Have quantized weights stand for those of all linear layers and of the embedding, in their order.

    `weight_of`: from a module and its name to its weight. It is not asked for that of a head that is tied.
    """
    tied = is_tied(model)
    for name, module in list(model.named_modules()):
        is_tied_head = name == "lm_head" and tied
        if is_tied_head:
            held = cast(QuantizedWeight, model.model.embed_tokens.held)
        elif isinstance(module, (Linear, nn.Embedding)):
            held = QuantizedWeight(weight_of(name, module))
        else:
            continue
        bias = getattr(module, "bias", None)
        embeds = isinstance(module, nn.Embedding)
        new = QuantizedEmbedding(held) if embeds else QuantizedLinear(held, bias, is_tied_head)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, new)
    model.eval()  # type: ignore[no-untyped-call]
    model.quantization = model.model.quantization = scheme
    # There is no lm_head.weight any more that transformers could tie to the embedding's.
    model._tied_weights_keys, model.all_tied_weights_keys = {}, {}
