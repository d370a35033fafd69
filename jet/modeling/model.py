"""The whole Jet-Nemotron network: a Qwen2 decoder whose mixers are mostly linear attention.

Source: NVlabs/Jet-Nemotron and arXiv 2508.15884. Parameter names are the official ones. One function serves
prefill, chunks of any size, cached decode and padded batches: every layer reads its state from a
`HybridCache`, if there is one, and writes it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from jet.modeling import checkpoint
from jet.modeling.attention import Attention, Rotation, rotary_angles
from jet.modeling.cache import HybridCache
from jet.modeling.config import JetNemotronConfig
from jet.modeling.jet_block import JetBlock
from jet.modeling.layers import MLP, Linear, RMSNorm
from jet.modeling.masks import full_padding_mask, make_masks, positions_of
from jet.modeling.packing import Packing, check_continuation, check_options, find_packing


class DecoderLayer(GradientCheckpointingLayer):
    """A decoder layer: norm, mixer and residual, then norm, MLP and residual."""

    def __init__(self, config: JetNemotronConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.layer_types is not None
        self.layer_type = config.layer_types[layer_idx]
        if self.layer_type == "jet":
            self.self_attn: nn.Module = JetBlock(config, layer_idx)
        else:
            window = config.sliding_window if self.layer_type == "swa" else None
            self.self_attn = Attention(config, layer_idx, window)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        rotation: Rotation,
        past_key_values: HybridCache | None = None,
        trailing: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer on `[B, T, hidden]`.

        `mask` is `[B, T]` for a jet layer; for the others its form depends on the attention implementation.
        """
        normed = self.input_layernorm(hidden)
        weights = None
        if self.layer_type == "jet":
            mixed = self.self_attn(normed, mask, past_key_values, trailing)
        else:
            mixed, weights = self.self_attn(normed, mask, rotation, past_key_values, **kwargs)
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), weights


class JetNemotronPreTrainedModel(PreTrainedModel):
    """Base class: capabilities declared to transformers, initialization, loading and saving."""

    config_class = JetNemotronConfig
    config: JetNemotronConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]  # noqa: RUF012 (transformers' own convention)
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    quantization: str | None = None  # scheme of the weights, if they are quantized
    # Makes transformers refuse assisted decoding, which removes tokens: a recurrent state cannot go back.
    _is_stateful = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint as in transformers.

        Raises `CheckpointError` with the reason if the checkpoint is not a complete one of this network.
        """
        want_info = kwargs.pop("output_loading_info", False)
        # Lists wrong shapes with all other problems, instead of ending the load at the first kind.
        kwargs["ignore_mismatched_sizes"] = True
        with checkpoint.explain_load_errors(pretrained_model_name_or_path, kwargs):
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
            model, info = loaded
            checkpoint.refuse_adapters(pretrained_model_name_or_path, model)
            checkpoint.require_complete(pretrained_model_name_or_path, info)
        return (model, info) if want_info else model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint as in transformers.

        A network that was loaded with quantized weights is saved as a quantized checkpoint. Raises ValueError
        for a network that was quantized after loading.
        """
        if self.quantization is not None and getattr(self, "hf_quantizer", None) is None:
            raise ValueError(
                f"These weights were put in {self.quantization} after loading: save them before, and load "
                "that with jet.load_model(…, quantize=…)."
            )
        super().save_pretrained(*args, **kwargs)

    def train(self, mode: bool = True) -> JetNemotronPreTrainedModel:
        """Switch to training mode as in PyTorch. Raises ValueError for a quantized network."""
        if mode and self.quantization is not None:
            raise ValueError(
                f"Weights in {self.quantization} cannot be trained: load the network without quantization, "
                "or call its dequantize() before."
            )
        super().train(mode)
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (Linear, nn.Embedding)):
            init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, Linear) and module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, JetBlock):
            self._init_decay(module)

    def _init_decay(self, module: JetBlock) -> None:
        """Initialize decay rates from slow to fast as in Mamba2: A in (0, 16), time steps 0.001 to 0.1."""
        rates = torch.empty_like(module.A_log, dtype=torch.float32).uniform_(1e-2, 16)
        init.copy_(module.A_log, rates.log())
        low, high = math.log(1e-3), math.log(1e-1)
        steps = torch.empty_like(module.dt_bias, dtype=torch.float32).uniform_(low, high).exp()
        init.copy_(module.dt_bias, steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus


def _make_embedding(tokens: int, size: int) -> nn.Embedding:
    """Return an embedding with undefined weights.

    On the device "meta", nn.Embedding's initialization would import PyTorch's compiler.
    """
    is_meta = torch.empty(0).is_meta
    return nn.Embedding(tokens, size, _weight=torch.empty(tokens, size) if is_meta else None)


class JetNemotronModel(JetNemotronPreTrainedModel):
    """Jet-Nemotron without its language-model head."""

    def __init__(self, config: JetNemotronConfig) -> None:
        config.check()
        super().__init__(config)
        self.embed_tokens = _make_embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Run `input_ids` `[B, T]` as the continuation of `past_key_values`.

        `attention_mask`, `[B, past + T]`, is 0 at padding, which may be anywhere and has no position. A row
        gives the same result as it gives alone. Raises ValueError for masks of another shape or meaning.

        A row may contain several texts, see `jet.modeling.packing`. Each text gives the same result as it
        gives alone.
        """
        check_options(kwargs)
        hidden = self._embed(input_ids, inputs_embeds)
        past = self._past(past_key_values, use_cache)
        seen = 0 if past is None else past.get_seq_length()
        padding_mask = full_padding_mask(attention_mask, hidden, past)
        packing = self.find_packing(hidden, position_ids, padding_mask, kwargs)
        if position_ids is not None and position_ids.dim() == 1:
            position_ids = position_ids[None]
        if packing is not None:
            if (
                past_key_values is not None
                or use_cache
                or self._option("output_attentions", output_attentions)
            ):
                raise ValueError(
                    "Rows that hold several texts are read without past_key_values, use_cache and "
                    "output_attentions: give each text a row of its own for those."
                )
            return self._forward_packed(packing, hidden, position_ids, output_hidden_states, return_dict)
        if position_ids is None:
            position_ids = positions_of(padding_mask, hidden, seen)
        elif seen:
            check_continuation(position_ids, padding_mask, seen, hidden.shape[1])
        rotation = rotary_angles(self.config, position_ids, hidden.dtype)
        if past is not None:
            past.extend(padding_mask, hidden.shape[1])
        masks = make_masks(self.config, hidden, padding_mask, past)

        output_hidden_states = self._option("output_hidden_states", output_hidden_states)
        output_attentions = self._option("output_attentions", output_attentions)
        states, attentions = [hidden], []
        for layer, layer_type in zip(self.layers, self.config.layer_types or [], strict=True):
            hidden, weights = layer(hidden, masks[layer_type], rotation, past_key_values=past)
            if output_hidden_states:
                states.append(hidden)
            attentions.append(weights)
        hidden = self.norm(hidden)
        states[-1] = hidden if len(states) > 1 else states[-1]
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        return output if self._option("return_dict", return_dict) else output.to_tuple()

    def _option(self, name: str, value: bool | None) -> bool:
        return bool(getattr(self.config, name, False) if value is None else value)

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        hidden: Tensor = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if hidden.shape[1] == 0:
            raise ValueError("There are no tokens to read: input_ids has length 0.")
        return hidden

    def _past(self, past: HybridCache | None, use_cache: bool | None) -> HybridCache | None:
        if past is not None and not isinstance(past, HybridCache):
            raise TypeError(f"past_key_values must be a HybridCache, not {type(past).__name__}.")
        if self.gradient_checkpointing and self.training:
            return None  # layers run twice and would update a cache twice
        if past is not None:
            past.leave_inference_mode()
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        return HybridCache(self.config) if past is None and use_cache else past

    def find_packing(
        self,
        hidden: Tensor,
        position_ids: Tensor | None,
        padding_mask: Tensor | None,
        options: Mapping[str, Any],
    ) -> Packing | None:
        """Find the texts in the rows of `hidden` `[B, T, …]`; None if every row holds one."""
        batch, new = hidden.shape[:2]
        return find_packing(
            (batch, new), position_ids, None if padding_mask is None else padding_mask[:, -new:], options
        )

    def _forward_packed(
        self,
        packing: Packing,
        hidden: Tensor,
        position_ids: Tensor | None,
        output_hidden_states: bool | None,
        return_dict: bool | None,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Run every text as a row of its own, padded on the right, and pack the results again."""
        if position_ids is not None:
            position_ids = packing.unpack(position_ids.expand(hidden.shape[:2]))
        output = self.forward(
            inputs_embeds=packing.unpack(hidden),
            attention_mask=packing.mask,
            position_ids=position_ids,
            use_cache=False,
            output_hidden_states=output_hidden_states,
            output_attentions=False,
            return_dict=True,
        )
        assert isinstance(output, BaseModelOutputWithPast) and output.last_hidden_state is not None
        states = output.hidden_states
        packed = BaseModelOutputWithPast(
            last_hidden_state=packing.pack(output.last_hidden_state),
            hidden_states=None if states is None else tuple(map(packing.pack, states)),
        )
        return packed if self._option("return_dict", return_dict) else packed.to_tuple()


class JetNemotronForCausalLM(JetNemotronPreTrainedModel, GenerationMixin):
    """Jet-Nemotron with its language-model head; supports `generate()`."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: JetNemotronConfig) -> None:
        super().__init__(config)
        self.model = JetNemotronModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HybridCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return the logits `[B, T, vocab]`, or those of the last `logits_to_keep` positions.

        If `logits_to_keep` is a tensor, it has the indices of the positions. With `labels`, also returns the
        loss.
        """
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        kwargs = {
            name: value for name, value in kwargs.items() if name != "output_router_logits"
        }  # there are none
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            # The last token of a text does not predict the first one of the next.
            packing = self.model.find_packing(
                outputs.last_hidden_state,
                position_ids,
                None if attention_mask is None else attention_mask.bool(),
                kwargs,
            )
            if packing is not None:
                labels = labels.masked_fill(packing.begins.to(labels.device), -100)
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                num_items_in_batch=num_items_in_batch,
            )
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output if self.model._option("return_dict", return_dict) else output.to_tuple()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Return False, so that `generate()` does not create a cache of transformers' own."""
        return False

    def _prepare_attention_mask_for_generation(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """Infer the attention mask from padding tokens.

        If a prompt consists of padding tokens only, its last token is not masked: the padding token may also
        be the token that begins texts.
        """
        mask: Tensor = GenerationMixin._prepare_attention_mask_for_generation(
            cast(Any, self), *args, **kwargs
        )
        mask[~mask.bool().any(-1), -1] = 1
        return mask

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        mask = model_kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 2 and not bool(mask[:, -1].all()):
            raise ValueError(
                "generate() goes on behind the last token, and attention_mask says that it is padding: "
                "pad on the left (padding_side='left')."
            )
        GenerationMixin._prepare_cache_for_generation(
            cast(Any, self), generation_config, model_kwargs, *args, **kwargs
        )
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = HybridCache(self.config)
