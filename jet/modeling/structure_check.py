"""Check that a network has exactly the modules that its configuration describes.

`DecodeStep` reads weights and sizes but never calls the modules. A wrapper, a hook or a replaced module would
take effect in prefill but not in decode. The check therefore raises an error that names the module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization

from jet.modeling.checkpoint import CheckpointError
from jet.modeling.layers import Linear
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantization import QuantizedEmbedding, QuantizedLinear, QuantizedWeight

# Classes that may replace a module of the network: all compute the same from their weights.
_EQUIVALENTS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    Linear: (Linear, nn.Linear, QuantizedLinear),
    nn.Embedding: (nn.Embedding, QuantizedEmbedding),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Attributes that may differ: none of them changes the result.
_IGNORED_ATTRIBUTES = {"training", "gradient_checkpointing", "loss_type", "name_or_path"}


def check_not_wrapped(model: JetNemotronForCausalLM) -> None:
    """Raise `CheckpointError` naming the first module that differs from the configuration."""
    with torch.device("meta"), initialization.no_init_weights():
        expected = dict(JetNemotronForCausalLM(model.config).named_modules())
    there = dict(model.named_modules())
    for name, original in expected.items():
        if name not in there:
            raise _error(name, "is missing")
        _check(name, original, there[name])
    for name, module in there.items():
        if name not in expected and not isinstance(module, QuantizedWeight):
            raise _error(name, f"is a {_type_name(module)}, which Jet-Nemotron does not have")


class StructureGuard:
    """Detects wrapped modules and replaced weights after a decode step was bound to them."""

    def __init__(self, model: JetNemotronForCausalLM) -> None:
        self._model, self._fingerprint = model, _fingerprint(model)

    def check(self) -> None:
        """Raise `CheckpointError` if modules or weights have changed, which the bound step would ignore."""
        if (fingerprint := _fingerprint(self._model)) == self._fingerprint:
            return
        check_not_wrapped(self._model)
        raise CheckpointError(
            "Weights of the network have been replaced, which running stories would leave out: "
            f"make a new engine for it. {len(set(fingerprint) ^ set(self._fingerprint))} parts have changed."
        )


def _fingerprint(model: nn.Module) -> list[tuple[int, ...]]:
    """Return numbers for each module: they identify the module, its hooks, and its tensors' addresses."""
    return [
        (
            id(module),
            len(module._forward_hooks) + len(module._forward_pre_hooks),
            "forward" in vars(module),
            *(t.data_ptr() for t in module._parameters.values() if t is not None),
            *(t.data_ptr() for t in module._buffers.values() if t is not None),
        )
        for module in model.modules()
    ]


def _check(name: str, original: nn.Module, module: nn.Module) -> None:
    kinds = _EQUIVALENTS.get(type(original), (type(original),))
    if type(module) not in kinds:
        raise _error(name, f"is a {_type_name(module)}, not a {type(original).__name__}")
    if "forward" in vars(module):
        raise _error(name, "has a forward of its own")
    for hooks in _HOOKS:
        for hook in getattr(module, hooks).values():
            raise _error(name, f"has a hook, {getattr(hook, '__qualname__', type(hook).__name__)}")
    if not isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
        _check_tensors(name, original, module)
    for attribute, value in _settings(original).items():
        if getattr(module, attribute, value) != value:
            said = f"{attribute} {getattr(module, attribute)!r} instead of {value!r}"
            raise _error(name, f"has {said}")


def _check_tensors(name: str, original: nn.Module, module: nn.Module) -> None:
    wanted = {key: list(tensor.shape) for key, tensor in original._parameters.items() if tensor is not None}
    found = {key: list(tensor.shape) for key, tensor in module._parameters.items() if tensor is not None}
    if found != wanted:
        raise _error(name, f"has the parameters {found} instead of {wanted}")
    buffers = sorted(key for key, tensor in module._buffers.items() if tensor is not None)
    if buffers:
        raise _error(name, f"has the buffers {buffers}, which Jet-Nemotron does not have")


def _settings(module: nn.Module) -> dict[str, Any]:
    """Return the plain numbers and switches that a module computes with."""
    plain = (int, float, bool, str, type(None))
    found = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
    return {key: value for key, value in found.items() if key[0] != "_" and key not in _IGNORED_ATTRIBUTES}


def _type_name(module: nn.Module) -> str:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _error(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name or 'The network'} {what}. Stories are written from the weights alone, which would leave "
        "that out: merge it into the weights, or remove it."
    )
