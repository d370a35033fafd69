"""The network to train, the transformer to compare with, and their training-only parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import jet.modeling.jet_block
from jet import JetNemotronConfig, JetNemotronForCausalLM
from jet.ops import gated_delta_rule
from scripts.training.data import END_OF_TEXT, TALE
from scripts.training.delta_rule import trainable_gated_delta_rule
from scripts.training.recipe import Recipe

ATTENTION = "training_rows"
UNLEARNT = -100  # target without a loss
LAYER_TYPES = {"j": "jet", "a": "attn", "s": "swa"}


def build_jet(recipe: Recipe, vocabulary: int) -> PreTrainedModel:
    """Build a randomly initialized Jet-Nemotron network of the recipe's shape."""
    return _prepared(_network(recipe, vocabulary, recipe.pattern, recipe.intermediate))


def build_transformer(recipe: Recipe, vocabulary: int) -> PreTrainedModel:
    """Build a plain transformer of the same depth and width, with an MLP that gives the same parameter count.

    It has full attention in every layer, so it is Qwen2's network, in the same format as the Jet-Nemotron
    network.
    """
    plain = "a" * len(recipe.pattern)
    wanted = count(build_jet(recipe, vocabulary))
    narrow = count(_network(recipe, vocabulary, plain, 64))
    per_unit = 3 * recipe.hidden * len(recipe.pattern)
    width = 64 + max(0, round((wanted - narrow) / per_unit / 64)) * 64
    return _prepared(_network(recipe, vocabulary, plain, width))


def _network(recipe: Recipe, vocabulary: int, pattern: str, intermediate: int) -> PreTrainedModel:
    config = JetNemotronConfig(
        layer_types=[LAYER_TYPES[letter] for letter in pattern],
        intermediate_size=intermediate,
        rope_theta=recipe.rope_theta,
        efficient_attention_config={
            "jet": {
                "num_heads": recipe.jet_heads,
                "head_dim": recipe.jet_head_dim,
                "expand_v": recipe.jet_expand,
            },
            "swa": {"window_size": recipe.window},
        },
        **_shared(recipe, vocabulary),
    )
    return JetNemotronForCausalLM(config)


def _shared(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": recipe.hidden,
        "num_hidden_layers": len(recipe.pattern),
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.key_value_heads,
        "max_position_embeddings": recipe.length,
        "tie_word_embeddings": True,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "pad_token_id": END_OF_TEXT,
    }


def _prepared(model: PreTrainedModel) -> PreTrainedModel:
    """Scale output projections down by depth, so that the residual stream starts at the same size."""
    scale = (2 * model.config.num_hidden_layers) ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(scale)
    return model


def count(model: nn.Module) -> int:
    """Count the parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend causally over unpadded rows, `[B, heads, T, D]` → `[B, T, heads, D]`."""
    window = getattr(module, "sliding_window", None)
    if window is None or window >= query.shape[2]:
        out = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
    else:
        out = window_attention(query, key, value, window, scaling)
    return out.transpose(1, 2).contiguous(), None


def window_attention(query: Tensor, key: Tensor, value: Tensor, window: int, scaling: float | None) -> Tensor:
    """Attend causally to the last `window` keys, which include the query's own, `[B, heads, T, D]`.

    Rows are cut into blocks of `window` queries, each of which sees two blocks of keys.
    """
    batch, heads, length, _ = query.shape
    padding = -length % window
    query, key, value = (F.pad(x, (0, 0, 0, padding)).unflatten(2, (-1, window)) for x in (query, key, value))
    groups = heads // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    key, value = (torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x], dim=3) for x in (key, value))
    # Query i of a block is at window + i of its two blocks of keys.
    places = torch.arange(2 * window, device=query.device)
    ahead = places[window:, None] - places
    sees = (ahead >= 0) & (ahead < window)
    first = places >= window  # the first block has no previous keys
    blocks = torch.arange(query.shape[2], device=query.device)[:, None, None] > 0
    mask = sees & (first | blocks)
    query, key, value = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    mask = mask.repeat(batch, 1, 1)[:, None]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    rows: Tensor = out.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
    return rows[:, :, :length]


def add_dropout(model: PreTrainedModel, probability: float, stream: torch.dtype) -> None:
    """Add dropout for training to the embedding and every branch; give the residual stream dtype `stream`."""

    def drop(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (F.dropout(output[0], probability, module.training), *output[1:])
        return F.dropout(output, probability, module.training)

    def begin(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        return F.dropout(output.to(stream), probability, module.training)

    model.model.embed_tokens.register_forward_hook(begin)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


def make_trainable(model: PreTrainedModel, recipe: Recipe, device: torch.device, compiled: bool) -> None:
    """Move the model to the device; add row attention, dropout and, if asked, compiled layers."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, row_attention)
    model.to(device)  # type: ignore[arg-type]  # transformers wraps it without its types
    model.config._attn_implementation = ATTENTION
    add_dropout(model, recipe.dropout, torch.bfloat16 if device.type == "cuda" else torch.float32)
    if compiled:
        torch._dynamo.config.cache_size_limit = 64  # layers of one class share their code, not their graphs
        for layer in model.model.layers:
            layer.compile(dynamic=False)


@contextmanager
def delta_rule(form: str) -> Iterator[None]:
    """Make jet layers compute the rule in this form inside the block.

    "plain" is `scripts.training.delta_rule`. "library" is the kernels of flash-linear-attention on a GPU,
    which `torch.compile` does not compile.
    """
    rules: dict[str, Callable[..., Any]] = {
        "plain": trainable_gated_delta_rule,
        "library": torch.compiler.disable(gated_delta_rule.gated_delta_rule),
    }
    own = vars(jet.modeling.jet_block)["gated_delta_rule"]
    vars(jet.modeling.jet_block)["gated_delta_rule"] = rules[form]
    try:
        yield
    finally:
        vars(jet.modeling.jet_block)["gated_delta_rule"] = own


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of every target in nats, `[B, T]`, from the last hidden state and the tied embedding.

    The loss is 0 for targets that are `UNLEARNT` and for the mark of a tale, which are only read.
    """
    return _nats(F.linear(hidden, weight), targets)


def training_losses(hidden: Tensor, weight: Tensor, targets: Tensor, future: Tensor) -> Tensor:
    """Return `token_losses` plus `future` times the loss of the token after each target, in nats, `[B, T]`.

    Both losses use the same logits.
    """
    logits = F.linear(hidden, weight)
    after = F.pad(targets[:, 1:], (0, 1), value=UNLEARNT)
    return _nats(logits, targets) + future * _nats(logits, after)


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    learnt = targets.masked_fill(targets == TALE, UNLEARNT).flatten()
    losses = F.cross_entropy(logits.float().flatten(0, 1), learnt, reduction="none", ignore_index=UNLEARNT)
    return losses.view_as(targets)
