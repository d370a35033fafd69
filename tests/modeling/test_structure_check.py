"""Test that every module of the forward acts in every step, or is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import jet
from jet import CheckpointError, JetNemotronForCausalLM
from jet.api import SamplingParams
from jet.engine.model_runner import ModelRunner
from tests.networks import GOLDEN, small_model


def adapter(folder: Path, base: str | None = "owner/base") -> None:
    """Write an adapter folder as peft does."""
    values = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "target_modules": ["down_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    weights = {"base_model.model.model.layers.0.mlp.down_proj.lora_A.weight": torch.ones(2, 256)}
    save_file(weights, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("quantize", [None, "int4"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_folder_with_an_adapter_is_refused(alone: bool, quantize: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    if alone:
        folder.mkdir()
    else:
        shutil.copytree(GOLDEN / "tiny-2b", folder)
    adapter(folder)
    with pytest.raises(CheckpointError, match=r"LORA adapter .*owner/base.*merge_and_unload"):
        jet.load_model(folder, quantize=quantize)


class LowRank(nn.Module):
    """A layer that adds a second product to its own, as layers of LoRA libraries do."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.weight, self.bias = base, base.weight, base.bias
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class Scaled(nn.Linear):
    """A subclass that computes something else from the same weight."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Twice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def wrap_projection(model: JetNemotronForCausalLM) -> None:
    model.model.layers[1].self_attn.q_proj = LowRank(model.model.layers[1].self_attn.q_proj)


def subclass(model: JetNemotronForCausalLM) -> None:
    model.model.layers[0].mlp.up_proj = Scaled(48, 72, bias=False)


def hook(model: JetNemotronForCausalLM) -> None:
    model.model.layers[2].mlp.register_forward_hook(lambda module, given, out: 2 * out)


def pre_hook(model: JetNemotronForCausalLM) -> None:
    model.model.norm.register_forward_pre_hook(lambda module, given: (2 * given[0],))


def parametrization(model: JetNemotronForCausalLM) -> None:
    parametrize.register_parametrization(model.model.layers[0].self_attn.o_proj, "weight", Twice())


def weight_norm(model: JetNemotronForCausalLM) -> None:
    parametrizations.weight_norm(model.model.layers[3].self_attn.v_proj)


def pruned(model: JetNemotronForCausalLM) -> None:
    prune.l1_unstructured(model.model.layers[0].mlp.gate_proj, "weight", amount=0.5)


def own_forward(model: JetNemotronForCausalLM) -> None:
    layer = model.model.layers[1]
    before = layer.forward
    layer.forward = lambda *given, **options: before(*given, **options)


def added_bias(model: JetNemotronForCausalLM) -> None:
    model.model.layers[0].mlp.down_proj = nn.Linear(72, 48)


def other_norm(model: JetNemotronForCausalLM) -> None:
    model.model.layers[2].input_layernorm.eps = 0.5


def other_scale(model: JetNemotronForCausalLM) -> None:
    model.model.layers[3].self_attn.scaling = 1.0


def extra_module(model: JetNemotronForCausalLM) -> None:
    model.model.layers[0].adapter = nn.Linear(48, 48)


def embedding_with_norm(model: JetNemotronForCausalLM) -> None:
    model.model.embed_tokens.register_forward_hook(lambda module, given, out: out * 7)


CHANGES: dict[str, tuple[Callable[[JetNemotronForCausalLM], None], str]] = {
    "a low-rank layer": (wrap_projection, r"model\.layers\.1\.self_attn\.q_proj is a .*LowRank"),
    "a subclass": (subclass, r"model\.layers\.0\.mlp\.up_proj is a .*Scaled"),
    "a hook": (hook, r"model\.layers\.2\.mlp has a hook"),
    "a hook before": (pre_hook, r"model\.norm has a hook"),
    "a hook on the embedding": (embedding_with_norm, r"model\.embed_tokens has a hook"),
    "a parametrization": (parametrization, r"model\.layers\.0\.self_attn\.o_proj is a .*Parametrized"),
    "weight norm": (weight_norm, r"model\.layers\.3\.self_attn\.v_proj is a .*Parametrized"),
    "pruning": (pruned, r"model\.layers\.0\.mlp\.gate_proj has a hook"),
    "a forward of its own": (own_forward, r"model\.layers\.1 has a forward of its own"),
    "a bias": (added_bias, r"model\.layers\.0\.mlp\.down_proj has the parameters"),
    "another epsilon": (other_norm, r"model\.layers\.2\.input_layernorm has eps 0\.5"),
    "another scale": (other_scale, r"model\.layers\.3\.self_attn has scaling 1\.0"),
    "a module more": (extra_module, r"model\.layers\.0\.adapter is a .*Linear"),
}


def make_runner(model: JetNemotronForCausalLM) -> ModelRunner:
    return ModelRunner(model, frozenset({0}), slots=1, context=64)


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_wraps_a_layer_is_refused_by_name(name: str) -> None:
    change, message = CHANGES[name]
    model = small_model()
    change(model)
    with pytest.raises(CheckpointError, match=message):
        make_runner(model)


def test_what_wraps_the_whole_network_is_refused() -> None:
    class Wrapper(nn.Module):
        """A wrapper like peft's models, which forwards attributes of the model inside."""

        def __init__(self, inner: JetNemotronForCausalLM) -> None:
            super().__init__()
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

    with pytest.raises(CheckpointError, match=r"The network is a .*Wrapper"):
        make_runner(Wrapper(small_model()))  # type: ignore[arg-type]


def test_what_computes_the_same_is_not_refused() -> None:
    model = small_model()
    plain = nn.Linear(72, 48, bias=False)
    plain.weight = model.model.layers[0].mlp.down_proj.weight
    model.model.layers[0].mlp.down_proj = plain
    model.train()
    model.name_or_path = "elsewhere"
    make_runner(model.eval()).close()


def own_weight(model: JetNemotronForCausalLM) -> None:
    projection = model.model.layers[0].mlp.down_proj
    projection.weight = nn.Parameter(projection.weight * 2, requires_grad=False)


def other_data(model: JetNemotronForCausalLM) -> None:
    model.model.layers[2].input_layernorm.weight.data = torch.zeros(48)


LATER = {
    name: CHANGES[name]
    for name in ("a low-rank layer", "a hook", "a forward of its own", "a parametrization")
}
LATER |= {
    "another weight": (own_weight, "Weights of the network have been replaced"),
    "other numbers": (other_data, "Weights of the network have been replaced"),
}


def test_what_is_changed_while_an_engine_runs_is_said_at_the_next_prompt() -> None:
    for change, message in LATER.values():
        model = small_model()
        runner = make_runner(model)
        sequence = runner.allocate(SamplingParams(max_new_tokens=4, seed=1), max_tokens=16)
        runner.prefill(sequence, [1, 2, 3])
        runner.decode([sequence])
        change(model)
        with pytest.raises(CheckpointError, match=message):
            runner.prefill(sequence, [4, 5])
