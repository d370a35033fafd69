"""Load the network to be measured (a checkpoint, or a config with random weights) and serve it."""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from jet import hardware
from jet.api import EngineInfo, RequestError
from jet.bench.options import PREFIX_CACHING, BenchError, Options
from jet.engine import loading
from jet.engine.capacity import CapacityError
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.interfaces import Runner, Tokenizer
from jet.engine.model_runner import ModelRunner
from jet.engine.text.detokenizer import Detokenizer
from jet.modeling import CheckpointError, JetNemotronConfig, JetNemotronForCausalLM, load_model
from jet.modeling.finite import require_finite
from jet.modeling.footprint import total_weight_bytes
from jet.modeling.quantized_loading import random_quantized
from jet.token_ids import Tokens

_CAPTURE_S = 3.0


@dataclass(frozen=True)
class Network:
    """A loaded network.

    Attributes:
        runner: runs both the bare loop and the engine, so that weights and graphs are in memory once.
        prompt: the token ids of the prompt.
        threads: the number of threads for prefill on a CPU: all that this process may use, or fewer by
            option.
    """

    model: JetNemotronForCausalLM
    tokenizer: IdTokenizer
    runner: ModelRunner
    info: EngineInfo
    prompt: list[int]
    threads: int

    @property
    def device(self) -> torch.device:
        """Return the network's device."""
        return self.model.device

    @property
    def prefill_chunk(self) -> int:
        """Return the largest number of tokens in a prefill chunk of the engine."""
        return loading.prefill_chunk(self.device)


class IdTokenizer:
    """A tokenizer for prompts that are token ids written as text, so that their length is exact.

    Generated tokens become text by the checkpoint's tokenizer. Without one, token 123 becomes "t123 ", which
    takes about as long. There are no stop tokens, so every run decodes all of its tokens.
    """

    stop_ids: frozenset[int] = frozenset()

    def __init__(self, text_tokenizer: Tokenizer | None = None) -> None:
        self._text_tokenizer = text_tokenizer

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        """Return the ids in `prompt`. Raises RequestError if there are none, or more than `max_tokens`."""
        ids = _parse(prompt)
        if not 1 <= len(ids) <= max_tokens:
            raise RequestError(f"The prompt has {len(ids):,} tokens, and 1 to {max_tokens:,} can be read.")
        return ids

    def encode_healed(
        self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = ""
    ) -> tuple[Tokens, None, Detokenizer]:
        """Return the ids as `encode` does, None since nothing is healed, and a detokenizer."""
        ids = self.encode(prompt, max_tokens, instruction, cache_salt)
        return ids, None, self.detokenizer(ids)

    def count_prompt(self, prompt: str, instruction: str = "", cache_salt: str = "") -> int:
        """Return the number of ids in a prompt."""
        return len(_parse(prompt))

    def normalize_prompt(self, prompt: str) -> str:
        """Return the prompt unchanged."""
        return prompt

    def detokenizer(self, prompt: Sequence[int] | Tokens) -> Detokenizer:
        """Return a detokenizer for the tokens after `prompt`."""
        return _IdDetokenizer() if self._text_tokenizer is None else self._text_tokenizer.detokenizer(prompt)

    def count(self, text: str) -> int:
        """Return the number of ids in a text."""
        return len(_parse(text))

    def ids_of(self, text: str, cache_salt: str = "") -> Tokens:
        """Return the ids in a text."""
        return np.array(_parse(text), np.int32)

    def token_text(self, token: int, skip: int = 0) -> str:
        """Return the text of a token by itself, without its first `skip` bytes."""
        return (
            f"t{token} "[skip:]
            if self._text_tokenizer is None
            else self._text_tokenizer.token_text(token, skip)
        )


@lru_cache(maxsize=16)
def _parse(text: str) -> Tokens:
    return np.array(text.split(), np.int32)


class _IdDetokenizer:
    def push(self, token: int, skip: int = 0) -> str:
        return f"t{token} "[skip:]

    def flush(self) -> str:
        return ""

    def copy(self) -> _IdDetokenizer:
        return self


def load(options: Options) -> Network:
    """Load the network, or draw random weights. Raises BenchError, CheckpointError or HardwareError."""
    started = time.monotonic()
    threads = hardware.limit_threads()
    if options.threads is not None and options.threads < threads:
        threads = options.threads
        torch.set_num_threads(threads)
    device = hardware.choose_device(options.device)
    dtype = hardware.choose_dtype(options.dtype, device)
    name = options.model or str(options.config)
    try:
        model, text_tokenizer = _load_model(options, device, dtype)
    except torch.OutOfMemoryError:
        raise loading.too_large(name, device, options.quantize) from None
    if options.model is not None:
        require_finite(model, name)
    tokenizer = IdTokenizer(text_tokenizer)
    info = loading.engine_info(name, model, load_s=time.monotonic() - started)
    prompt = random_prompt(model.config.vocab_size, options.context)
    needed = options.context + max(options.tokens, options.new_tokens)
    longest = min(needed, model.config.max_position_embeddings)
    keeps_prefixes = options.command in PREFIX_CACHING
    runner = make_runner(model, tokenizer.stop_ids, longest, options.batch, keeps_prefixes)
    if options.command != "start":  # which begins to write as soon as the page does
        capture_graphs(runner)
    info = replace(info, kernels=info.kernels | runner.kernels, max_running_requests=options.batch)
    return Network(model, tokenizer, runner, info, prompt, threads)


def _load_model(
    options: Options, device: torch.device, dtype: torch.dtype
) -> tuple[JetNemotronForCausalLM, Tokenizer | None]:
    """Load the network, and its tokenizer if it has one."""
    if options.config is not None:
        config = read_config(options.config)
        if options.full_attention:
            config.layer_types = ["attn"] * config.num_hidden_layers
        check_length(options, config.max_position_embeddings)
        return random_network(config, device, dtype, options.quantize), None
    source = loading.resolve_path(str(options.model))
    model = load_model(source, device, dtype, quantize=options.quantize)
    check_length(options, model.config.max_position_embeddings)
    return model, _tokenizer(source, model)


def _tokenizer(source: str, model: JetNemotronForCausalLM) -> Tokenizer | None:
    try:
        return loading.load_tokenizer(source, model)
    except CheckpointError:  # a network can be measured without
        return None


def make_runner(
    model: JetNemotronForCausalLM,
    stop_ids: frozenset[int],
    context: int | None = None,
    writers: int = 1,
    keeps_prefixes: bool = False,
) -> ModelRunner:
    """Make the runner that the page would use for `writers` requests of up to `context` tokens.

    `context`: None for the longest that the network allows. `keeps_prefixes`: whether to allocate memory for
    cached prefixes. Raises BenchError if memory is too small.
    """
    try:
        capacity = loading.capacity_for(model, context or model.config.max_position_embeddings, writers)
    except CapacityError as error:
        raise BenchError(str(error)) from None
    if (
        not keeps_prefixes
    ):  # twice what they hold: memory is promised by the page, and one more than is needed
        tokens = min(capacity.max_total_tokens, 2 * capacity.max_running_requests * capacity.context)
        capacity = replace(capacity, cache_slots=0, max_total_tokens=tokens)
    return loading.make_runner(model, stop_ids, capacity)


def capture_graphs(runner: ModelRunner) -> None:
    """Capture graphs for up to 3 seconds, as an idle engine does, so that measuring captures none."""
    until = time.monotonic() + _CAPTURE_S
    while time.monotonic() < until and runner.capture_next():
        pass


def decode_threads(model: JetNemotronForCausalLM) -> int:
    """Return the number of threads that the engine uses for decode steps on a CPU."""
    return hardware.decode_threads(total_weight_bytes(model))


@contextmanager
def serve(network: Network, runner: Runner | None = None) -> Iterator[LocalEngine]:
    """Serve the network by an engine with its runner, or with `runner` instead; close both at the end.

    As in the page's process, existing objects are hidden from Python's garbage collector. Otherwise its
    passes through the objects of all libraries would interrupt every stream for tenths of a second.
    """
    read_memory = partial(hardware.read_memory, network.device)
    if network.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(network.device)  # what it took to get here is not the engine's
    options = EngineOptions(
        max_running_requests=network.info.max_running_requests or 1, prefill_chunk_size=network.prefill_chunk
    )
    engine = LocalEngine(runner or network.runner, network.tokenizer, network.info, options, read_memory)
    gc.collect()
    gc.freeze()
    try:
        yield engine
    finally:
        gc.unfreeze()
        engine.close()


def read_config(path: Path) -> JetNemotronConfig:
    """Read a Jet-Nemotron config.json under any file name. Raises BenchError for any other file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read as JSON: {error}.") from error
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type != JetNemotronConfig.model_type:
        raise BenchError(f"{path} is no config of a Jet-Nemotron network: its model_type is {model_type!r}.")
    try:
        config: JetNemotronConfig = JetNemotronConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise BenchError(f"{path}: {error}") from error
    return config


def random_network(
    config: JetNemotronConfig, device: torch.device | str, dtype: torch.dtype, quantize: str | None = None
) -> JetNemotronForCausalLM:
    """Create a network with initial random weights on `device` in `dtype`; the same in every process.

    Weights are not zeros, since some hardware multiplies zeros faster. On the device "meta" the weights have
    shapes but no values.
    """
    if quantize is not None:
        return random_quantized(config, quantize, torch.device(device), dtype)
    torch.manual_seed(0)
    with torch.device(device):
        model = cast(Any, JetNemotronForCausalLM)._from_config(config, dtype=dtype)
    return cast(JetNemotronForCausalLM, model.eval().requires_grad_(False))


def check_length(options: Options, most: int) -> None:
    """Raise BenchError if the options need a longer context than `most` tokens."""
    new = options.min_new_tokens
    if options.context + new > most:
        raise BenchError(
            f"{options.context:,} tokens of context and {new:,} new ones are more than the {most:,} "
            "that this model can hold. Take fewer with --context or --tokens."
        )


def random_prompt(vocabulary: int, tokens: int) -> list[int]:
    """Return `tokens` random token ids below `vocabulary`, with a fixed seed."""
    return random.Random(0).choices(range(vocabulary), k=tokens)
