"""Test the command line: meaning and errors of its options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jet.api import SamplingParams
from jet.bench.options import COMMANDS, BenchError, Options, read_options
from jet.bench.requests import POLL_INTERVAL_S
from jet.ops.quantization import SCHEMES
from jet.ui import streamed_request


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_stand_in_one_place(command: str) -> None:
    arguments = (command, "--model", "here")
    assert read_options(arguments) == Options(command, "here", arguments=arguments)


def test_everything_can_be_said() -> None:
    line = (
        "decode --config c.json --random-weights --full-attention --context 9 --tokens 8 --device cpu "
        "--dtype float16 --quantize int4 --runs 7 --warm-up 2 --greedy --baseline transformers"
    )
    options = read_options(line.split())
    assert options == Options(
        command="decode",
        config=Path("c.json"),
        context=9,
        tokens=8,
        device="cpu",
        dtype="float16",
        quantize="int4",
        runs=7,
        warm_up=2,
        greedy=True,
        baseline="transformers",
        full_attention=True,
        arguments=tuple(line.split()),
    )


def test_every_command_can_quantize_in_every_way() -> None:
    for command in COMMANDS:
        for scheme in SCHEMES:
            assert read_options([command, "--model", "m", "--quantize", scheme]).quantize == scheme


def test_sampling_is_the_pages_or_greedy() -> None:
    sampled = read_options(["decode", "--model", "m", "--tokens", "9", "--sampled"])
    assert sampled.sampling == SamplingParams(max_new_tokens=9, seed=0)
    greedy = read_options(["decode", "--model", "m", "--greedy"]).sampling
    assert (greedy.temperature, greedy.repetition_penalty, greedy.max_new_tokens) == (0, 1, 256)


def test_chunks_are_asked_for_as_often_as_by_the_page() -> None:
    assert POLL_INTERVAL_S == streamed_request.UPDATE_INTERVAL_S


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("decode --model m --full-attention", "--full-attention is for the network of a --config"),
        ("decode --model m --baseline torchao", "add --quantize int8 or int4"),
        ("decode --config c.json", "--config and --random-weights go together"),
        ("decode --model m --random-weights", "--config and --random-weights go together"),
    ],
)
def test_what_cannot_be_measured_says_why(line: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        read_options(line.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: COMMAND"),
        ("fly --model m", "invalid choice: 'fly'"),
        ("decode", "one of the arguments --model --config is required"),
        ("decode --model m --config c", "not allowed with"),
        ("kernels --model m --quantize int3", "invalid choice: 'int3'"),
        ("decode --model m --runs 4", "must be a whole number from 5 on, not '4'"),
        ("decode --model m --warm-up 0", "must be a whole number from 1 on, not '0'"),
        ("decode --model m --tokens 1", "must be a whole number from 2 on, not '1'"),
        ("throughput --model m --batch 0", "must be a whole number from 1 on, not '0'"),
        ("decode --model m --batch 2", "unrecognized arguments: --batch"),
        ("stream --model m --baseline transformers", "unrecognized arguments: --baseline"),
        ("prefill --model m --quantize int8 --baseline torchao", "invalid choice: 'torchao'"),
        ("start --model m --context 3", "unrecognized arguments: --context"),
        ("decode --model m --greedy --sampled", "not allowed with"),
    ],
)
def test_what_cannot_be_understood_ends_the_program(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_options(line.split())
    assert re.search(re.escape(message), capsys.readouterr().err)
