"""The llama.cpp baseline: a transformer with a network's sizes and random weights, on this CPU.

llama.cpp does not support Jet-Nemotron. The 2B has the sizes of Qwen2.5-1.5B. The model file is written to a
temporary folder in the nearest format: Q4_0 for int4, Q8_0 for int8, BF16 for bfloat16.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jet.bench.options import BenchError
from jet.modeling.config import JetNemotronConfig

FORMATS = {None: "BF16", "int8": "Q8_0", "int4": "Q4_0"}
_BYTES = 256  # of the tokenizer, which has a token for each; the rest are made up
_SPECIAL = ("<unk>", "<s>", "</s>")


class LlamaCpp:
    """A llama.cpp server in this process.

    Attributes:
        nbytes: the bytes of the model file. Decoding a token reads nearly all of them, since embedding and
            head are one matrix.
    """

    def __init__(self, config: JetNemotronConfig, scheme: str | None, threads: int, context: int) -> None:
        """Write the model file and load it.

        Raises BenchError if a package is not installed, or the vocabulary is too small for the tokenizer.

        Args:
            config: the network whose sizes the model has.
            scheme: "int8", "int4", or None for bfloat16.
            threads: the number of threads.
            context: the most tokens of prompt and completion together.
        """
        for package in ("xllamacpp", "gguf"):
            if importlib.util.find_spec(package) is None:
                raise BenchError(f"The package {package} is not installed: pip install {package} brings it.")
        import xllamacpp

        self._folder = tempfile.TemporaryDirectory(prefix="jet-bench-")
        path = Path(self._folder.name) / "model.gguf"
        write_model(path, config, FORMATS[scheme])
        self.nbytes = path.stat().st_size
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_parallel, parameters.n_ctx, parameters.port = 1, context, 0
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(parameters)

    def tokens_per_second(self, prompt: list[int], tokens: int) -> float:
        """Measure the decode rate of `tokens` tokens after a prompt, in tokens per second."""
        asked = {"prompt": prompt, "n_predict": tokens, "cache_prompt": False, "ignore_eos": True}
        headers = {"Content-Type": "application/json"}
        url = f"{self._server.listening_address}/completion"
        request = urllib.request.Request(url, json.dumps(asked).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            timings = json.loads(answer.read())["timings"]
        return float(timings["predicted_per_second"])


def write_model(path: Path, config: JetNemotronConfig, form: str) -> None:
    """Write a GGUF file of a llama with the sizes of `config` and random weights.

    Embedding and head are tied. `form`: the format of the weights, one of the values of `FORMATS`. Raises
    BenchError if the vocabulary is too small for the invented tokenizer.
    """
    import gguf
    from gguf.quants import quantize

    vocabulary, hidden, kind = config.vocab_size, config.hidden_size, gguf.GGMLQuantizationType[form]
    if vocabulary <= _BYTES + len(_SPECIAL):
        raise BenchError(f"A vocabulary of {vocabulary} is too small for llama.cpp's byte tokens.")
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(hidden)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(vocabulary)
    _add_tokenizer(writer, vocabulary)
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        numbers = random.standard_normal((rows, columns), dtype=np.float32) * 0.02
        writer.add_tensor(name, quantize(numbers, kind), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, np.float32))

    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    matrix("token_embd.weight", vocabulary, hidden)
    norm("output_norm.weight")
    for layer in range(config.num_hidden_layers):
        block = f"blk.{layer}"
        norm(f"{block}.attn_norm.weight")
        norm(f"{block}.ffn_norm.weight")
        matrix(f"{block}.attn_q.weight", queries, hidden)
        matrix(f"{block}.attn_k.weight", keys, hidden)
        matrix(f"{block}.attn_v.weight", keys, hidden)
        matrix(f"{block}.attn_output.weight", hidden, queries)
        matrix(f"{block}.ffn_gate.weight", config.intermediate_size, hidden)
        matrix(f"{block}.ffn_up.weight", config.intermediate_size, hidden)
        matrix(f"{block}.ffn_down.weight", hidden, config.intermediate_size)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, vocabulary: int) -> None:
    import gguf

    kinds = gguf.TokenType
    more = vocabulary - len(_SPECIAL) - _BYTES
    words = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(_BYTES)), *(f"\u2581w{n}" for n in range(more))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * vocabulary)
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*special, *[kinds.BYTE] * _BYTES, *[kinds.NORMAL] * more])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def start(
    config: JetNemotronConfig, scheme: str | None, threads: int, prompt: list[int], tokens: int
) -> tuple[Callable[[], float], int]:
    """Start a server with a transformer of the sizes of `config`.

    Returns a function that measures the decode rate of one run of `tokens` tokens in tokens a second, and the
    bytes of the model file.
    """
    server = LlamaCpp(config, scheme, threads, context=2 * (len(prompt) + tokens))
    first = _BYTES + len(_SPECIAL)
    given = [first + token % (config.vocab_size - first) for token in prompt]
    return lambda: server.tokens_per_second(given, tokens), server.nbytes
