"""The interface between engines and their callers: requests, results and protocols. Plain data, no torch.

Local, ZeroGPU and remote engines all implement `Engine`, so the page does not depend on where a model runs.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

from jet.roofline import Footprint

MAX_SEED = 2**63 - 1
END_AT = ("none", "sentence", "paragraph", "scene")


class RequestError(ValueError):
    """A request that cannot be served. The message is for the user who sent it."""


class BusyError(RequestError):
    """The waiting queue is full; the request may be served later."""


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings of a request, with the defaults.

    Attributes:
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probabilities sum to at least this.
        top_k: keep the k likeliest tokens; 0 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest one.
        repetition_penalty: divides positive (multiplies negative) logits of tokens already in the text.
        dry_multiplier: strength of DRY, which penalizes continuing a repetition of earlier text; 0 is off.
        dry_base: factor by which DRY's penalty grows with each further token of a repetition.
        dry_allowed_length: DRY ignores repetitions of fewer tokens.
        xtc_probability: probability that XTC excludes the top choices at a position; 0 is off.
        xtc_threshold: of the tokens at least this likely, XTC keeps only the least likely.
        presence_penalty: subtracted once from the logit of each token that the answer has.
        frequency_penalty: subtracted from a token's logit once for each time that the answer has the token.
        top_n_sigma: keep tokens whose logits are at most this many standard deviations below the largest; 0
            is off.
        typical_p: keep the tokens whose surprise is nearest to the entropy, until their probabilities sum to
            at least this; 1 is off.
        dynatemp_range: the temperature varies with the entropy by up to this, in both directions; 0 is off.
        dynatemp_exponent: the exponent of the normalized entropy, for `dynatemp_range`.
        mirostat: 2 keeps the surprise of sampled tokens near `mirostat_tau`, and replaces all other filters;
            0 is off.
        mirostat_tau: mirostat's target surprise, in bits.
        mirostat_eta: mirostat's learning rate.
        adaptive_target: the mean probability that adaptive-p aims at for sampled tokens; negative is off.
        adaptive_decay: the decay of adaptive-p's moving average.
        sampler_order: names of samplers with ";" between them, in the order to apply them; samplers that are
            not named are off. "" is the order of `docs/samplers.md`.
        max_new_tokens: stop after this many tokens.
        seed: the same prompt, parameters and seed give the same text; None draws a seed.
        end_at: "none" ends after exactly `max_new_tokens`. "sentence", "paragraph" or "scene" lets the text
            go on for at most 30 tokens until one ends. If none has ended then, the caller should cut off
            `RequestStats.unfinished`.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.05
    repetition_penalty: float = 1.05
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    sampler_order: str = ""
    max_new_tokens: int = 400
    seed: int | None = None
    end_at: str = "none"

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 5.0)
        _check_number("top_p", self.top_p, 0.0, 1.0, above_low=True)
        _check_integer("top_k", self.top_k, 0, 1_000_000)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.1, 10.0)
        _check_number("dry_multiplier", self.dry_multiplier, 0.0, 100.0)
        _check_number("dry_base", self.dry_base, 1.0, 10.0)
        _check_integer("dry_allowed_length", self.dry_allowed_length, 1, 1000)
        _check_number("xtc_probability", self.xtc_probability, 0.0, 1.0)
        _check_number("xtc_threshold", self.xtc_threshold, 0.0, 0.5)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("top_n_sigma", self.top_n_sigma, 0.0, 100.0)
        _check_number("typical_p", self.typical_p, 0.0, 1.0, above_low=True)
        _check_number("dynatemp_range", self.dynatemp_range, 0.0, 5.0)
        _check_number("dynatemp_exponent", self.dynatemp_exponent, 0.0, 10.0, above_low=True)
        if self.mirostat not in (0, 2):
            raise RequestError(f"mirostat must be 0 (off) or 2, not {self.mirostat!r}.")
        _check_number("mirostat_tau", self.mirostat_tau, 0.0, 20.0)
        _check_number("mirostat_eta", self.mirostat_eta, 0.0, 1.0)
        _check_number("adaptive_target", self.adaptive_target, -1.0, 1.0)
        _check_number("adaptive_decay", self.adaptive_decay, 0.0, 0.99)
        check_order(self.sampler_order)
        _check_integer("max_new_tokens", self.max_new_tokens, 1, 1_000_000)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, MAX_SEED)
        if self.end_at not in END_AT:
            raise RequestError(f"end_at must be one of {', '.join(END_AT)}, not {self.end_at!r}.")

    @property
    def uses_chain(self) -> bool:
        """Return whether these parameters need `jet.ops.sampler_chain`.

        They do with top-n-sigma, typical-p, dynamic temperature, mirostat, adaptive-p or a custom order of
        samplers.
        """
        shapes = self.top_n_sigma > 0 or self.typical_p < 1 or self.dynatemp_range > 0
        return bool(shapes or self.mirostat or self.adaptive_target >= 0 or self.sampler_order)

    @property
    def has_state(self) -> bool:
        """Return whether a sampler is in use whose state depends on the tokens drawn so far."""
        return self.temperature > 0 and bool(self.mirostat or self.adaptive_target >= 0)

    def with_seed(self) -> SamplingParams:
        """Return the same parameters, with a random seed if there was none."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(2**31))


SAMPLERS = ("top_n_sigma", "temperature", "typical_p", "top_k", "top_p", "min_p", "xtc")


def check_order(order: str) -> None:
    """Raise RequestError if `order` is not a list of different names of samplers, separated by ";"."""
    if not isinstance(order, str):
        raise RequestError(f"sampler_order must be names with ; between them, not {order!r}.")
    names = order.split(";") if order else []
    if unknown := [name for name in names if name not in SAMPLERS]:
        known = ", ".join(SAMPLERS)
        raise RequestError(f"sampler_order can name {known}, not {unknown[0][:40]!r}.")
    if len(set(names)) < len(names):
        raise RequestError("sampler_order names a sampler twice.")


def _check_number(name: str, value: object, low: float, high: float, above_low: bool = False) -> None:
    bounds = f"{'above' if above_low else 'from'} {low:g} {'and at most' if above_low else 'to'} {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RequestError(f"{name} must be a number {bounds}, not {value!r}.")
    if value > high or value < low or (above_low and value == low):
        raise RequestError(f"{name} must be {bounds}, not {value:g}.")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} must be a whole number from {low} to {high}, not {value!r}.")
    if not low <= value <= high:
        raise RequestError(f"{name} must be from {low} to {high}, not {value}.")


MAX_TOP_LOGPROBS = 20


MAX_BANNED, MAX_BANNED_CHARACTERS, MAX_BANNED_TOTAL = 1000, 200, 20_000


def check_banned(banned: object) -> None:
    """Raise RequestError if `banned` is no list of texts, or has too many or too long ones."""
    if not isinstance(banned, (tuple, list)) or not all(isinstance(phrase, str) for phrase in banned):
        raise RequestError("banned must be a list of texts.")
    if len(banned) > MAX_BANNED:
        raise RequestError(f"At most {MAX_BANNED:,} phrases can be banned, not {len(banned):,}.")
    if long := next((phrase for phrase in banned if len(phrase) > MAX_BANNED_CHARACTERS), None):
        raise RequestError(
            f"A banned phrase can have {MAX_BANNED_CHARACTERS} characters, and “{long[:20]}…” has more."
        )
    if sum(map(len, banned)) > MAX_BANNED_TOTAL:
        raise RequestError(f"All banned phrases together can have {MAX_BANNED_TOTAL:,} characters.")


@dataclass(frozen=True)
class Request:
    """A prompt to continue and how to sample.

    Attributes:
        prompt: the text to continue; with `instruction`, the beginning of the answer.
        sampling: the sampling parameters.
        top_logprobs: return each token's log-probability and those of this many likeliest tokens; 0 returns
            none and costs nothing.
        cache_salt: a secret of the user. Prefixes that a user's requests have computed are cached for later
            requests with the same salt only, and running requests are limited per salt. "" caches nothing
            and has no limit of its own.
        instruction: the user's turn for a chat model; only if `EngineInfo.chat_tokens` is not None.
        healing: sample the last tokens of the prompt again, so that a text continues as well after half a
            word or a space as after a word. The answer does not repeat them: it starts after the prompt's
            last character. Set it if a person typed the end of the prompt. Leave it off if the prompt's
            tokens must be kept, or if the prompt ends in unedited output of the model.
            `Engine.normalize_prompt` returns the prompt as the model gets it.
        min_tokens: forbid stop tokens for this many tokens of the answer.
        prompt_ids: the prompt as token ids instead of text; no token is added before them.
        prompt_logprobs: return the log-probability of every prompt token, and those of this many likeliest
            tokens. The whole prompt is then computed, without cached prefixes, and its state is not cached.
            None returns no log-probabilities of the prompt.
        logit_bias: pairs of a token id and a number that is added to its logit before everything else.
        raw_logprobs: take log-probabilities from the logits before any bias or penalty. The last chunk then
            also has the log-probability of the token that ends the text.
        user_id: the user under whom the per-user limit counts the request; None uses `cache_salt`, "" has no
            limit.
        stop_token_ids: tokens that end the answer, besides the model's own stop tokens. The answer contains
            neither.
        stop_token_ids_after: forbid `stop_token_ids` for this many tokens of the answer.
        banned: words and phrases that the answer never has; `jet.engine.text.banned_phrases` has the rules.
            When a phrase would be complete, the engine takes its tokens back and samples others.
        word_bias: pairs of a word and a number that is added to the logits of its tokens; -100 forbids it.
            See `jet.engine.text.word_bias`. Local engines only.
        stop_strings: texts at which the caller will cut the answer. The engine does not stop at them, but
            considers that a cut may complete a banned phrase.
    """

    prompt: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    top_logprobs: int = 0
    cache_salt: str = ""
    instruction: str = ""
    healing: bool = False
    min_tokens: int = 0
    prompt_ids: tuple[int, ...] = ()
    prompt_logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    raw_logprobs: bool = False
    user_id: str | None = None
    stop_token_ids: tuple[int, ...] = ()
    stop_token_ids_after: int = 0
    banned: tuple[str, ...] = ()
    word_bias: tuple[tuple[str, float], ...] = ()
    stop_strings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_integer("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        _check_integer("min_tokens", self.min_tokens, 0, 1_000_000)
        _check_integer("stop_token_ids_after", self.stop_token_ids_after, 0, 1_000_000)
        for token in self.stop_token_ids:
            _check_integer("stop_token_ids: a token id", token, 0, 2**31 - 1)
        if not isinstance(self.healing, bool):
            raise RequestError(f"healing must be true or false, not {self.healing!r}.")
        if self.prompt_logprobs is not None:
            _check_integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.healing and (self.prompt_ids or self.prompt_logprobs is not None):
            raise RequestError("Token ids, and prompts whose log-probabilities are wanted, cannot be healed.")
        for token, bias in self.logit_bias:
            _check_integer("logit_bias: a token id", token, 0, 2**31 - 1)
            _check_number("logit_bias", bias, -100.0, 100.0)
        check_banned(self.banned)
        if len(self.word_bias) > MAX_BANNED:
            raise RequestError(f"At most {MAX_BANNED:,} words can have a bias, not {len(self.word_bias):,}.")
        for word, bias in self.word_bias:
            if not 0 < len(word) <= MAX_BANNED_CHARACTERS:
                raise RequestError(f"A word with a bias has from 1 to {MAX_BANNED_CHARACTERS} characters.")
            _check_number("word_bias", bias, -100.0, 100.0)


@dataclass(frozen=True)
class RequestStats:
    """Measurements of one request so far, made by the engine. A value is None if it cannot be measured here.

    State bytes are summed over the request's tensors. Speeds are those of decoding, from the first token on,
    without prefill. `tokens_per_second` covers about the last second.
    """

    phase: str = "queued"  # queued · prefill · decode · done
    queue_position: int = 0  # 0: running
    active_requests: int | None = None  # of all users
    queued_requests: int | None = None  # of all users
    tokens: int = 0
    tokens_estimated: bool = False  # counted in chunks of text, since the server reports no tokens
    prompt_tokens: int = 0  # including those drawn again by healing
    cached_tokens: int = 0  # tokens of the prompt restored from the prefix cache
    tokens_per_second: float | None = None
    mean_tokens_per_second: float | None = None
    time_to_first_token_s: float | None = None
    recurrent_bytes: int = 0
    conv_bytes: int = 0
    window_kv_bytes: int = 0
    full_kv_bytes: int = 0
    process_memory_bytes: int | None = None  # resident set of this process
    device_memory_bytes: int | None = None  # allocated on the accelerator, None on a CPU
    device_reserved_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_total_bytes: int | None = None
    # stop · length · context · banned · aborted · error · model_changed
    finish_reason: str | None = None
    error: str | None = None
    seed: int | None = None
    unfinished: str = (
        ""  # with `end_at`, the end of the text that is no whole sentence: for the caller to cut
    )

    @property
    def state_bytes(self) -> int:
        """Return the bytes that do not grow with the text: recurrent state, convolution, window KV."""
        return self.recurrent_bytes + self.conv_bytes + self.window_kv_bytes

    @property
    def kv_bytes(self) -> int:
        """Return the key/value bytes of window and full-attention layers."""
        return self.window_kv_bytes + self.full_kv_bytes


@dataclass(frozen=True)
class TokenLogprob:
    """A candidate token at one position, with its text and log-probability.

    Probabilities are the network's, after the repetition penalty, before temperature and filters. With
    `Request.raw_logprobs` they are taken before any bias or penalty. `text` has U+FFFD where a token is part
    of a character.

    If the token was sampled by healing (`Request.healing`), `text` leaves out the bytes that the prompt has
    already. The alternatives are then the likeliest tokens that begin with these bytes and add text. Their
    probabilities are still among all tokens.
    """

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs:
    """The sampled token and the likeliest tokens at its position, likeliest first."""

    sampled: TokenLogprob
    top_logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class TokenChunk:
    """A part of a stream: final text (never half a character), its tokens and the stats so far.

    The first chunk of a stream is empty and comes before prefill, so that a consumer can react at once. The
    last chunk has `stats.finish_reason`.

    `logprobs` has an entry for each token if the request has `top_logprobs`, and none otherwise. If the
    request has `prompt_logprobs`, the chunk's `prompt_logprobs` are those of the prompt tokens computed since
    the last chunk. The prompt's first token has none.
    """

    text: str
    token_ids: tuple[int, ...]
    stats: RequestStats
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class Stream(Protocol):
    """The chunks of one request, returned by `Engine.submit`; iterate it from a single thread."""

    def __iter__(self) -> Iterator[TokenChunk]: ...

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        """Yield merged chunks, at most one per `interval_s` seconds; the first and the last come at once."""
        ...

    def abort(self) -> None:
        """Abort the request; takes effect within one step. Safe to call twice."""
        ...


Placement = Literal[
    "local", "zerogpu", "remote"
]  # in this process, on a GPU lent per request, on another server


@dataclass(frozen=True)
class EngineInfo:
    """An engine's model, device and load, for the page and `/stats`. Unknown values are None."""

    model: str  # name for people: "jet-ai/Jet-Nemotron-2B", "assets/story-model"
    parameters: int | None
    device: str  # "cpu", "cuda:0", "remote"
    device_name: str  # "NVIDIA H100 80GB HBM3", "AMD EPYC …, 2 threads"
    dtype: str | None  # "bfloat16"; of activations, if weights are quantized
    attention: str | None  # "sdpa"
    kernels: dict[str, str]  # operation → implementation in use, e.g. {"gated_delta": "torch"}
    context: int  # most tokens of a request, prompt included
    license: str
    load_s: float | None
    warmup_s: float | None
    placement: Placement = "local"
    max_running_requests: int | None = None  # requests served at once; others wait
    max_total_tokens: int | None = None  # of all running requests, as memory allows
    footprint: Footprint | None = None  # bytes per token and request, from which speed and memory follow
    bandwidth: float | None = None  # bytes read and written per second, of the fastest copy measured
    bandwidth_confirmed: bool = True  # whether another copy was about as fast
    quantization: str | None = None  # "int8" or "int4"; None if weights are not quantized
    chat_tokens: int | None = None  # tokens of an empty chat prompt; None without chat template
    vocabulary: int | None = None  # number of token ids of the network
    stored_bytes: int | None = None  # of stories' states on disk; None if they are not stored
    stored_limit: int | None = None  # most bytes that they may take
    checkpoint: str | None = None  # identity of the model's files, by which what was measured of it is found
    active_requests: int = 0
    queued_requests: int = 0
    process_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    device_reserved_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_total_bytes: int | None = None


@runtime_checkable
class StoresStates(Protocol):
    """An engine that may have stored the model's states of a user's stories."""

    def forget(self, cache_salt: str) -> None:
        """Remove the states that were stored under this salt from disk and memory."""
        ...


class Engine(Protocol):
    """The interface of local, ZeroGPU and remote engines."""

    @property
    def alive(self) -> bool:
        """Return whether requests are accepted."""
        ...

    def submit(self, request: Request) -> Stream:
        """Queue a request and return its stream. Raises RequestError if it can never be served."""
        ...

    def info(self) -> EngineInfo:
        """Return the engine's properties, with load and memory measured now."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text. Raises RequestError if it cannot be tokenized."""
        ...

    def count_prompt(self, request: Request) -> int:
        """Return the number of tokens of a request's prompt, with chat template and start token.

        Text that the same user has tokenized before is not tokenized again. Raises RequestError if the prompt
        cannot be tokenized.
        """
        ...

    def normalize_prompt(self, prompt: str) -> str:
        """Return a prompt as the model gets it with `Request.healing`: trailing blanks may change."""
        ...

    def close(self, reason: str = "") -> None:
        """End every stream with an error and stop the engine's thread.

        `reason`: the message for running requests if another model takes over.
        """
        ...
