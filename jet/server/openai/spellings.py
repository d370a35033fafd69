"""Map other programs' names of fields to this API's, and list unknown fields that are harmless.

In `SPELLINGS`, a key is the name of a field in this API (OpenAI's or vLLM's if they have one). Its values are
the names in KoboldAI, llama.cpp and text-generation-webui. If a request has several names of one field, the
key takes precedence; the phrases of all names of `banned` are used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

SPELLINGS: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_completion_tokens", "max_new_tokens", "n_predict", "max_length"),
    "min_tokens": ("min_new_tokens", "min_length"),
    "repetition_penalty": ("repeat_penalty", "rep_pen"),
    "dry_sequence_breakers": ("dry_seq_breakers",),
    "top_n_sigma": ("nsigma",),
    "typical_p": ("typical",),
    "mirostat": ("mirostat_mode",),
    "samplers": ("sampler_order",),
    "seed": ("sampler_seed",),
    "stop": ("stop_sequence", "stopping_strings", "custom_stopping_strings"),
    "banned": ("banned_strings", "banned_tokens", "bad_words"),
    "ignore_eos": ("ban_eos_token",),
    "logprobs": ("n_probs",),
    "user": ("genkey",),
}
# Without effect on the text, and sent by clients to every server: ignored without a header that says so.
HARMLESS = frozenset(
    {
        *(
            "metadata",
            "store",
            "service_tier",
            "prompt_cache_key",
            "safety_identifier",
            "parallel_tool_calls",
        ),
        *("cache_prompt", "add_bos_token", "skip_special_tokens", "use_default_badwordsids", "quiet"),
        *("add_special_tokens", "spaces_between_special_tokens", "early_stopping", "trim_stop", "api_server"),
    }
)
_SHOWN_FIELDS, _SHOWN_CHARACTERS = 20, 40


def rename(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a request under this API's names."""
    renamed = dict(fields)
    for name, others in SPELLINGS.items():
        for other in others:
            if other in renamed:
                value = renamed.pop(other)
                if renamed.get(name) is None:
                    renamed[name] = value
                elif name == "banned" and isinstance(value, (str, list)):  # clients send several of them
                    renamed[name] = [*_as_list(renamed[name]), *_as_list(value)]
    return renamed


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]


def as_header(names: Collection[str]) -> str:
    """Join names of fields to the value of a header, as ASCII. Long lists and long names are shortened."""
    shown = sorted(
        "".join(character if character.isascii() and character.isprintable() else "?" for character in name)
        for name in names
    )
    more = len(shown) - _SHOWN_FIELDS
    shown = [name[:_SHOWN_CHARACTERS].replace(",", "?") for name in shown[:_SHOWN_FIELDS]]
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)
