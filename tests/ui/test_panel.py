"""The live panel says what is known, says of the rest that it is not, and never changes its shape."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from jet.engine.types import EngineInfo, RequestStats
from jet.ui import words
from jet.ui.panel import about, panel
from tests.ui.stand_in import StandInEngine

CPU = StandInEngine().info()
GPU = replace(
    CPU,
    device="cuda:0",
    device_memory_bytes=4 * 2**30,
    device_reserved_bytes=5 * 2**30,
    device_peak_bytes=6 * 2**30,
    device_total_bytes=80 * 2**30,
)
DONE = RequestStats(
    phase="done",
    tokens=1234,
    prompt_tokens=56,
    tokens_per_second=71.25,
    mean_tokens_per_second=68.04,
    time_to_first_token_s=0.083,
    recurrent_bytes=27 * 2**20,
    conv_bytes=576 * 2**10,
    window_kv_bytes=2 * 2**20,
    full_kv_bytes=100 * 2**10,
    process_memory_bytes=700 * 2**20,
    finish_reason="length",
    seed=987654321,
)


def text_of(html: str) -> str:
    """What a reader sees, with one space between the pieces."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def tags_of(html: str) -> list[str]:
    """The structure: all tags, without attributes; the bar's segments aside."""
    bar = re.sub(r'(<div class="jet-bar">).*?(</div>)', r"\1\2", html)
    return re.findall(r"</?\w+", bar)


def test_all_numbers_of_a_story_are_shown() -> None:
    shown = text_of(panel(DONE, CPU))
    for expected in (
        "71.2 tokens a second",
        "Mean 68.0 tok/s",
        "Tokens written 1,234",
        "Tokens read 56",
        "First token after 83 ms",
        "Seed 987654321",
        "Memory of this story 29.7 MiB",
        "Recurrent state 27.0 MiB",
        "Convolution 576.0 KiB",
        "KV, sliding windows 2.0 MiB",
        "KV, full attention 100.0 KiB",
        "This process 700.0 MiB",
        "Loaded in 1.25 s",
        "Warmed up in 500 ms",
    ):
        assert expected in shown


def test_a_cpu_says_that_there_is_no_accelerator() -> None:
    assert "Accelerator no accelerator" in text_of(panel(DONE, CPU))


def test_an_accelerator_shows_its_memory() -> None:
    shown = text_of(panel(None, GPU))
    assert "in use 4.0 GiB reserved 5.0 GiB peak 6.0 GiB total 80.0 GiB" in shown


@pytest.mark.parametrize("info", [CPU, GPU])
def test_nothing_moves_from_opening_the_page_to_the_end(info: EngineInfo) -> None:
    phases = [
        None,
        RequestStats(),
        RequestStats(phase="prefill"),
        replace(DONE, phase="decode", finish_reason=None),
        DONE,
    ]
    shapes = [tags_of(panel(stats, info)) for stats in phases]
    assert all(shape == shapes[0] for shape in shapes)


def test_what_is_not_known_is_a_dash() -> None:
    shown = text_of(panel(None, None))
    assert "– tokens a second" in shown
    assert "Seed –" in shown
    assert "This process – Accelerator –" in shown
    assert "Loaded in –" in shown


@pytest.mark.parametrize(
    ("stats", "said"),
    [
        (None, "Ready"),
        (RequestStats(), "Waiting for the model"),
        (RequestStats(queue_position=3), "Waiting in line: 3 ahead"),
        (RequestStats(phase="prefill"), "Reading the story so far"),
        (RequestStats(phase="decode"), "Writing"),
        (RequestStats(phase="done", finish_reason="stop"), "The end: the model closed the story"),
        (RequestStats(phase="done", finish_reason="length"), "Done: all the new tokens are written"),
        (RequestStats(phase="done", finish_reason="context"), "The model’s context is full"),
        (RequestStats(phase="done", finish_reason="aborted"), "Stopped"),
        (RequestStats(phase="done", finish_reason="error", error="Too long."), "That did not work Too long."),
    ],
)
def test_the_state_is_said_in_words(stats: RequestStats | None, said: str) -> None:
    assert text_of(panel(stats, CPU)).startswith(said)


HOSTILE = "<script>alert(1)</script> \" ' ${value} {{value}}"


def test_hostile_text_is_shown_as_text() -> None:
    failed = RequestStats(phase="done", finish_reason="error", error=HOSTILE)
    hostile = replace(CPU, model=HOSTILE, device_name=HOSTILE, licence=HOSTILE)
    for page in (panel(failed, CPU), about(hostile)):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert not set(page) & set("${}")


def test_the_page_names_what_runs_on_what_under_which_licence() -> None:
    assert text_of(about(CPU)) == (
        "stand-in &lt;model&gt; , 22.0 million parameters a processor, 2 threads, float32 licence: Apache-2.0"
    )


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024 * 1000, "1.0 MiB"),
        (2**30, "1.0 GiB"),
        (80 * 2**30, "80.0 GiB"),
        (2**43, "8192.0 GiB"),
    ],
)
def test_bytes_in_words(size: int | None, said: str) -> None:
    assert words.memory(size) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (0.0004, "0 ms"), (0.083, "83 ms"), (0.9996, "1.00 s"), (1.417, "1.42 s"), (37.2, "37 s")],
)
def test_durations_in_words(value: float | None, said: str) -> None:
    assert words.seconds(value) == said
