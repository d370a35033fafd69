"""Baselines: other implementations that a benchmark runs in turn with the engine.

`--baseline transformers` runs `generate()` with a streamer that records the time of every token. A token is
on the host when its time is recorded. The time to the first token is therefore that of the prompt, and the
time from the first to the last is that of decoding, as in the engine's own figures. It runs:

- this network with its hybrid cache; `decode` on a CPU runs it once with the engine's number of decode
  threads and once with all threads;
- for `decode` on CUDA, also a network of Qwen2.5-1.5B's shape with random weights, a static cache and a
  decode step that is compiled in the warm-up run ("reduce-overhead", which captures CUDA graphs);
- for `prefill`, also a transformer of this network's sizes (the 2B has Qwen2.5-1.5B's) with random weights.
  Its `forward` is not compiled. It runs with sdpa and, on CUDA, with flash-attn if that is installed.

`--baseline llama.cpp` runs a transformer of this network's sizes in llama.cpp on a CPU; see
jet/bench/llama_cpp_baseline.py. `--baseline torchao` runs only the matrix products of a step, quantized by
torchao, on CUDA, since the rest of `generate()` takes longer than the products; see
jet/bench/torchao_baseline.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from transformers import CompileConfig, GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM
from transformers.generation.streamers import BaseStreamer
from transformers.utils.import_utils import is_flash_attn_2_available

from jet.api import SamplingParams
from jet.bench import llama_cpp_baseline, networks, torchao_baseline
from jet.bench.networks import Network
from jet.bench.options import BenchError, Options
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.config import JetNemotronConfig

_QWEN25_1_5B: dict[str, Any] = {
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 151936,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}


# What a plain transformer and ours both have.
_SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
    "rope_theta",
)


@dataclass
class TokenClock(BaseStreamer):
    """A streamer for `generate()` that records the start and the time of each token in seconds."""

    clock: Callable[[], float] = time.perf_counter
    started: float = 0.0
    times: list[float] = field(default_factory=list)

    def put(self, value: Any) -> None:
        """Record the time: of the start at the first call, of a token at each further call.

        transformers calls this with the prompt before its prefill, then with each token.
        """
        if self.started:
            self.times.append(self.clock())
        self.started = self.started or self.clock()

    def end(self) -> None:
        """Do nothing; transformers calls this after the last token."""

    @property
    def first_token_s(self) -> float:
        """Return the seconds from the prompt to the first token."""
        return self.times[0] - self.started

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens per second from the first token to the last."""
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


@dataclass(frozen=True)
class Baseline:
    """A baseline: its names in the JSON and in the table, and the function that runs it.

    Attributes:
        name: the key in the JSON.
        label: the name in the table.
        run: runs the baseline once and returns the times of its tokens.
        nbytes: the bytes that the baseline reads for a token, to compare bytes a second, too; None to compare
            tokens a second only.
    """

    name: str
    label: str
    run: Callable[[], TokenClock]
    nbytes: int | None = None


def baselines(network: Network, options: Options) -> list[Baseline]:
    """Return the decode baselines that `--baseline` names. Raises BenchError if one does not run here."""
    if options.baseline == "torchao":
        return [_torchao_baseline(network, options)]
    if options.baseline == "llama.cpp":
        return [_llama_cpp_baseline(network, options)]
    run_ours = partial(generate, network.model, network.prompt, options.sampling)
    if network.device.type == "cpu":
        counts = sorted({networks.decode_threads(network.model), network.threads})
        return [
            Baseline(f"generate_{count}", f"generate(), threads: {count}", partial(run_ours, threads=count))
            for count in counts
        ]
    qwen = random_qwen(network)
    return [Baseline("generate", "generate()", run_ours), _compiled_baseline(qwen, network, options)]


def prefill_baselines(network: Network, options: Options) -> list[Baseline]:
    """Return the baselines of `prefill` for `--baseline transformers`."""
    threads = network.threads if network.device.type == "cpu" else None
    run_ours = partial(generate, network.model, network.prompt, options.sampling, threads)
    how = ["sdpa"]
    if network.device.type == "cuda" and is_flash_attn_2_available():
        how.append("flash_attention_2")
    chosen = [Baseline("generate", "generate()", run_ours)]
    for attention in how:
        name = "transformer" if attention == "sdpa" else f"transformer_{attention}"
        model = random_transformer(network.model, attention)
        label = f"a plain transformer of these sizes, {attention}"
        chosen.append(Baseline(name, label, partial(prefill_forward, model, network.prompt, threads)))
    return chosen


def random_transformer(ours: JetNemotronForCausalLM, attention: str) -> PreTrainedModel:
    """Create a Qwen2 network with the sizes, device and dtype of `ours`, and random weights.

    `attention`: the name of an attention implementation of transformers.
    """
    config = Qwen2Config(**{name: getattr(ours.config, name) for name in _SHARED_KEYS})
    with torch.device(ours.device):
        model = Qwen2ForCausalLM._from_config(config, dtype=ours.dtype, attn_implementation=attention)
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


@torch.inference_mode()
def prefill_forward(model: PreTrainedModel, prompt: list[int], threads: int | None = None) -> TokenClock:
    """Run one forward pass over the prompt with a KV cache; return a clock with the time of the first token.

    `threads`: the number of torch's threads on a CPU; None leaves it as it is.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    clock = TokenClock()
    clock.put(prompt)
    ids = torch.tensor([prompt], device=model.device)
    logits = cast(Any, model)(input_ids=ids, use_cache=True, logits_to_keep=1).logits
    clock.put(int(logits[0, -1].argmax()))
    return clock


def _compiled_baseline(qwen: PreTrainedModel, network: Network, options: Options) -> Baseline:
    """Create the baseline that runs `qwen` with a static cache and a compiled decode step."""
    compiled: dict[str, Any] = {
        "cache_implementation": "static",
        "compile_config": CompileConfig(mode="reduce-overhead", fullgraph=False),
    }
    run = partial(generate, qwen, _clip_to_vocabulary(network.prompt, qwen), options.sampling, **compiled)
    return Baseline("qwen2.5-1.5b", "Qwen2.5-1.5B's shape, static cache, compiled", run)


def _torchao_baseline(network: Network, options: Options) -> Baseline:
    if network.device.type != "cuda":
        raise BenchError(
            "--baseline torchao is for CUDA: on a CPU it is slower than weights that are numbers."
        )
    parts, scheme = network.runner.decode_step.ops, str(options.quantize)
    seconds = torchao_baseline.make_product_timer(parts, scheme, network.device, network.model.dtype)
    label = f"nothing but the products of a step, in {scheme} by torchao"
    return Baseline("torchao", label, lambda: TokenClock(times=[0.0, seconds()]))


def _llama_cpp_baseline(network: Network, options: Options) -> Baseline:
    if network.device.type != "cpu":
        raise BenchError("--baseline llama.cpp is for CPUs: choose --device cpu.")
    config, threads = network.model.config, networks.decode_threads(network.model)
    assert isinstance(config, JetNemotronConfig)
    given = config, options.quantize, threads, network.prompt, options.tokens
    tokens_per_second, nbytes = llama_cpp_baseline.start(*given)
    label = f"llama.cpp, a transformer of these sizes in {llama_cpp_baseline.FORMATS[options.quantize]}"
    return Baseline("llama.cpp", label, lambda: TokenClock(times=[0.0, 1 / tokens_per_second()]), nbytes)


def random_qwen(network: Network) -> PreTrainedModel:
    """Create a network of Qwen2.5-1.5B's shape with the device and dtype of `network` and random weights."""
    with torch.device(network.device):
        model = Qwen2ForCausalLM._from_config(Qwen2Config(**_QWEN25_1_5B), dtype=network.model.dtype)
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def generate(
    model: PreTrainedModel,
    prompt: list[int],
    sampling: SamplingParams,
    threads: int | None = None,
    batch: int = 1,
    **more: Any,
) -> TokenClock:
    """Run transformers' `generate()` for `sampling.max_new_tokens` tokens; return the tokens' times.

    Raises BenchError if fewer tokens are generated.

    Args:
        model: the network to run.
        prompt: the token ids of the prompt.
        sampling: the sampling parameters; their seed is not used.
        threads: the number of torch's threads on a CPU; None leaves it as it is.
        batch: the number of rows, all with the same prompt. The clock counts the tokens of one row.
        more: further fields of transformers' GenerationConfig.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    # No token ends the text, whatever the checkpoint says: what is left out here would be taken from there.
    model.generation_config = GenerationConfig(pad_token_id=0)
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens, pad_token_id=0, **_generation_kwargs(sampling), **more
    )
    ids = torch.tensor([prompt] * batch, device=model.device)
    clock = TokenClock()
    torch.manual_seed(0)
    cast(Any, model).generate(
        ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=clock
    )
    if len(clock.times) != sampling.max_new_tokens:
        raise BenchError(f"generate() wrote {len(clock.times)} of {sampling.max_new_tokens} tokens.")
    return clock


def _generation_kwargs(sampling: SamplingParams) -> dict[str, Any]:
    """Convert sampling parameters to the arguments of transformers' `generate`."""
    if sampling.temperature == 0:
        return {"do_sample": False, "repetition_penalty": sampling.repetition_penalty}
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
    }


def _clip_to_vocabulary(prompt: list[int], model: PreTrainedModel) -> list[int]:
    return [token % model.config.vocab_size for token in prompt]
