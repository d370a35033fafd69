"""Test `kernels`: every operation of a step is listed once, with its bytes."""

from __future__ import annotations

import gc
import json
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from jet.bench import bandwidth, networks
from jet.bench.cases import kernels
from jet.bench.cli import main
from jet.bench.options import Options
from jet.bench.samples import Samples
from jet.engine.decode_step import StepOp
from jet.modeling.footprint import decode_weight_bytes
from tests.networks import GOLDEN


@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_the_parts_of_a_step_move_its_bytes(name: str) -> None:
    """Check that the parts add up to the step's bytes, except those of norms, biases and decays."""
    network = networks.load(Options("kernels", model=str(GOLDEN / name), context=40))
    parts = network.runner.decode_step.ops
    kinds = kernels.group_by_kind(parts)
    assert sum(map(len, kinds.values())) == len(parts)
    state = network.runner.state_bytes(network.runner.allocate(Options("kernels").sampling))
    vectors = sum(p.nbytes for p in network.model.parameters() if p.ndim == 1)
    moved = sum(part.nbytes for part in parts) - 2 * (state["recurrent"] + state["conv"])
    tied = network.model.lm_head.weight is network.model.model.embed_tokens.weight
    row = network.model.model.embed_tokens.weight[0].nbytes if tied else 0
    expected = decode_weight_bytes(network.model) - network.runner.decode_step.saved_bytes - vectors + row
    assert moved == expected


def test_a_timer_runs_every_part_and_gives_the_time_of_one_round() -> None:
    called: list[str] = []
    parts = [StepOp(name, lambda name=name: called.append(name), 0) for name in ("a", "b")]  # type: ignore[misc]
    seconds = kernels.make_timer(parts, torch.device("cpu"))
    called.clear()
    assert seconds() > 0
    assert called == ["a", "b"] * kernels.REPEATS


def test_what_a_graph_reads_is_kept_with_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a timer keeps the tensors alive whose addresses its graph has stored."""
    graph = SimpleNamespace(replay=lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: nullcontext())
    monkeypatch.setattr(kernels, "synchronize", lambda device: None)
    numbers = torch.zeros(3)
    there = weakref.ref(numbers)
    seconds = kernels.make_timer([StepOp("sum", numbers.sum, 12)], torch.device("cuda"))  # type: ignore[arg-type]
    del numbers
    gc.collect()
    assert there() is not None and seconds() > 0
    del seconds
    gc.collect()
    assert there() is None


def test_kernels_of_a_golden_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy that something else slows down would make the step look impossible.
    monkeypatch.setattr(bandwidth, "copy_bandwidth", lambda size, device: Samples((1e15,)))
    assert main(["kernels", "--model", str(GOLDEN / "tiny-2b"), "--context", "20", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"step", "jet step", "head", "full attention", "window attention"} <= told["figures"].keys()
    assert all(figure["median"] > 0 for figure in told["figures"].values())
    assert told["ratios"]["head"]["unit"] == "B/s" and "full attention" not in told["ratios"]
