"""Check the keys of a config.json that are not fields of JetNemotronConfig.

Rotary keys are read, harmless ones ignored. Any other key is an error, since it may describe another network
than the one that is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jet.modeling.quantized_format import read_scheme

# Keys of other programs and of older transformers. None of them changes the forward pass.
_HARMLESS = frozenset(
    {
        # The code and class to load: this package is that code.
        *(
            "architectures",
            "auto_map",
            "custom_pipelines",
            "model_type",
            "name_or_path",
            "transformers_version",
        ),
        *("tokenizer_class", "processor_class", "unsloth_version", "unsloth_fixed"),
        # Storage and kernels; all attention implementations give the same result.
        *("attn_implementation", "experts_implementation", "dtype", "torch_dtype", "torchscript"),
        *("use_bfloat16", "pretraining_tp", "chunk_size_feed_forward"),
        # Additional outputs of forward.
        *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"),
        # Left over from Qwen2; `layer_types` says which layers have a window.
        "max_window_layers",
        # Token ids, read by tokenizers and by generate().
        *(
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "sep_token_id",
            "unk_token_id",
            "decoder_start_token_id",
        ),
        # Classifiers and training, which are not part of this network.
        *("finetuning_task", "id2label", "label2id", "num_labels", "prefix", "problem_type"),
        *("classifier_dropout", "router_aux_loss_coef", "task_specific_params", "tf_legacy_loss"),
        "tie_encoder_decoder",
        # Options of generate().
        *("assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens"),
        *("diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size"),
        *("encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty"),
        *("forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens"),
        *(
            "min_length",
            "min_p",
            "no_repeat_ngram_size",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
        ),
        *("num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values"),
        *("repetition_penalty", "return_dict_in_generate", "suppress_tokens", "target_lookbehind"),
        *("temperature", "top_k", "top_p", "typical_p", "use_cache"),
    }
)

# Keys that change the mathematics, with the only values that this network has.
_ONLY: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (True,),  # of q, k and v; o has none
    "is_decoder": (False, True),
    "is_encoder_decoder": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "pruned_heads": ({},),
    "use_mrope": (False,),
}

_PLAIN_ROPE = ("default", None)
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor"}


def read_rope(kwargs: dict[str, Any], given: float) -> float:
    """Remove the rotary keys from `kwargs`; return the base that they contain, else `given` (`rope_theta`).

    Raises ValueError for scaled and other special rotary embeddings.
    """
    named: set[float] = set()
    for key in ("rope_parameters", "rope_scaling"):
        values = kwargs.pop(key, None)
        if (
            isinstance(values, Mapping)
            and values
            and all(isinstance(part, Mapping) for part in values.values())
        ):
            # A layer type that names no base uses the given one.
            named |= {
                _read_plain_rope(f"{key}.{kind}", part) or float(given) for kind, part in values.items()
            }
        elif values and (base := _read_plain_rope(key, values)) is not None:
            named.add(base)
    if len(named) > 1:
        raise ValueError(
            f"rope_parameters name more than one rope_theta: {sorted(named)}. "
            "In Jet-Nemotron all attention layers have the same."
        )
    return named.pop() if named else given


def _read_plain_rope(key: str, values: Any) -> float | None:
    """Return the base of a plain rotary embedding; None if `values` names no base.

    Raises ValueError for other rotary embeddings.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{key} must be an object with rope_type and rope_theta, not {values!r}.")
    kind = values.get("rope_type", values.get("type"))
    if kind not in _PLAIN_ROPE:
        raise ValueError(
            f"{key} asks for rope_type {kind!r}, which changes the positions: Jet-Nemotron has the plain "
            f"rotary embedding, rope_type 'default'. {key} must be null or say that."
        )
    unknown = sorted(set(values) - _ROPE_KEYS)
    if unknown:
        raise ValueError(f"{key} has unknown values {unknown}; known: rope_type 'default' and rope_theta.")
    for name in ("partial_rotary_factor", "factor"):
        if values.get(name, 1) not in (1, None):
            raise ValueError(f"{key}.{name} is {values[name]!r}; Jet-Nemotron rotates whole heads, unscaled.")
    base = values.get("rope_theta")
    if base is None:
        return None
    check_positive(f"{key}.rope_theta", base)
    return float(base)


def check_keys(kwargs: Mapping[str, Any], head_dim: int, window: int | None) -> None:
    """Raise ValueError for the first key that is unknown or has an unsupported value.

    Args:
        kwargs: the keys that are not fields of the configuration. The value None is always accepted.
        head_dim, window: values derived from the configuration's fields; keys of these names must agree.
    """
    for key, value in kwargs.items():
        if value is None or key.startswith("_") or key in _HARMLESS:
            continue
        if key == "head_dim":
            if value != head_dim:
                raise ValueError(
                    f"head_dim is {value!r}, but hidden_size / num_attention_heads is {head_dim}: "
                    "Jet-Nemotron has no other head size."
                )
        elif key == "sliding_window":
            # Qwen2 writes a window even with use_sliding_window false.
            if value != window and kwargs.get("use_sliding_window") is not False:
                raise ValueError(
                    f"sliding_window is {value!r}, but efficient_attention_config.swa.window_size {window}."
                )
        elif key == "use_sliding_window":
            if value != (window is not None):
                raise ValueError(f"use_sliding_window is {value!r}, but layer_types says otherwise.")
        elif key == "quantization_config":
            read_scheme(value)
        elif key in _ONLY:
            if value not in _ONLY[key]:
                known = " or ".join(map(repr, _ONLY[key]))
                raise ValueError(f"{key} is {value!r}; in Jet-Nemotron it is {known}.")
        else:
            raise ValueError(
                f"{key} is not a key of Jet-Nemotron, and its value {_short(value)} may stand for another "
                "network. Remove it from config.json if it does not change what the network computes."
            )


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a finite number above 0; numbers as text are accepted."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, not {value!r}.") from None
    if not (0 < number < math.inf) or isinstance(value, bool):
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is an int above 0; text is refused."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0, not {value!r}.")


def check_whole(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a whole number above 0; text and floats such as 4.0 are accepted."""
    check_positive(name, value)
    if float(value) != int(float(value)):
        raise ValueError(f"{name} must be a whole number, not {value!r}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
