"""Test the tuning of a whole step: its choices, and the tilings of the products of a real step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from jet.bench.options import BenchError
from jet.cache.state_pool import StatePool
from jet.engine.decode_step import DecodeStep, StepOp
from jet.modeling import JetNemotronForCausalLM
from jet.ops.backends import OpBackend, reference_backend, triton_backend
from jet.ops.decode_batch import DecodeBatch
from scripts import tune_step
from scripts.tune_kernels import products
from scripts.tune_step import AHEAD, Choice, Outcome, Ways, cut, descend, name_of, product_choices, short
from tests.networks import golden_model, small_config, small_model

# Every product of it is wide enough to be cut in several ways.
WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 4,
    "efficient_attention_config": {
        "jet": {"num_heads": 4, "head_dim": 64, "expand_v": 1.0, "dconv_generator_reduction": 2},
        "swa": {"window_size": 7},
    },
}
FIRST, SECOND = Choice("first", 1, (1, 2, 4)), Choice("second", 10, (10, 20))


def kept(seconds: Callable[[Ways], float], *choices: Choice) -> tuple[dict[str, Any], list[Outcome]]:
    told: list[Outcome] = []
    return descend(choices, seconds, told.append), told


def table(costs: dict[tuple[Any, Any], float]) -> Callable[[Ways], float]:
    """Return a function that gives a step's seconds for each pair of settings."""
    return lambda ways: costs[ways.get("first", 1), ways.get("second", 10)]


# --- what is kept ----------------------------------------------------------------------------------------


def test_a_choice_is_made_beside_those_made_before() -> None:
    """Use settings that interact: 20 is slower than 10 alone, and faster together with 4."""
    seconds = table({(1, 10): 9, (2, 10): 8, (4, 10): 7, (1, 20): 10, (2, 20): 8, (4, 20): 6})
    ways, told = kept(seconds, FIRST, SECOND)
    assert ways == {"first": 4, "second": 20}
    assert [(one.before, one.tried, one.kept) for one in told] == [(9, {2: 8, 4: 7}, 4), (7, {20: 6}, 20)]


@pytest.mark.parametrize("gain", [-1, 0, tune_step.LEAST_GAIN / 2], ids=["slower", "as fast", "noise"])
def test_the_usual_way_is_kept_unless_another_is_clearly_faster(gain: float) -> None:
    ways, told = kept(lambda ways: 1 - gain * len(ways), FIRST, SECOND)
    assert ways == {}
    assert [one.kept for one in told] == [1, 10]


@pytest.mark.parametrize("times", [(5.0, 9.0), (9.0, 5.0)], ids=["lucky first", "lucky then"])
def test_the_best_of_many_must_be_faster_twice(times: tuple[float, float]) -> None:
    taken = iter(times)
    ways, _ = kept(lambda ways: next(taken, 9.0) if ways else 8.0, Choice("first", 1, (4,)))
    assert ways == {}


def test_what_fails_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    def seconds(ways: Ways) -> float:
        if ways.get("first") == 2:
            raise RuntimeError("out of shared memory")
        return 1 / math.prod(way for way in ways.values() if isinstance(way, int))

    ways, told = kept(seconds, FIRST, SECOND)
    assert ways == {"first": 4, "second": 20}
    assert list(told[0].tried) == [4]
    assert capsys.readouterr().err == "first, 2: RuntimeError\n"


def test_where_everything_else_fails_the_usual_way_stays() -> None:
    def seconds(ways: Ways) -> float:
        return 1 / (not ways)

    assert kept(seconds, FIRST, SECOND)[0] == {}


def test_a_choice_that_comes_again_may_go_back_to_the_usual_way() -> None:
    seconds = table({(1, 10): 9, (2, 10): 8, (4, 10): 9, (1, 20): 5, (2, 20): 6, (4, 20): 9})
    ways, told = kept(seconds, FIRST, SECOND, FIRST)
    assert ways == {"second": 20}
    assert [one.kept for one in told] == [2, 20, 1]


def test_a_choice_is_described_with_its_fastest_ways() -> None:
    told = tune_step.describe(Outcome(FIRST, 1e-3, {2: 9e-4, 4: 8e-4, 8: 2e-3}, 4), 2)
    assert told.split("\n")[1:] == [
        "first: usually 1, kept 4; step 1,000.0 µs",
        "       800.0 µs  4",
        "       900.0 µs  2",
    ]


# --- a real step -----------------------------------------------------------------------------------------


def bound(model: JetNemotronForCausalLM, operations: OpBackend) -> DecodeStep:
    pool = StatePool(model.config, 1, 256, model.dtype, "cpu")
    pool.reserve(pool.allocate(), 1)
    with torch.inference_mode():
        return DecodeStep(model, pool, DecodeBatch.make(1, "cpu"), operations)


def with_kernels(model: JetNemotronForCausalLM) -> DecodeStep:
    pytest.importorskip("triton")
    config = model.config
    sizes = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    return bound(model, triton_backend(torch.device("cpu"), 1, *sizes))


@pytest.mark.parametrize("name", ["tiny-2b", "tiny-4b"])
def test_every_product_of_a_step_but_the_jet_step_is_a_choice(name: str) -> None:
    model = golden_model(name)
    parts = with_kernels(model).ops
    choices = product_choices(model.config, parts)
    of_kind = {part.name: name_of(part) for part in parts if part.weight is not None}
    assert of_kind.pop("jet step").startswith("jet_step ")
    assert {choice.name for choice in choices} == set(of_kind.values())


def test_the_usual_way_is_what_the_kernels_take_and_large_products_come_first() -> None:
    from jet.ops.triton.gemv_config import gemv_config_for

    model = small_model(**WIDE, vocab_size=300)
    step = with_kernels(model)
    choices = product_choices(model.config, step.ops)
    assert [choice.name for choice in choices[:2]] == ["norm_swiglu 2048 × 256", "linear_add 256 × 1024"]
    usual = {choice.name: choice.usual for choice in choices}
    head = step.ops[-1].weight
    assert head is not None and usual["norm_linear 300 × 256"] == gemv_config_for("norm_linear", 300, head)
    assert all(choice.ways for choice in choices)


def test_a_step_without_kernels_has_nothing_to_tune() -> None:
    pytest.importorskip("triton")
    model = golden_model("tiny-2b")
    with pytest.raises(BenchError, match="nothing to tune"):
        product_choices(model.config, bound(model, reference_backend()).ops)


@pytest.mark.thorough
def test_a_step_that_is_cut_in_another_way_computes_the_same() -> None:
    from jet.ops.triton.gemv_config import GemvConfig

    logits = []
    for other in (False, True):
        step = with_kernels(small_model())
        parts = step.ops
        if other:
            names = [choice.name for choice in product_choices(small_config(), parts)]
            ways = {name: GemvConfig(4, 16, 2) for name in names}
            parts = cut(parts, ways)
            assert sum(new is not old for new, old in zip(parts, step.ops, strict=True)) > len(names)
        for part in parts:
            part.run()
        logits.append(step.logits.clone())
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_a_short_network_has_the_same_products() -> None:
    config = small_config()
    few = short(config)
    assert few.layer_types == ["jet", "swa", "attn"] and few.num_hidden_layers == 3
    assert config.num_hidden_layers == 4
    assert {(p.kind, p.n, p.c) for p in products(few)} == {(p.kind, p.n, p.c) for p in products(config)}


def test_a_step_is_timed_as_it_is_asked_for() -> None:
    pytest.importorskip("triton")
    from jet.ops.triton import common, gemv_config

    seen, usual = [], common.PREFETCH_BYTES

    def linear_add(config: object = None) -> None:
        options = common.launch_options(1, True, torch.empty(2**24, dtype=torch.int8, device="meta"))
        seen.append((config, options["prefetch_bytes"]))

    weight = torch.empty(3, 5)
    parts = [StepOp("down", partial(linear_add), 60, weight)]
    seconds = tune_step.step_timer(parts, torch.device("cpu"), usual)
    config = gemv_config.GemvConfig(2, 128, 1)
    assert seconds({}) > 0 and seconds({"linear_add 3 × 5": config}) > 0
    assert set(seen) == {(None, usual), (config, usual)}
    seen.clear()
    assert seconds({AHEAD: 2**22}) > 0
    assert seen[0] == (None, 2**22)  # what is captured as a graph
    assert usual == common.PREFETCH_BYTES
    int4 = common.launch_options(1, True, torch.empty(2**24, dtype=torch.uint8, device="meta"))
    assert int4["prefetch_bytes"] == usual // 2, "whose products are over sooner"


# --- the command -----------------------------------------------------------------------------------------


def test_what_keeps_it_from_running_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="cannot be read as JSON"):
        tune_step.main(["--config", str(tmp_path / "config.json")])
    small_config().save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        tune_step.main(["--config", str(tmp_path / "config.json")])


@pytest.mark.gpu
@pytest.mark.timeout(400)
def test_it_tunes_the_step_of_a_small_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_config(**WIDE).save_pretrained(tmp_path)
    tune_step.main(["--config", str(tmp_path / "config.json"), "--quantize", "int4", "--workers", "4"])
    told = capsys.readouterr().out
    assert told.count(f"\n{AHEAD}: usually") == 2
    for kind in ("norm_linear", "norm_swiglu", "linear_add", "heads_linear_add"):
        assert f"\n{kind} " in told
    assert told.count(" µs  GemvConfig(") >= 5
    assert " µs before, " in told
