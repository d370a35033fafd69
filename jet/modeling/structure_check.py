"""Whether a network is the one that its configuration describes, module by module.

`FusedStep` reads weights and sizes and never calls the modules. What somebody has put around them, or in the
place of one, would take part in reading prompts and not in writing, so it is refused by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization

from jet.modeling.checkpoint import CheckpointError
from jet.modeling.model import JetNemotronForCausalLM, Linear
from jet.modeling.quantization import QuantizedEmbedding, QuantizedLinear, QuantizedWeight

# What may stand for a module of the network. All of them compute the same from their weights.
_STAND_INS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    Linear: (Linear, nn.Linear, QuantizedLinear),
    nn.Embedding: (nn.Embedding, QuantizedEmbedding),
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# What may differ without another result.
_FREE = {"training", "gradient_checkpointing", "loss_type", "name_or_path"}


def check_not_wrapped(model: JetNemotronForCausalLM) -> None:
    """Raise `CheckpointError` naming the first module that is not as the configuration has it."""
    with torch.device("meta"), initialization.no_init_weights():
        expected = dict(JetNemotronForCausalLM(model.config).named_modules())
    there = dict(model.named_modules())
    for name, original in expected.items():
        if name not in there:
            raise _refusal(name, "is missing")
        _check(name, original, there[name])
    for name, module in there.items():
        if name not in expected and not isinstance(module, QuantizedWeight):
            raise _refusal(name, f"is a {_kind(module)}, which Jet-Nemotron does not have")


class StructureGuard:
    """Notices what is put around a module, or in the place of a weight, after a step was bound to it."""

    def __init__(self, model: JetNemotronForCausalLM) -> None:
        self._model, self._parts = model, _parts(model)

    def check(self) -> None:
        """Raise `CheckpointError` if the network is another one than before, which a step would not be."""
        if (parts := _parts(self._model)) == self._parts:
            return
        check_not_wrapped(self._model)
        raise CheckpointError(
            "Weights of the network have been replaced, which running stories would leave out: "
            f"make a new engine for it. {len(set(parts) ^ set(self._parts))} parts are not as they were."
        )


def _parts(model: nn.Module) -> list[tuple[int, ...]]:
    """Which modules there are, and what each of them computes with."""
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
    kinds = _STAND_INS.get(type(original), (type(original),))
    if type(module) not in kinds:
        raise _refusal(name, f"is a {_kind(module)}, not a {type(original).__name__}")
    if "forward" in vars(module):
        raise _refusal(name, "has a forward of its own")
    for hooks in _HOOKS:
        for hook in getattr(module, hooks).values():
            raise _refusal(name, f"has a hook, {getattr(hook, '__qualname__', type(hook).__name__)}")
    if not isinstance(module, (QuantizedLinear, QuantizedEmbedding)):
        _check_tensors(name, original, module)
    for attribute, value in _sizes(original).items():
        if getattr(module, attribute, value) != value:
            said = f"{attribute} {getattr(module, attribute)!r} instead of {value!r}"
            raise _refusal(name, f"has {said}")


def _check_tensors(name: str, original: nn.Module, module: nn.Module) -> None:
    wanted = {key: list(tensor.shape) for key, tensor in original._parameters.items() if tensor is not None}
    found = {key: list(tensor.shape) for key, tensor in module._parameters.items() if tensor is not None}
    if found != wanted:
        raise _refusal(name, f"has the parameters {found} instead of {wanted}")
    buffers = sorted(key for key, tensor in module._buffers.items() if tensor is not None)
    if buffers:
        raise _refusal(name, f"has the buffers {buffers}, which Jet-Nemotron does not have")


def _sizes(module: nn.Module) -> dict[str, Any]:
    """The numbers and switches that a module computes with."""
    plain = (int, float, bool, str, type(None))
    found = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
    return {key: value for key, value in found.items() if key[0] != "_" and key not in _FREE}


def _kind(module: nn.Module) -> str:
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _refusal(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name or 'The network'} {what}. Stories are written from the weights alone, which would leave "
        "that out: merge it into the weights, or remove it."
    )
