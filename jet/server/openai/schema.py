"""Pydantic models of request bodies, which check every field and document it at /docs.

A field that is missing or null has OpenAI's default, not the page's.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

MAX_CHOICES = 128
MAX_STOPS, MAX_STOP_CHARACTERS = 64, 1_000
MAX_STOP_TOKENS = 1_000
MAX_LOGPROBS = 20
MAX_USER_CHARACTERS = 512


def _whole(value: object) -> object:
    """Convert an integral float such as 40.0 to int, since JSON has one type for both.

    Returns other values unchanged.
    """
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Stops = StrictStr | list[StrictStr] | None


class _Fields(BaseModel):
    """Base class of all bodies.

    A header of the answer names unknown fields, which are kept in `model_extra`.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class StreamOptions(_Fields):
    """Options of a stream: which frames contain the usage."""

    include_usage: StrictBool | None = Field(None, description="A last frame with the usage.")
    continuous_usage_stats: StrictBool | None = Field(None, description="The usage in every frame.")


class Sampling(_Fields):
    """Common fields of completions and chats: sampling, stop strings, number of answers, user, streaming."""

    temperature: Number | None = Field(None, description="0 takes the likeliest token. Default 1.")
    top_p: Number | None = Field(None, description="Default 1: all tokens.")
    top_k: Whole | None = Field(None, description="0 or -1 is all tokens, the default.")
    min_p: Number | None = Field(None, description="Default 0.")
    repetition_penalty: Number | None = Field(None, description="Default 1: none.")
    dry_multiplier: Number | None = Field(None, description="Default 0: no DRY.")
    dry_base: Number | None = None
    dry_allowed_length: Whole | None = None
    xtc_probability: Number | None = Field(None, description="Default 0: no XTC.")
    xtc_threshold: Number | None = None
    top_n_sigma: Number | None = Field(None, description="Also nsigma. 0 or less is off, the default.")
    typical_p: Number | None = Field(None, description="Default 1: off.")
    dynatemp_range: Number | None = Field(None, description="Default 0: the temperature is fixed.")
    dynatemp_exponent: Number | None = None
    mirostat: Whole | None = Field(None, description="0 or 2. Default 0: off.")
    mirostat_tau: Number | None = Field(None, description="Surprise in bits. Default 5.")
    mirostat_eta: Number | None = Field(None, description="Learning rate. Default 0.1.")
    adaptive_target: Number | None = Field(None, description="Negative is off, the default.")
    adaptive_decay: Number | None = Field(None, description="Default 0.9.")
    samplers: StrictStr | list[StrictStr] | list[StrictInt] | None = Field(
        None, description="The samplers to use, in order: names, or KoboldAI's numbers. Default: all."
    )
    presence_penalty: Number | None = Field(
        None, description="-2 to 2, taken from the logits of the answer's own tokens. Default 0."
    )
    frequency_penalty: Number | None = Field(
        None, description="-2 to 2, taken once for each time that the answer has a token. Default 0."
    )
    seed: Whole | None = Field(None, description="The same request with the same seed: the same text.")
    end_at: Literal["none", "sentence", "paragraph", "scene"] | None = Field(
        None,
        description="Past max_tokens, go on for at most 30 tokens until one ends; else cut back to "
        "the last whole one. What is cut is in `unfinished`; of a stream the client cuts it. Default none.",
    )
    stop: Stops = Field(None, description="Texts in front of which the answer ends; they are left out.")
    banned: Stops = Field(
        None,
        description="Words and phrases that the answer never has, in whatever case, punctuation and regular "
        "inflection. Also banned_strings, banned_tokens and bad_words.",
    )
    banned_lists: Stops = Field(None, description="The same by the names of ready lists.")
    stop_token_ids: list[StrictInt] | None = Field(
        None, max_length=MAX_STOP_TOKENS, description="Tokens that end the answer, too; they are left out."
    )
    min_tokens: Whole | None = Field(None, ge=0, le=1_000_000, description="No end before so many tokens.")
    ignore_eos: StrictBool | None = Field(None, description="Never end before max_tokens.")
    logit_bias: dict[str, Number] | list[tuple[StrictInt | StrictStr, Number | StrictBool]] | None = Field(
        None, description="Token ids, or words, and what is added to their logits, -100 to 100."
    )
    n: Whole | None = Field(None, ge=1, le=MAX_CHOICES, description="Answers for each prompt. Default 1.")
    user: StrictStr | None = Field(
        None,
        max_length=MAX_USER_CHARACTERS,
        description="Whose prompts may start from what earlier ones left in memory; never across users.",
    )
    model: StrictStr | None = Field(None, description="A model that GET /v1/models names.")
    stream: StrictBool | None = Field(None, description="Send the answer while it is written.")
    stream_options: StreamOptions | None = None


class CompletionRequest(Sampling):
    """POST /v1/completions: continue a text."""

    prompt: StrictStr | list[StrictInt] | list[StrictStr] | list[list[StrictInt]] | None = Field(
        None, description="A text, several texts, token ids, or several lists of token ids."
    )
    max_tokens: Whole | None = Field(None, ge=0, description="Most tokens of an answer. Default 16.")
    echo: StrictBool | None = Field(None, description="Put the prompt in front of the answer.")
    logprobs: Whole | None = Field(
        None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Log-probabilities of every token, and of so many of the likeliest in its place; "
        "with echo also of the prompt. Of the model's own distribution.",
    )
    best_of: Whole | None = Field(None, description="Only 1.")
    suffix: StrictStr | None = Field(None, description="Not offered.")


class TextPart(_Fields):
    """A part of a message's content. Only parts of the type "text" are accepted."""

    type: StrictStr
    text: StrictStr | None = None


class Message(_Fields):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[TextPart] | None = None


class ChatRequest(Sampling):
    """POST /v1/chat/completions: answer the last message."""

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: Whole | None = Field(
        None, ge=1, description="Most tokens of the answer, also as max_completion_tokens. Default 4096."
    )
    logprobs: StrictBool | Whole | None = Field(None, description="Log-probabilities of every token.")
    top_logprobs: Whole | None = Field(None, ge=0, le=MAX_LOGPROBS)
    continue_final_message: StrictBool | None = Field(
        None, description="Go on with the last message, an assistant's, in place of answering it."
    )
    response_format: dict[str, Any] | None = Field(None, description="Only {'type': 'text'}.")
    tools: list[Any] | None = Field(None, description="Not offered.")
    functions: list[Any] | None = Field(None, description="Not offered.")


class TokenizeRequest(_Fields):
    """Body of POST /tokenize: a text or a chat."""

    prompt: StrictStr | None = Field(None, description="The text; llama.cpp's `content` is the same.")
    content: StrictStr | None = None
    messages: list[Message] | None = Field(None, max_length=10_000, description="A chat instead of a text.")
    add_special_tokens: StrictBool | None = Field(None, description="As in front of a prompt. Default true.")
    parse_special: StrictBool | None = Field(
        None, description="Read <|endoftext|> and the like as the tokens of that name. Default true."
    )
    return_token_strs: StrictBool | None = None
    model: StrictStr | None = None


class DetokenizeRequest(_Fields):
    """Body of POST /detokenize: token ids."""

    tokens: list[StrictInt]
    model: StrictStr | None = None


class KoboldRequest(Sampling):
    """Body of KoboldAI's POST /api/v1/generate and /api/extra/generate/stream: continue a text."""

    prompt: StrictStr | None = None
    memory: StrictStr | None = Field(None, description="Put in front of the prompt.")
    max_tokens: Whole | None = Field(None, ge=1, description="Also max_length. Default 80.")
    max_context_length: Whole | None = Field(
        None, ge=1, description="Of a longer prompt, only the end is read."
    )


class AbortRequest(_Fields):
    """Body of KoboldAI's POST /api/extra/abort and /api/extra/generate/check: name a running request."""

    user: StrictStr | None = Field(None, max_length=MAX_USER_CHARACTERS, description="Also genkey.")


class CountRequest(_Fields):
    """Body of KoboldAI's POST /api/extra/tokencount: a text."""

    prompt: StrictStr | None = None
    special: StrictBool | None = None
