"""Test `python -m jet.evaluate`: scores equal an independent computation, and errors are explained."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM

from jet import evaluate
from scripts.prepare_stories import save_tokenizer

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden" / "tiny-2b"
STORIES = [
    "The fox\n\nIt ran. 🦊",
    "“No!” said the owl — and a <|endoftext|> was only text.",
    "x",
    "long " * 60,
]


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    """Write a tokenizer of single bytes, with the end-of-text token first; return its folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {character: i + 1 for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder, 128)
    return folder


@pytest.fixture(scope="module")
def golden(tmp_path_factory, tokenizer_files):
    """Copy the golden network and the tokenizer of `tokenizer_files` to a folder; return it."""
    folder = tmp_path_factory.mktemp("golden")
    for file in [*GOLDEN.glob("config.json"), *GOLDEN.glob("model*"), *tokenizer_files.iterdir()]:
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def transformer(tmp_path_factory, tokenizer_files):
    """Save a network that is not Jet-Nemotron, with a tokenizer; return its folder."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=257, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("transformer")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for file in tokenizer_files.iterdir():
        shutil.copy(file, folder)
    return folder


def straightforward_bits(model, stories):
    """Compute the bits one story at a time, with one forward pass and log-probabilities by index."""
    character = {ch: i + 1 for i, ch in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    byte_names = dict(zip(*_byte_alphabet(), strict=True))
    nats, size = 0.0, 0
    for story in stories:
        ids = [0, *(character[byte_names[byte]] for byte in story.encode()), 0]
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nats -= sum(float(logs[i, token]) for i, token in enumerate(ids[1:]))
        size += len(story.encode())
    return nats / math.log(2) / size


def _byte_alphabet():
    """Return GPT-2's byte alphabet: visible bytes map to themselves, the others to 256 and up."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return visible + hidden, [chr(b) for b in visible] + [chr(256 + i) for i in range(len(hidden))]


def write(folder, stories):
    path = folder / "stories.txt"
    path.write_bytes("\n<|endoftext|>\n".join(stories).encode())
    return path


@pytest.mark.parametrize("name", ["golden", "transformer"])
def test_equals_a_straightforward_computation(name, request, tmp_path, capsys):
    folder = request.getfixturevalue(name)
    assert (
        evaluate.main(
            ["--model", str(folder), str(write(tmp_path, STORIES)), "--device", "cpu", "--dtype", "float32"]
        )
        == 0
    )
    words, line = capsys.readouterr().out.strip().splitlines()
    score = json.loads(line)
    model = evaluate.load(str(folder), "cpu", torch.float32)[0]
    expected = straightforward_bits(model, STORIES)
    assert score["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert f"{expected:.4f} bits per byte" in words
    size = sum(len(story.encode()) for story in STORIES)
    assert (score["documents"], score["bytes"], score["tokens"]) == (4, size, size + 4)
    assert score["bytes_per_token"] == 1.0


def test_quantized_weights_cost_a_little_and_are_for_our_networks(golden, transformer, tmp_path, capsys):
    given = [str(write(tmp_path, STORIES)), "--device", "cpu", "--dtype", "float32"]
    scores = {}
    for scheme in (None, "int8", "int4"):
        quantize = [] if scheme is None else ["--quantize", scheme]
        assert evaluate.main(["--model", str(golden), *given, *quantize]) == 0
        words, line = capsys.readouterr().out.strip().splitlines()
        scores[scheme] = json.loads(line)
        assert scores[scheme]["quantize"] == scheme and (f"with {scheme} weights" in words) == bool(scheme)
    bits = {scheme: score["bits_per_byte"] for scheme, score in scores.items()}
    assert bits["int8"] == pytest.approx(bits[None], rel=0.05) and bits["int8"] != bits[None]
    assert bits["int4"] == pytest.approx(bits[None], rel=0.5)
    assert evaluate.main(["--model", str(transformer), *given, "--quantize", "int8"]) == 2
    assert "is not a Jet-Nemotron checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["golden", "transformer"])
def test_pieces_of_any_size_give_the_same(name, request):
    model, tokenizer = evaluate.load(str(request.getfixturevalue(name)), "cpu", torch.float32)
    batch = evaluate.to_tokens(tokenizer, ["a short one", "and this one is a good deal longer " * 2])
    whole = evaluate.total_nats(model, batch, chunk_size=10_000)
    for chunk_size in (7, 64):
        assert evaluate.total_nats(model, batch, chunk_size) == pytest.approx(whole, rel=1e-5)


def test_the_automatic_type_changes_the_score_by_little(transformer, tmp_path, capsys):
    scores = []
    for dtype in ("auto", "float32", "bfloat16"):
        evaluate.main(["--model", str(transformer), str(write(tmp_path, STORIES)), "--dtype", dtype])
        scores.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert scores[0]["dtype"] in ("torch.float32", "torch.bfloat16")
    assert scores[0]["bits_per_byte"] == pytest.approx(scores[1]["bits_per_byte"], rel=2e-3)
    assert scores[2]["bits_per_byte"] == pytest.approx(scores[1]["bits_per_byte"], rel=2e-3)


def test_batching_keeps_every_sequence_and_its_budget():
    sequences = [[1] * length for length in (5, 900, 30, 30, 31, 2)]
    found = list(evaluate.batches(sequences, budget=100))
    assert sorted(len(s) for batch in found for s in batch) == [2, 5, 30, 30, 31, 900]
    assert all(len(batch) == 1 or max(map(len, batch)) * len(batch) <= 100 for batch in found)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"one\n<|endoftext|>\ntwo\n", ["one", "two"]),
        (b"<|endoftext|>\r\none\r\n<|endoftext|>\r\n<|endoftext|>\r\n", ["one"]),
        (b"a <|endoftext|> inside\n\nstays", ["a <|endoftext|> inside\n\nstays"]),
    ],
)
def test_documents_stand_between_separator_lines(raw, expected, tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(raw)
    assert evaluate.read_documents(path) == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "No such file"),
        (b"", "holds no text"),
        (b"\n<|endoftext|>\n \n", "holds no text"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_files_that_cannot_be_measured(raw, message, transformer, tmp_path, capsys):
    path = tmp_path / "file.txt"
    if raw is not None:
        path.write_bytes(raw)
    assert evaluate.main(["--model", str(transformer), str(path)]) == 2
    assert message in capsys.readouterr().err


def test_models_that_cannot_be_loaded(golden, tmp_path, capsys):
    stories = write(tmp_path, ["text"])
    assert evaluate.main(["--model", str(tmp_path / "nowhere"), str(stories)]) == 2
    assert "is not a directory" in capsys.readouterr().err
    broken = tmp_path / "broken"
    shutil.copytree(golden, broken)
    for file in broken.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:1000])
    assert evaluate.main(["--model", str(broken), str(stories)]) == 2
    assert "truncated" in capsys.readouterr().err
