"""Test llama.cpp as a baseline: it can read our file, and gives figures of tokens and bytes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from jet.bench import llama_cpp_baseline as llama_cpp
from jet.bench.baselines import baselines
from jet.bench.options import BenchError, Options
from tests.networks import small_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no package for it")


@pytest.mark.parametrize("scheme", [None, "int8", pytest.param("int4", marks=pytest.mark.thorough)])
def test_a_transformer_of_our_sizes_writes(scheme: str | None) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "vocab_size": 400}
    config = small_config(**sizes)
    tokens_per_second, nbytes = llama_cpp.start(config, scheme, 1, list(range(20)), 6)
    assert tokens_per_second() > 0
    weights = 400 * 64 + config.num_hidden_layers * 3 * 64 * 96
    assert nbytes > weights * {None: 2, "int8": 1.06, "int4": 0.56}[scheme]


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(BenchError, match="vocabulary of 61"):
        llama_cpp.write_model(tmp_path / "model", small_config(), "Q8_0")


def test_it_is_for_processors() -> None:
    network = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(BenchError, match="for CPUs"):
        baselines(network, Options("decode", "model", baseline="llama.cpp"))  # type: ignore[arg-type]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BenchError, match="pip install xllamacpp"):
        llama_cpp.LlamaCpp(small_config(), None, 1, 9)
