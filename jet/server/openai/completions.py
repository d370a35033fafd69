"""POST /v1/completions: takes prompts as texts or token ids, answers in OpenAI's legacy format."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from jet.api import EngineInfo, Request, RequestError, TokenLogprobs
from jet.engine.banned_lists import banned_phrases
from jet.server.openai.answers import DONE, Answer, encode_json, event
from jet.server.openai.batch import MAX_ANSWERS, Batch
from jet.server.openai.errors import ApiError, from_request_error, invalid
from jet.server.openai.generation import Delta, TokenInfo
from jet.server.openai.ids import secret_name
from jet.server.openai.reading import bias_of, read_fields, sampling_of, stops_of
from jet.server.openai.responding import headers_of
from jet.server.openai.schema import CompletionRequest, Sampling
from jet.server.openai.service import SHORT, ApiService, new_id
from jet.server.openai.tokens import Codec, codec_of, decode, token_name
from jet.server.openai.usage import Usage

DEFAULT_TOKENS = 16
_MARK = "\ue000text\ue000"


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: the prompt as text; "" if it is given to the engine as ids.
        ids: the prompt as token ids; empty if it is given to the engine as text.
        echoed: the prompt as text, for requests with `echo`.
    """

    text: str
    ids: tuple[int, ...] = ()
    echoed: str = ""


async def complete(service: ApiService, http: HttpRequest) -> Response:
    """Answer a call of POST /v1/completions. Raises ApiError."""
    caller = service.caller(http)
    fields, unknown = await read_fields(http, CompletionRequest)
    _refuse_unoffered(fields)
    engine = await service.engine()
    info, codec = service.facts(engine), codec_of(engine)
    model = service.check_model(info, fields.model)
    salt = service.cache_salt(http, caller, fields.user)
    if _is_short(fields.prompt):
        prompts, requests = _read(fields, info, codec, salt)
    else:
        prompts, requests = await asyncio.to_thread(_read, fields, info, codec, salt)
    counted = service.limited_as(http, caller)
    batch = Batch(service, engine, requests, counted, stops_of(fields.stop), codec)
    await batch.open()
    form = CompletionForm(model, fields, prompts, codec)
    return Answer(batch, form, bool(fields.stream), headers_of(http, unknown))


def _refuse_unoffered(fields: CompletionRequest) -> None:
    if fields.best_of is not None and fields.best_of != 1 and fields.best_of != (fields.n or 1):
        raise invalid("best_of is not offered here: ask for n answers and choose.", param="best_of")
    if fields.best_of is not None and fields.best_of > 1:
        raise invalid("best_of is not offered here: ask for n answers and choose.", param="best_of")
    if fields.suffix:
        raise invalid("suffix is not offered: this model writes on from the end of a text.", param="suffix")


def _is_short(prompt: str | Sequence[object] | None) -> bool:
    """Return whether a prompt takes less time to tokenize than a thread takes to start."""
    return prompt is None or (isinstance(prompt, str) and len(prompt) <= SHORT)


def _read(
    fields: CompletionRequest, info: EngineInfo, codec: Codec | None, salt: str
) -> tuple[list[Prompt], list[Request]]:
    """Return the prompts of a call and its engine requests. Raises ApiError."""
    prompts = _prompts_of(fields, info, codec, salt)
    if (answers := len(prompts) * (fields.n or 1)) > MAX_ANSWERS:
        raise invalid(f"One request can have {MAX_ANSWERS:,} answers, not {answers:,}.", param="n")
    return prompts, [one for prompt in prompts for one in _requests_of(fields, prompt, salt)]


def _prompts_of(fields: CompletionRequest, info: EngineInfo, codec: Codec | None, salt: str) -> list[Prompt]:
    """Return the prompts of a request: a text, texts, token ids or lists of token ids. Raises ApiError."""
    given = "" if fields.prompt is None else fields.prompt
    several: Sequence[str | list[int]] = [given] if isinstance(given, str) else _one_or_more(given)
    if not several:
        raise invalid("prompt has no text and no tokens in it.", param="prompt")
    scored = bool(fields.echo) and fields.logprobs is not None
    try:
        return [_prompt_of(one, fields, info, codec, salt, scored) for one in several]
    except RequestError as error:
        raise from_request_error(error) from None


def _one_or_more(given: list[int] | list[str] | list[list[int]]) -> Sequence[str | list[int]]:
    """Return the prompts in a list; a list of token ids is one prompt."""
    ids = [one for one in given if isinstance(one, int)]
    return [ids] if ids else [one for one in given if not isinstance(one, int)]


def _prompt_of(
    given: str | list[int],
    fields: CompletionRequest,
    info: EngineInfo,
    codec: Codec | None,
    salt: str,
    scored: bool,
) -> Prompt:
    if isinstance(given, str):
        if not scored:
            return Prompt(given, echoed=given)
        if codec is None:
            raise ApiError(400, "Log-probabilities of a prompt are not known here.", code="no_tokenizer")
        ids = codec.encode(given, info.context - 1, "", salt)
        return Prompt("", tuple(ids.tolist()), given)
    if codec is None:
        raise ApiError(400, "The model runs on another server: send text.", code="no_tokenizer")
    if not given:
        raise invalid("A prompt of token ids needs at least one.", param="prompt")
    vocabulary = info.vocabulary or 2**31
    if not 0 <= min(given) <= max(given) < vocabulary:
        raise invalid(f"Token ids of this model are from 0 to {vocabulary - 1:,}.", param="prompt")
    return Prompt("", tuple(given), decode(codec, given) if fields.echo else "")


def _requests_of(fields: CompletionRequest, prompt: Prompt, salt: str) -> list[Request]:
    """Return the engine requests for a prompt, one for each of the `n` answers."""
    most = DEFAULT_TOKENS if fields.max_tokens is None else fields.max_tokens
    count = fields.n or 1
    logprobs = fields.logprobs
    found = []
    for number in range(count):
        request = request_of(fields, max(most, 1), prompt.text, prompt.ids, logprobs, salt, number)
        if fields.echo and logprobs is not None and (number == 0 or fields.stream):
            request = replace(request, prompt_logprobs=logprobs)
        found.append(request)
    if count > 1 and not salt:  # the answers of this call may share what has been read for the first
        own = secret_name()
        found = [replace(request, cache_salt=own) for request in found]
    return found


def request_of(
    fields: Sampling,
    max_tokens: int,
    text: str,
    ids: tuple[int, ...],
    logprobs: int | None,
    salt: str,
    number: int = 0,
) -> Request:
    """Return the engine request for one answer. Raises ApiError.

    Args:
        fields: the fields of the HTTP request.
        max_tokens: most new tokens.
        text: the prompt as text; "" if it is given as ids.
        ids: the prompt as token ids; empty if it is given as text.
        logprobs: how many top log-probabilities to return for each token; None for no log-probabilities.
        salt: the salt that isolates cached prefixes; "" caches nothing.
        number: the answer's number, which is added to the seed.
    """
    sampling = sampling_of(fields, max_tokens)
    if sampling.seed is not None and number:
        sampling = sampling_of(fields.model_copy(update={"seed": sampling.seed + number}), max_tokens)
    bias, words = bias_of(fields)
    try:
        return Request(
            text,
            sampling,
            top_logprobs=0 if logprobs is None else max(1, logprobs),
            cache_salt=salt,
            min_tokens=max_tokens if fields.ignore_eos else min(fields.min_tokens or 0, max_tokens),
            prompt_ids=ids,
            logit_bias=bias,
            word_bias=words,
            raw_logprobs=logprobs is not None,
            user_id="",
            banned=banned_phrases(fields.banned, fields.banned_lists),
            stop_strings=stops_of(fields.stop),
            stop_token_ids=tuple(fields.stop_token_ids or ()),
            stop_token_ids_after=min(fields.min_tokens or 0, max_tokens),
        )
    except RequestError as error:
        raise from_request_error(error) from None


@dataclass
class _Choice:
    """The parts of one answer that have come so far."""

    text: str = ""
    details: list[TokenInfo] = field(default_factory=list)
    prompt_details: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | None = None
    echoed: bool = False
    unfinished: str = ""

    def cut(self) -> None:
        """Remove an incomplete sentence from the end of the answer."""
        self.text = self.text.removesuffix(self.unfinished)
        self.details = [one for one in self.details if not self.unfinished or one.offset < len(self.text)]


class CompletionForm:
    """OpenAI's legacy format; see `jet.server.openai.answers.Form`."""

    def __init__(
        self, model: str, fields: CompletionRequest, prompts: Sequence[Prompt], codec: Codec | None
    ) -> None:
        self._base = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._prompts, self._codec = prompts, codec
        self._each = fields.n or 1
        self._echo, self._logprobs = bool(fields.echo), fields.logprobs
        self._silent = fields.max_tokens == 0  # only the prompt is wanted
        options = fields.stream_options
        self._usage_at_end = bool(options and options.include_usage)
        self._usage_always = bool(options and options.continuous_usage_stats)
        self._usage = Usage(self._each)
        self._choices = [_Choice() for _ in range(len(prompts) * self._each)]
        self._is_plain = self._logprobs is None and not (self._usage_always or self._silent)
        self._frames: dict[int, tuple[bytes, bytes]] = {}  # what stands around the text of a plain frame

    def opening(self) -> list[bytes]:
        """Return an empty list: OpenAI's first frame has text."""
        return []

    def frames(self, number: int, delta: Delta) -> list[bytes]:
        """Return the server-sent events for a part of answer `number`.

        Returns an empty list for a part without text, log-probabilities of the answer and finish reason.
        """
        choice = self._choices[number]
        if self._is_plain and choice.echoed and delta.text and delta.finish_reason is None:
            self._usage.add(number, delta.tokens, delta.stats)
            return [self._plain_frame(number, delta.text)]
        self.add(number, delta)
        if not (choice.text or choice.details or choice.finish_reason):
            return []
        plain = {**self._base, "choices": [self._plain(number)]}
        if self._usage_always:
            plain["usage"] = self._usage.plain()
        self._choices[number] = _Choice(echoed=True)
        return [event(plain)]

    def _plain_frame(self, number: int, text: str) -> bytes:
        """Return the event of a part that is only text.

        Only the text is encoded; the JSON around it is reused.
        """
        if number not in self._frames:
            marked = event({**self._base, "choices": [{**self._plain(number), "text": _MARK}]})
            before, _, after = marked.partition(f'"{_MARK}"'.encode())
            self._frames[number] = before, after
        before, after = self._frames[number]
        return before + encode_json(text) + after

    def closing(self) -> list[bytes]:
        """Return the frame with the usage, if it was requested, and the end of the stream."""
        usage = {**self._base, "choices": [], "usage": self._usage.plain()}
        return [event(usage), DONE] if self._usage_at_end else [DONE]

    def error(self, plain: dict[str, Any]) -> list[bytes]:
        """Return the frame of an error, as OpenAI's clients expect it."""
        return [event(plain), DONE]

    def add(self, number: int, delta: Delta) -> None:
        """Add a part to an answer."""
        choice = self._choices[number]
        self._usage.add(number, 0 if self._silent else delta.tokens, delta.stats)
        if not self._silent:
            choice.text += delta.text
            choice.details += delta.details
        choice.prompt_details += delta.prompt_details
        choice.finish_reason = "length" if self._silent and delta.finish_reason else delta.finish_reason
        choice.unfinished = "" if self._silent else delta.stats.unfinished
        choice.stop_reason = delta.stop_reason

    def whole(self) -> dict[str, Any]:
        """Return all answers as one JSON object."""
        # Where the answer is sent whole, only the first one to a prompt has it scored.
        for number, choice in enumerate(self._choices):
            choice.prompt_details = self._choices[number - number % self._each].prompt_details
            choice.cut()
        choices = [self._plain(number) for number in range(len(self._choices))]
        return {**self._base, "choices": choices, "usage": self._usage.plain()}

    def _plain(self, number: int) -> dict[str, Any]:
        choice, prompt = self._choices[number], self._prompts[number // self._each]
        echoes = self._echo and not choice.echoed
        logprobs = None
        if self._logprobs is not None:
            logprobs = self._logprobs_of(choice, prompt if echoes else None, len(prompt.echoed) * self._echo)
        return {
            "index": number,
            "text": prompt.echoed + choice.text if echoes else choice.text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
            **({"unfinished": choice.unfinished} if choice.unfinished else {}),
            **({"stop_reason": choice.stop_reason} if choice.stop_reason else {}),
        }

    def _logprobs_of(self, choice: _Choice, prompt: Prompt | None, begin: int) -> dict[str, Any]:
        """Return OpenAI's `logprobs` object: the tokens of an echoed prompt, then those of the answer.

        The prompt's first token has no log-probability.

        Args:
            choice: the answer.
            prompt: the prompt to echo; None to leave it out.
            begin: the offset of the answer's text, in characters.
        """
        tokens: list[str] = []
        values: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        if prompt is not None and prompt.ids and self._codec is not None:
            tokens += [token_name(self._codec, token) for token in prompt.ids]
            values += [None, *(detail.sampled.logprob for detail in choice.prompt_details)]
            tops += [None, *map(self._top, choice.prompt_details)]
            offsets += offsets_of(self._codec, prompt.ids)
        for info in choice.details:
            tokens.append(self._name(info.detail.sampled.token_id, info.detail.sampled.text))
            values.append(info.detail.sampled.logprob)
            tops.append(self._top(info.detail))
            offsets.append(begin + info.offset)
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}

    def _top(self, detail: TokenLogprobs) -> dict[str, float]:
        """Return names and log-probabilities of the sampled token and of its likeliest alternatives."""
        likeliest = [] if not self._logprobs else detail.top_logprobs[: self._logprobs]
        # The likeliest last: of two parts of characters with one name, it counts.
        shown = {self._name(one.token_id, one.text): one.logprob for one in reversed(likeliest)}
        drawn = detail.sampled
        return {self._name(drawn.token_id, drawn.text): drawn.logprob} | dict(reversed(shown.items()))

    def _name(self, token: int, text: str) -> str:
        return text if self._codec is None else token_name(self._codec, token)


def offsets_of(codec: Codec, ids: Sequence[int]) -> list[int]:
    """Return the offset of each token's text in the text of all tokens, in characters."""
    decoder, at, offsets = codec.detokenizer(()), 0, []
    for token in ids:
        offsets.append(at)
        at += len(decoder.push(token))
    return offsets
