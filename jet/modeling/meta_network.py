"""Build a network without weights, on the device "meta"."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from jet.modeling.config import JetNemotronConfig
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantization import check_scheme, replace_weights, scheme_of
from jet.modeling.quantized_loading import outline_network
from jet.ops.quantization import QuantizedTensor


def meta_network(
    config: JetNemotronConfig, dtype: torch.dtype, scheme: str | None = None
) -> JetNemotronForCausalLM:
    """Return a network on the device "meta", whose weights have a shape and a type but no memory.

    `scheme`: "int8" or "int4" for quantized weights; None for weights of type `dtype`.
    """
    model = outline_network(config, dtype, None).eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    if scheme is not None:
        check_scheme(scheme)

        def weight_of(name: str, module: nn.Module) -> QuantizedTensor:
            rows, columns = cast(Tensor, module.weight).shape
            return QuantizedTensor.empty(
                (rows, columns), scheme_of(scheme, name), dtype, torch.device("meta")
            )

        replace_weights(model, weight_of, scheme)
    return cast(JetNemotronForCausalLM, model)
