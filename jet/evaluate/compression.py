"""Measure the bits per byte of a language model on a text file.

    python -m jet.evaluate --model assets/story-model FILE

FILE is UTF-8 text, with a line `<|endoftext|>` between documents. Any causal language model in transformers'
format can be measured, if its tokenizer is in the same folder.

Each document is preceded by the end-of-text token, as in training, and is in context as a whole. The score is
the sum of the nats of all its tokens and of the closing end-of-text token, divided by ln 2 and by the UTF-8
bytes of the documents. Separators and the line breaks around them do not count as bytes, so end-of-text
tokens add nats but no bytes, which is the stricter convention.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import jet
from jet.hardware import DTYPES, limit_threads
from jet.modeling.finite import explain_not_finite
from jet.modeling.quantization import SCHEMES

END_OF_TEXT = "<|endoftext|>"
BATCH_TOKENS = 16384  # tokens of a batch with padding; more are not faster on a CPU
CHUNK_SIZE = 1024  # tokens of a forward pass; longer documents continue from the cache


class EvaluationError(ValueError):
    """Raised for a file or model that cannot be measured; the message says what and why."""


@dataclass(frozen=True)
class Score:
    """Score of a model on a set of documents.

    Attributes:
        bits_per_byte: total nats / ln 2 / `bytes`.
        nats_per_token: mean cross-entropy, end-of-text tokens included.
        documents: the number of documents.
        tokens: the number of predicted tokens, including one end-of-text token per document.
        bytes: UTF-8 bytes of the documents.
        bytes_per_token: compression of the tokenizer, end-of-text tokens not counted.
    """

    bits_per_byte: float
    nats_per_token: float
    documents: int
    tokens: int
    bytes: int
    bytes_per_token: float


def read_documents(path: Path) -> list[str]:
    """Read the documents of a file. Raises `EvaluationError` if it is unreadable or has none."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text: {error}.") from error
    documents: list[list[str]] = [[]]
    for line in text.replace("\r\n", "\n").split("\n"):
        if line == END_OF_TEXT:
            documents.append([])
        else:
            documents[-1].append(line)
    stories = [story for story in ("\n".join(lines).strip("\n") for lines in documents) if story.strip()]
    if not stories:
        raise EvaluationError(f"{path} holds no text.")
    return stories


def load(
    source: str, device: str, dtype: torch.dtype, quantize: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a directory or hub id. Raises `EvaluationError` with the reason.

    `quantize` ("int8", "int4") is supported for Jet-Nemotron only.
    """
    if not Path(source).is_dir() and source.startswith((".", "/", "~", "assets/")):
        raise EvaluationError(f"{source} is not a directory.")
    try:
        model: PreTrainedModel
        if quantize is None:
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        else:
            model = jet.load_model(source, device, dtype, quantize=quantize)
        tokenizer = AutoTokenizer.from_pretrained(source)
        model.to(device).eval()  # type: ignore[arg-type]  # transformers wraps `to` without its types
    except jet.CheckpointError as error:
        raise EvaluationError(str(error)) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise EvaluationError(f"{source} cannot be loaded: {error}") from error
    return model, tokenizer


def quickest_dtype(device: str) -> torch.dtype:
    """Return bfloat16 or float32, whichever multiplies faster here; scores agree in the first four digits."""

    def seconds(dtype: torch.dtype) -> float:
        a, b = (torch.ones(shape, dtype=dtype, device=device) for shape in ((1024, 384), (384, 1024)))
        float((a @ b)[0, 0])  # warm up
        started = time.perf_counter()
        float(sum((a @ b)[0, 0] for _ in range(3)))
        return time.perf_counter() - started

    return torch.bfloat16 if seconds(torch.bfloat16) < seconds(torch.float32) else torch.float32


def to_tokens(tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> list[list[int]]:
    """Tokenize each document, between two end-of-text tokens; special tokens in the text stay plain text.

    Raises EvaluationError if the tokenizer has no end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise EvaluationError("The tokenizer has no end-of-text token.")
    ids = tokenizer(documents, add_special_tokens=False, split_special_tokens=True, verbose=False)[
        "input_ids"
    ]
    return [[tokenizer.eos_token_id, *document, tokenizer.eos_token_id] for document in ids]


def batches(sequences: list[list[int]], budget: int = BATCH_TOKENS) -> Iterator[list[list[int]]]:
    """Yield batches of similar length, the longest first, of at most `budget` tokens with padding.

    A sequence that is longer than the budget is a batch by itself.
    """
    batch: list[list[int]] = []
    for sequence in sorted(sequences, key=len, reverse=True):
        if batch and len(batch[0]) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


@torch.inference_mode()
def total_nats(model: PreTrainedModel, batch: list[list[int]], chunk_size: int = CHUNK_SIZE) -> float:
    """Return the summed nats of every token except the first of each sequence.

    Rows are padded on the right. A causal model cannot see this padding, so no mask is needed. `chunk_size`:
    the tokens of a row that are computed at once.
    """
    length = max(len(sequence) for sequence in batch)
    tokens = torch.tensor(
        [sequence + [0] * (length - len(sequence)) for sequence in batch], device=model.device
    )
    ends = torch.tensor([len(sequence) for sequence in batch], device=model.device)
    counts = torch.arange(1, length, device=model.device) < ends[:, None]
    cache: Any = None
    total = 0.0
    for begin in range(0, length - 1, chunk_size):
        targets = tokens[:, 1:][:, begin : begin + chunk_size]
        inputs = tokens[:, begin : begin + targets.shape[1]]
        output = model(inputs, past_key_values=cache, use_cache=length - 1 > chunk_size)
        cache = output.past_key_values
        total += _nats(output.logits, targets, counts[:, begin : begin + chunk_size])
    return total


def _nats(logits: Tensor, targets: Tensor, counts: Tensor) -> float:
    """Return the summed cross-entropy of `targets` `[B, T]` for `logits` `[B, T, V]`, in nats.

    `counts` `[B, T]` is True for the tokens that count. Rows are computed one by one to save memory for
    float32 logits.
    """
    return sum(
        float(F.cross_entropy(row[count].float(), target[count], reduction="sum"))
        for row, target, count in zip(logits, targets, counts, strict=True)
    )


def evaluate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> Score:
    """Score the model on the documents. Raises `EvaluationError` for NaN or infinite logits."""
    sequences = to_tokens(tokenizer, documents)
    tokens = sum(len(sequence) - 1 for sequence in sequences)
    size = sum(len(document.encode()) for document in documents)
    nats = 0.0
    with tqdm(total=tokens, unit=" tokens", unit_scale=True, disable=None, leave=False) as bar:
        for batch in batches(sequences):
            nats += total_nats(model, batch)
            if not math.isfinite(nats):
                raise EvaluationError(explain_not_finite(model, str(model.config._name_or_path)))
            bar.update(sum(len(sequence) - 1 for sequence in batch))
    return Score(
        bits_per_byte=nats / math.log(2) / size,
        nats_per_token=nats / tokens,
        documents=len(documents),
        tokens=tokens,
        bytes=size,
        bytes_per_token=size / (tokens - len(documents)),
    )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="text, documents separated by a line <|endoftext|>"
    )
    parser.add_argument("--model", required=True, help="directory in transformers' format, or a hub id")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        choices=["auto", *DTYPES],
        default="auto",
        help="auto: the faster of float32 and bfloat16 here",
    )
    parser.add_argument("--quantize", choices=SCHEMES, help="quantize the weights to int8 or int4")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print the score as a sentence, then as JSON. Returns the exit code, 2 if nothing can be measured."""
    options = parse_arguments(arguments)
    started = time.monotonic()
    limit_threads()
    dtype = quickest_dtype(options.device) if options.dtype == "auto" else DTYPES[options.dtype]
    try:
        documents = read_documents(options.file)
        model, tokenizer = load(options.model, options.device, dtype, options.quantize)
        score = evaluate(model, tokenizer, documents)
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    weights = f" with {options.quantize} weights" if options.quantize else ""
    print(
        f"{score.bits_per_byte:.4f} bits per byte on {options.file}: {score.documents} documents, "
        f"{score.bytes} bytes, "
        f"{score.tokens} tokens ({score.bytes_per_token:.3f} bytes each), "
        f"{str(dtype).removeprefix('torch.')}{weights} "
        f"on {options.device}, {time.monotonic() - started:.0f} s"
    )
    asked = {
        "model": options.model,
        "file": str(options.file),
        "dtype": str(dtype),
        "quantize": options.quantize,
    }
    print(json.dumps(asked | asdict(score)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
