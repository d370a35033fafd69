"""The words the engine and its callers share: plain data, no torch.

Everything a request carries in and everything that comes back out is defined here, so that a local
engine, a forked one and a remote one look the same to the page.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from jet.roofline import Footprint

MAX_SEED = 2**63 - 1


class RequestError(ValueError):
    """A request that cannot be served. The message is written for the person who sent it."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen. The one place where the defaults stand.

    Attributes:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_p: keep the smallest set of tokens whose probabilities sum to at least this.
        top_k: keep this many tokens; 0 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest one.
        repetition_penalty: divides positive (multiplies negative) logits of tokens already in the story.
        dry_multiplier: strength of DRY, which punishes carrying on a repetition of earlier text; 0 is off.
        dry_base: by what factor a repetition is punished harder for each token that it is longer.
        dry_allowed_length: repetitions of fewer tokens are not punished.
        xtc_probability: how often XTC excludes top choices; 0 is off.
        xtc_threshold: of the tokens that are at least this likely it leaves only the least likely.
        max_new_tokens: stop after this many tokens.
        seed: same prompt, parameters and seed give the same story; None draws one.
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
    max_new_tokens: int = 400
    seed: int | None = None

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
        _check_integer("max_new_tokens", self.max_new_tokens, 1, 1_000_000)
        if self.seed is not None:
            _check_integer("seed", self.seed, 0, MAX_SEED)

    def with_seed(self) -> SamplingParams:
        """The same parameters with a seed drawn if there was none."""
        return self if self.seed is not None else replace(self, seed=secrets.randbelow(2**31))


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


@dataclass(frozen=True)
class Request:
    """One continuation to write: a prompt and how to sample.

    Attributes:
        top_logprobs: for every token also say how likely it was, and this many of the likeliest tokens there.
            0 says nothing and costs nothing.
        cache_salt: a key that nobody else knows. What a user's requests have read stays in memory for the
            next ones that begin alike, and for nobody else's; one user has only so many places. "" is nobody.
        instruction: what a chat model is asked for; the prompt is then the beginning of its answer. Only
            where `EngineInfo.chat_tokens` says that there is a chat template.
        healing: draw the last tokens of the prompt again, so that a story goes on as well from half a word or
            from a blank as from the end of a word. The answer never repeats them: it is what follows the
            prompt's last character. Set it where a person has typed the end of the prompt. Leave it off where
            the prompt's tokens must be read as they are, and where the prompt ends in words that the model
            wrote and nobody edited. `Engine.as_read` says how the end of a prompt is read.
        min_tokens: forbid the tokens that end a story for the first so many tokens of the answer.
    """

    prompt: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    top_logprobs: int = 0
    cache_salt: str = ""
    instruction: str = ""
    healing: bool = False
    min_tokens: int = 0

    def __post_init__(self) -> None:
        _check_integer("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        _check_integer("min_tokens", self.min_tokens, 0, 1_000_000)
        if not isinstance(self.healing, bool):
            raise RequestError(f"healing must be true or false, not {self.healing!r}.")


@dataclass(frozen=True)
class RequestStats:
    """What was measured about one request so far. Written by the engine; None means not measurable here.

    Bytes of the request's own state are summed over its real tensors. Speeds are of decoding alone: the
    time from the first token on, prefill excluded. `tokens_per_second` looks at the last second or so.
    """

    phase: str = "queued"  # queued · prefill · decode · done
    queue_position: int = 0  # 0: being served
    active_requests: int | None = None  # being served, everybody's
    queued_requests: int | None = None  # waiting, everybody's
    tokens: int = 0
    tokens_estimated: bool = False  # pieces of text were counted, since nobody says how many tokens they are
    prompt_tokens: int = 0  # healed ones included
    cached_tokens: int = 0  # of the prompt, that were in memory and did not have to be read
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
    finish_reason: str | None = None  # stop · length · context · aborted · error
    error: str | None = None
    seed: int | None = None

    @property
    def state_bytes(self) -> int:
        """The part that does not grow with the story: recurrent state, convolution, window KV."""
        return self.recurrent_bytes + self.conv_bytes + self.window_kv_bytes

    @property
    def kv_bytes(self) -> int:
        """All key/value memory: the windows' and the full-attention layers'."""
        return self.window_kv_bytes + self.full_kv_bytes


@dataclass(frozen=True)
class TokenLogprob:
    """A token that might have stood in a place, and its log-probability there.

    Probabilities are the network's, after the repetition penalty, before temperature and filters. `text` has
    replacement characters where a token is a part of a character. Where a token begins with what the writer
    has typed (`Request.healing`), `text` is what comes behind that. Alternatives are then the likeliest
    tokens that begin so, too, and go on; a probability is still one among all tokens.
    """

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs:
    """The token that was drawn, and the likeliest ones in its place, likeliest first."""

    sampled: TokenLogprob
    top_logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class TokenChunk:
    """A piece of a stream: text that is final (never half a character), its tokens, and the stats so far.

    The first chunk of a stream comes before prefill and is empty, so that a consumer can react at once;
    the last one has `stats.finish_reason` set. `logprobs` has an entry a token where the request asks for
    alternatives, and none otherwise.
    """

    text: str
    token_ids: tuple[int, ...]
    stats: RequestStats
    logprobs: tuple[TokenLogprobs, ...] = ()


class Stream(Protocol):
    """What `Engine.submit` returns: iterate it for chunks, from any one thread."""

    def __iter__(self) -> Iterator[TokenChunk]: ...

    def chunks(self, interval_s: float = 0.0) -> Iterator[TokenChunk]:
        """Chunks merged so that at most one comes per `interval_s`; the first and the last come at once."""
        ...

    def abort(self) -> None:
        """Ask the engine to drop the request; takes effect within one step. Safe to call twice."""
        ...


Placement = Literal["local", "zerogpu", "remote"]  # in this process, lent for each request, elsewhere


@dataclass(frozen=True)
class EngineInfo:
    """What runs here, for the page and for `/stats`; None where that cannot be known."""

    model: str  # how a person would name it: "jet-ai/Jet-Nemotron-2B", "assets/story-model"
    parameters: int | None
    device: str  # "cpu", "cuda:0", "remote"
    device_name: str  # "NVIDIA H100 80GB HBM3", "AMD EPYC …, 2 threads"
    dtype: str | None  # "bfloat16"; of what is computed, if weights are held otherwise
    attention: str | None  # "sdpa"
    kernels: dict[str, str]  # operation → implementation in use, e.g. {"gated_delta": "torch"}
    context: int  # most tokens of one story, prompt and all
    license: str
    load_s: float | None
    warmup_s: float | None
    placement: Placement = "local"
    max_running_requests: int | None = None  # stories written at once; others wait in line
    max_total_tokens: int | None = None  # of all stories together that there is memory for
    footprint: Footprint | None = None  # the sizes that speed and memory follow from
    bandwidth: float | None = None  # bytes a second, read and written, of the best copy so far
    bandwidth_confirmed: bool = True  # whether more than one copy was about as quick
    quantization: str | None = None  # how the weights are held: "int8", "int4"; None as they were
    chat_tokens: int | None = None  # of the chat template around what is asked for; None: there is none
    active_requests: int = 0
    queued_requests: int = 0
    process_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    device_reserved_bytes: int | None = None
    device_peak_bytes: int | None = None
    device_total_bytes: int | None = None


class Engine(Protocol):
    """The one interface the page knows: of the resident engine, of a remote one, of one lent on demand."""

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        ...

    def submit(self, request: Request) -> Stream:
        """Queue a request. Raises RequestError at once if it can never be served."""
        ...

    def info(self) -> EngineInfo:
        """What runs here, measured now."""
        ...

    def count_tokens(self, text: str) -> int:
        """How many tokens a text has by itself. Raises RequestError if it cannot be read."""
        ...

    def count_prompt(self, request: Request) -> int:
        """How many tokens the prompt of a request has, with all that is put around it when it is read.

        What the same user has had read before takes no time. Raises RequestError if it cannot be read.
        """
        ...

    def normalize_prompt(self, prompt: str) -> str:
        """A prompt as the model reads it with `Request.healing`: blanks at its end may be read as another."""
        ...

    def close(self) -> None:
        """End every live stream visibly and stop the device thread."""
        ...
