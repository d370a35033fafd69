"""llama.cpp on this CPU: a plain transformer with our network's sizes and random weights, as a baseline.

Jet-Nemotron itself is unknown there. For the 2B the sizes are those of Qwen2.5-1.5B. The file is written to a
temporary folder, in the format that comes nearest to ours: Q4_0 to int4, Q8_0 to int8, BF16 to bfloat16.
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
    """A server of llama.cpp in this process.

    Attributes:
        nbytes: of the file, nearly all of which a token reads, since the embedding is the head.
    """

    def __init__(self, config: JetNemotronConfig, scheme: str | None, threads: int, context: int) -> None:
        """Write the file and load it. Raises BenchError if that cannot be done here."""
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
    """Write a GGUF file of a llama with these sizes, tied, with random weights in a format of `FORMATS`.

    Raises BenchError for a vocabulary that has no room for the tokenizer that is made up.
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
    """Start a server; return a function that measures tokens a second of one run, and the file's bytes."""
    server = LlamaCpp(config, scheme, threads, context=2 * (len(prompt) + tokens))
    first = _BYTES + len(_SPECIAL)
    given = [first + token % (config.vocab_size - first) for token in prompt]
    return lambda: server.tokens_per_second(given, tokens), server.nbytes
