"""Register quantized checkpoints with transformers, for its `from_pretrained` and `save_pretrained`.

The quantizer replaces linear layers and the embedding by quantized modules before any weight is loaded, so
that transformers fills their buffers from the files, on any device.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.core_model_loading import WeightRenaming
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from jet.modeling.quantization import QuantizedWeight, dequantize_network, replace_weights, scheme_of
from jet.modeling.quantized_format import METHOD, describe_scheme, read_scheme, renamings, stored_tensors
from jet.ops.blocked import in_rows
from jet.ops.quantization import QuantizedTensor


@register_quantization_config(METHOD)
class JetQuantizationConfig(QuantizationConfigMixin):
    """The `quantization_config` of a quantized checkpoint."""

    def __init__(self, **described: Any) -> None:
        """Parse a `quantization_config`. Raises ValueError for an unknown scheme or version."""
        scheme = read_scheme({"quant_method": METHOD, **described})
        assert scheme is not None
        for name, value in describe_scheme(scheme).items():
            setattr(self, name, value)


@register_quantizer(METHOD)
class JetQuantizer(HfQuantizer):
    """Prepares a network to be filled from a quantized checkpoint, and its tensors to be saved as one."""

    quantization_config: JetQuantizationConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError for a checkpoint that is not quantized yet."""
        if not self.pre_quantized:
            raise ValueError(
                "Weights are not quantized by from_pretrained: load them with "
                "jet.load_model(…, quantize=…), or write a quantized checkpoint with python -m jet.quantize."
            )

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        scheme: str = self.quantization_config.scheme  # type: ignore[attr-defined]

        def outline(name: str, module: nn.Module) -> QuantizedTensor:
            rows, columns = cast(Tensor, module.weight).shape
            return QuantizedTensor.empty(
                (rows, columns), scheme_of(scheme, name), model.dtype, torch.device("meta")
            )

        if model.config.tie_word_embeddings:  # transformers does so only after the weights are loaded
            model.lm_head.weight = model.model.embed_tokens.weight
        replace_weights(model, outline, scheme)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        model.requires_grad_(False)

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        return dequantize_network(model, dtype or model.dtype)

    def get_weight_conversions(self) -> list[Any]:
        """Return the renamings from the names of tensors in files to the network's names."""
        return [WeightRenaming(*names) for names in renamings()]

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the tensors to save, by their names in files, and set the scheme in the config."""
        model.config.quantization_config = self.quantization_config
        return storable(model), {}

    def is_serializable(self) -> bool:
        """Return True, since quantized networks can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return False, since quantized networks are for inference only."""
        return False


def prepare_to_save(model: Any, scheme: str) -> None:
    """Make transformers' `save_pretrained` save a quantized network as a quantized checkpoint."""
    model.hf_quantizer = JetQuantizer(JetQuantizationConfig(**describe_scheme(scheme)))


def storable(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a quantized network by their names in files, tied ones once."""
    state = dict[str, Tensor]()
    for prefix, module in model.named_modules():
        if isinstance(module, QuantizedWeight):
            weight = in_rows(module.weight)
            state |= {f"{prefix}.qweight": weight.qweight, f"{prefix}.scales": weight.scales}
        else:
            own = module.named_parameters(recurse=False)
            state |= {f"{prefix}.{name}".removeprefix("."): parameter.data for name, parameter in own}
    return stored_tensors(state)
