"""JetNemotronConfig: reads the official `config.json`, and rejects settings that the network lacks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from jet.modeling.config_keys import check_count, check_keys, check_positive, check_whole, read_rope

LAYER_TYPES = ("jet", "attn", "swa")

_DTYPES = ("bfloat16", "float16", "float32", "float64")
_ROPE_THETA = 1_000_000.0
_DERIVED = ("head_dim", "sliding_window")  # properties here
_LEFT_OUT = ("use_mrope", "max_window_layers", "use_sliding_window")  # of Qwen2, without meaning here

# Fields that are whole sizes, and fields that are numbers, which may also be written as text.
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
_NUMBERS = ("rms_norm_eps", "rope_theta")

# Keys of `efficient_attention_config.jet`. The last two choose a kernel in the official code and do not
# change the mathematics: they are checked and kept, and otherwise ignored.
_JET_DEFAULTS: dict[str, Any] = {
    "num_heads": 6,
    "head_dim": 256,
    "expand_v": 2.0,
    "conv_size": 4,
    "dconv_generator_reduction": 8,
    "norm_eps": 1e-5,
    "mode": "chunk",
    "dconv_implementation": "triton",
}
_JET_CHOICES = {
    "mode": ("chunk", "fused_recurrent"),
    "dconv_implementation": ("naive", "triton", "triton_training", "triton_cache"),
}


@dataclass(frozen=True)
class JetBlockConfig:
    """Sizes of the linear-attention block, per layer.

    Attributes:
        num_heads: heads of the gated delta rule.
        head_dim: K, the key size of one head.
        head_v_dim: V, the value size of one head.
        conv_size: W, the number of taps of the dynamic convolution; the last one is the current token.
        generator_dim: hidden size of the network that generates the convolution's kernels.
        norm_eps: epsilon of the gated norm on the output.
    """

    num_heads: int
    head_dim: int
    head_v_dim: int
    conv_size: int
    generator_dim: int
    norm_eps: float

    @property
    def key_dim(self) -> int:
        """Return the key size of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def value_dim(self) -> int:
        """Return D, the value size of all heads together: the number of channels of the convolution."""
        return self.num_heads * self.head_v_dim


@strict
class JetNemotronConfig(PreTrainedConfig):
    """Configuration of a Jet-Nemotron network, with the official field names.

    `layer_types` names each layer: "jet" (dynamic convolution and gated delta rule), "attn" (full attention)
    or "swa" (sliding-window attention). `efficient_attention_config` holds the sizes of the jet block and the
    window. Raises ValueError for any setting with which the network would silently compute wrong values.
    """

    model_type = "jet_nemotron"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers' own convention)

    vocab_size: int = 151936
    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    num_key_value_heads: int = 2
    layer_types: list[str] | None = None
    efficient_attention_config: dict[str, Any] | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 131072
    initializer_range: float | int = 0.02
    rms_norm_eps: float | int = 1e-6
    rope_theta: float | int = _ROPE_THETA
    attention_dropout: float | int = 0.0
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._read_numbers()
        self.rope_theta = self._read_rope(kwargs)
        if self.layer_types is None:
            check_count("num_hidden_layers", self.num_hidden_layers)
            self.layer_types = ["jet"] * self.num_hidden_layers
        self.efficient_attention_config = self._checked_efficient_attention(self.efficient_attention_config)
        self._check_layers()
        self._check_sizes()
        check_keys(
            kwargs | {"is_encoder_decoder": self.is_encoder_decoder}, self.head_dim, self.sliding_window
        )
        for name in (*_DERIVED, *_LEFT_OUT):
            kwargs.pop(name, None)
        _check_dtype(self.dtype if self.dtype is not None else kwargs.get("torch_dtype"))
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def check(self) -> None:
        """Raise ValueError if attributes that were set after construction are invalid or would be ignored."""
        self._check_layers()
        self._check_sizes()
        fields = {field.name for field in dataclasses.fields(self)} - {"is_encoder_decoder"}
        others = {name: value for name, value in vars(self).items() if name not in fields}
        if self._read_rope(others) != self.rope_theta:
            raise ValueError("rope_parameters was set later and names another rope_theta: set rope_theta.")
        check_keys(others, self.head_dim, self.sliding_window)

    def _read_numbers(self) -> None:
        for name in _NUMBERS:
            check_positive(name, getattr(self, name))
            if isinstance(getattr(self, name), str):  # like norm_eps in the official files
                setattr(self, name, float(getattr(self, name)))

    def _read_rope(self, keys: dict[str, Any]) -> float:
        """Return the base of the rotary embedding, and remove the rotary keys from `keys`.

        Raises ValueError if `rope_theta` and the rotary keys name different bases.
        """
        base = read_rope(keys, self.rope_theta)
        if base != self.rope_theta and self.rope_theta != _ROPE_THETA:
            raise ValueError(f"rope_theta is {self.rope_theta:g}, but rope_parameters say {base:g}.")
        return base

    def validate_layer_type(self) -> None:
        """Check the layer types, in place of transformers' check, which does not know this network's."""
        self._check_layers()

    @property
    def head_dim(self) -> int:
        """Return the size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def sliding_window(self) -> int | None:
        """Return the number of keys that a query of a "swa" layer sees, its own included.

        Returns None without such layers.
        """
        if self.layer_types is None or "swa" not in self.layer_types:
            return None
        return int(self._efficient_attention["swa"]["window_size"])

    @property
    def jet(self) -> JetBlockConfig:
        """Return the sizes of the jet block, derived as in the official network."""
        jet = self._efficient_attention["jet"]
        heads, head_dim, expand_v = int(jet["num_heads"]), int(jet["head_dim"]), float(jet["expand_v"])
        return JetBlockConfig(
            num_heads=heads,
            head_dim=head_dim,
            head_v_dim=int(head_dim * expand_v),
            conv_size=int(jet["conv_size"]),
            generator_dim=int(heads * head_dim * expand_v) // int(jet["dconv_generator_reduction"]),
            norm_eps=float(jet["norm_eps"]),  # a string in the official files
        )

    @property
    def _efficient_attention(self) -> dict[str, Any]:
        assert self.efficient_attention_config is not None  # set in __post_init__
        return self.efficient_attention_config

    def _checked_efficient_attention(self, given: dict[str, Any] | None) -> dict[str, Any]:
        for name, part in (("", given), *((f".{kind}", part) for kind, part in _items(given))):
            if part is not None and not isinstance(part, dict):
                raise ValueError(f"efficient_attention_config{name} must be an object, not {part!r}.")
        given = dict(given or {})
        unknown = set(given) - {"jet", "swa"}
        if unknown:
            raise ValueError(
                f"efficient_attention_config has unknown parts {sorted(unknown)}; known: jet, swa."
            )
        jet = {**_JET_DEFAULTS, **(given.get("jet") or {})}
        unknown = set(jet) - set(_JET_DEFAULTS)
        if unknown:
            raise ValueError(
                f"efficient_attention_config.jet has unknown values {sorted(unknown)}; "
                f"known: {', '.join(_JET_DEFAULTS)}."
            )
        for name, choices in _JET_CHOICES.items():
            if jet[name] not in choices:
                raise ValueError(
                    f"efficient_attention_config.jet.{name} is {jet[name]!r}; known: {', '.join(choices)}."
                )
        for name in ("num_heads", "head_dim", "conv_size", "dconv_generator_reduction"):
            check_whole(f"efficient_attention_config.jet.{name}", jet[name])
        for name in ("expand_v", "norm_eps"):
            check_positive(f"efficient_attention_config.jet.{name}", jet[name])
        return {**given, "jet": jet}

    def _check_layers(self) -> None:
        assert self.layer_types is not None
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"num_hidden_layers is {self.num_hidden_layers}, "
                f"but layer_types names {len(self.layer_types)} layers."
            )
        for index, layer_type in enumerate(self.layer_types):
            if layer_type not in LAYER_TYPES:
                raise ValueError(
                    f"layer_types[{index}] is {layer_type!r}, an unknown layer type; "
                    f"known: {', '.join(LAYER_TYPES)}."
                )
        if "swa" in self.layer_types:
            swa = (self.efficient_attention_config or {}).get("swa") or {}
            unknown = set(swa) - {"window_size"}
            if "window_size" not in swa or unknown:
                raise ValueError(
                    "efficient_attention_config.swa must be {'window_size': N} for 'swa' layers, "
                    f"not {swa!r}."
                )
            check_whole("efficient_attention_config.swa.window_size", swa["window_size"])

    def _check_sizes(self) -> None:
        for name in _COUNTS:
            check_count(name, getattr(self, name))
        self._read_numbers()
        if not isinstance(self.tie_word_embeddings, bool):
            raise ValueError(f"tie_word_embeddings must be true or false, not {self.tie_word_embeddings!r}.")
        if self.hidden_act != "silu":
            raise ValueError(f"hidden_act is {self.hidden_act!r}; Jet-Nemotron uses 'silu'.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}."
            )
        if self.head_dim % 2:
            raise ValueError(
                f"hidden_size / num_attention_heads is {self.head_dim}: rotary positions need an even number."
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}."
            )
        expand_v = float(self._efficient_attention["jet"]["expand_v"])
        if int(self.jet.key_dim * expand_v) != self.jet.value_dim:
            raise ValueError(
                f"efficient_attention_config.jet.expand_v {expand_v} does not give whole value heads "
                f"for head_dim {self.jet.head_dim}."
            )


def _items(given: Any) -> list[tuple[str, Any]]:
    return list(given.items()) if isinstance(given, dict) else []


def _check_dtype(dtype: Any) -> None:
    """Raise ValueError unless weights can have this type: a floating-point type that needs no scales."""
    if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; the weights can be {', '.join(_DTYPES)}.")
