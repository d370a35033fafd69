"""Run llama.cpp's own server, from the Python package xllamacpp, on a tiny model of random weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

CONTEXT = 2048
_WIDTH, _HEADS = 64, 2
_WORDS = [f" {first}{second}" for first in "bdfghjklmn" for second in "aeiou"]
_SPECIAL = ["<unk>", "<s>", "</s>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@contextmanager
def llama_server(folder: Path) -> Iterator[str]:
    """Run the server until the block is left; yield the URL of its API.

    Without the packages, the test is skipped with a message; in CI it fails.
    """
    try:
        import gguf
        import xllamacpp
    except ImportError as error:
        message = f"no server of somebody else’s making here ({error}): pip install xllamacpp gguf"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    path = folder / "tiny.gguf"
    _write_model(path, gguf)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel, params.n_ctx = 4, 4 * CONTEXT
    params.cpuparams.n_threads, params.warmup, params.port = 1, False, 0
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


def _write_model(path: Path, gguf: object) -> None:
    """Write a llama of one layer that generates random words and never ends a story by itself."""
    writer = gguf.GGUFWriter(path, "llama")  # type: ignore[attr-defined]
    vocabulary = [*_SPECIAL, *_BYTES, *(word.replace(" ", "▁") for word in _WORDS)]
    kinds = gguf.TokenType  # type: ignore[attr-defined]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(_WORDS)]
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_WIDTH)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, values in _weights(len(vocabulary)).items():
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _weights(tokens: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    first_word = len(_SPECIAL) + len(_BYTES)
    words = draw.normal(size=(tokens, _WIDTH))
    words[:first_word] = 0  # has the middle likelihood, and a hundredfold less after the scaling below
    return {
        "token_embd": draw.normal(size=(tokens, _WIDTH)),
        "output_norm": np.ones(_WIDTH),
        "output": words,
        "blk.0.attn_norm": np.ones(_WIDTH),
        "blk.0.ffn_norm": np.ones(_WIDTH),
        **{f"blk.0.{name}": draw.normal(0, 0.05, size=(_WIDTH, _WIDTH)) for name in square},
    }
