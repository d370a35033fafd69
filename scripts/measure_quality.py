"""Measure what quantizing costs in quality on a CPU: python -m scripts.measure_quality FILE [--model FOLDER].

FILE holds held-out stories, as `jet.evaluate` reads them. The script prints the bits per byte of each
quantized form beside those of the checkpoint itself. It also prints how much quantized activations add to the
error of the golden networks' logits. Weights and, in int8 and int4, activations are quantized as the page
does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from jet import load_model
from jet.evaluate import evaluate, load, read_documents
from jet.hardware import limit_threads
from jet.modeling import JetNemotronForCausalLM
from jet.modeling.quantization import SCHEMES
from jet.ops import activations

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
NETWORKS = ("tiny-2b", "tiny-4b")


def bits_per_byte(source: str, documents: list[str], scheme: str | None) -> float:
    """Return the bits per byte of a checkpoint, quantized by `scheme`; None leaves it in float32."""
    return evaluate(*load(source, "cpu", torch.float32, scheme), documents).bits_per_byte


def golden_distances(name: str, scheme: str) -> tuple[float, float]:
    """Return two relative errors of a golden network's logits, quantized by `scheme`.

    The first is with quantized weights alone, the second also with quantized activations.
    """
    model = load_model(GOLDEN / name, dtype=torch.float32, quantize=scheme)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    with mock.patch.object(activations, "compiled_linear", lambda x: None):
        alone = distance(model, expected)
    return alone, distance(model, expected)


@torch.inference_mode()
def distance(model: JetNemotronForCausalLM, expected: dict[str, Tensor]) -> float:
    """Return the distance of a network's logits from the expected ones, relative to their norm."""
    off = norm = 0.0
    for number in range(sum(key.endswith(".logits") for key in expected)):
        wanted = expected[f"{number}.logits"].double()
        logits = model(expected[f"{number}.input_ids"].long()[None]).logits[0].double()
        off += float((logits - wanted).square().sum())
        norm += float(wanted.square().sum())
    return float((off / norm) ** 0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print both tables, each line as soon as it is measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="held-out stories, separated by lines <|endoftext|>")
    parser.add_argument("--model", default=str(ROOT / "assets" / "story-model"))
    options = parser.parse_args(arguments)
    limit_threads()
    for name in NETWORKS:
        for scheme in SCHEMES:
            alone, both = golden_distances(name, scheme)
            print(f"{name}, {scheme}: logits off by {alone:.4f}, with activations {both:.4f}: ", end="")
            print(f"{both / alone:.3f} times as much", flush=True)
    documents = read_documents(options.file)
    own = bits_per_byte(options.model, documents, None)
    print(f"{len(documents)} stories, own numbers: {own:.5f} bits per byte", flush=True)
    for scheme in SCHEMES:
        found = bits_per_byte(options.model, documents, scheme)
        print(f"{scheme}: {found:.5f} bits per byte, {found / own - 1:+.3%}", flush=True)


if __name__ == "__main__":
    main()
