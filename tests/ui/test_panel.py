"""Test that the live panel shows known values, marks unknown ones, and keeps its layout."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from jet.api import EngineInfo, RequestStats
from jet.roofline import Footprint
from jet.ui import format
from jet.ui.panel import GenerationSummary, about, bandwidth_limit, idle_panel, loading, panel
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
REMOTE = replace(
    CPU,
    parameters=None,
    device="remote",
    device_name="another server (sglang)",
    dtype=None,
    load_s=None,
    warmup_s=None,
    placement="remote",
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
    """Return the visible text of HTML, with one space between elements."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def tags_of(html: str) -> list[str]:
    """Return all tags without attributes, except the bar's segments."""
    bar = re.sub(r'(<div class="jet-bar"[^>]*>).*?(</div>)', r"\1\2", html)
    return re.findall(r"</?\w+", bar)


def test_all_numbers_of_a_story_are_shown() -> None:
    shown = text_of(panel(DONE, CPU))
    for expected in (
        "71.2 tokens a second",
        "Mean 68.0 tok/s",
        "Generated tokens 1,234",
        "Prompt tokens 56",
        "Time to first token 83 ms",
        "Seed 987654321",
        "Memory of this story 29.7 MiB",
        "Recurrent state 27.0 MiB",
        "Convolution 576.0 KiB",
        "KV, sliding windows 2.0 MiB",
        "KV, full attention 100.0 KiB",
        "This process 700.0 MiB",
        "Loaded in 1.25 s",
        "Warmed up in 500 ms",
        "Maximum running –",
    ):
        assert expected in shown
    resumed = text_of(panel(replace(DONE, cached_tokens=50), replace(CPU, max_running_requests=16)))
    assert "Prompt tokens 6 of 56" in resumed
    assert "Maximum running 16" in resumed


# 100 bytes of weights, 10 + 5 of state, a window of 4 tokens and two layers that grow; of ten layers.
SMALL = replace(CPU, footprint=Footprint(100, 10, 5, 3, 2, 4, 20), bandwidth=30_000.0, context=100)


def test_the_gauge_is_the_speed_over_that_of_moving_the_bytes() -> None:
    stats = RequestStats(phase="decode", prompt_tokens=8, tokens=2, tokens_per_second=50.0, active_requests=1)
    moved = 100 + 2 * 10 + 2 * 5 + 3 * 2 + 10 * 4
    assert bandwidth_limit(stats, SMALL) == pytest.approx(30_000 / moved)
    shown = panel(stats, SMALL)
    assert "29% of the 170 that memory bandwidth allows" in text_of(shown)
    assert f'class="jet-utilization" style="width:{100 * 50 * moved / 30_000:.2f}%"' in shown


def test_who_write_together_share_one_reading_of_the_weights() -> None:
    state = 2 * 10 + 2 * 5 + 3 * 2 + 10 * 4
    alone = RequestStats(prompt_tokens=8, tokens=2, active_requests=1)
    assert bandwidth_limit(replace(alone, active_requests=4), SMALL) == pytest.approx(
        30_000 / (100 + 4 * state)
    )
    three = RequestStats(prompt_tokens=8, tokens=6, active_requests=3)
    assert bandwidth_limit(three, SMALL, stories=3) == pytest.approx(3 * 30_000 / (100 + 3 * state))


def test_more_than_the_copy_allowed_is_said_and_not_drawn() -> None:
    stats = RequestStats(phase="decode", prompt_tokens=8, tokens=2, tokens_per_second=400.0)
    shown = panel(stats, SMALL)
    assert "Speed limit not well measured" in text_of(shown)
    assert 'class="jet-utilization" style="width:100.00%"' in shown


@pytest.mark.parametrize("unknown", [{"footprint": None}, {"bandwidth": None}])
def test_where_the_floor_is_not_known_that_is_said(unknown: dict[str, None]) -> None:
    shown = text_of(panel(DONE, replace(CPU, **unknown)))
    assert "Speed limit unknown" in shown


def test_the_memory_stands_beside_that_of_full_attention() -> None:
    stats = RequestStats(prompt_tokens=8, tokens=2)
    shown = text_of(panel(stats, SMALL))
    assert "With full attention in every layer 200 B … and the context full 2.0 KiB" in shown
    assert "This model, the context full 423 B" in shown  # 10 + 5 + 4 * 2 + 100 * 4
    assert "With full attention in every layer –" in text_of(panel(None, SMALL))  # nothing is written yet
    assert "This model, the context full –" in text_of(panel(stats, replace(SMALL, footprint=None)))
    three = RequestStats(prompt_tokens=8, tokens=6)
    assert "With full attention in every layer 600 B" in text_of(panel(three, SMALL, stories=3))


def test_the_context_used_and_who_else_writes() -> None:
    stats = replace(DONE, prompt_tokens=8, tokens=42, active_requests=3, queued_requests=2)
    assert "Context used 50 of 100, 50% Running 3, 2 waiting" in text_of(panel(stats, SMALL))
    assert "Running 0" in text_of(panel(None, CPU))
    assert "Context used – Running –" in text_of(panel(RequestStats(), None))


def test_a_cpu_says_that_there_is_no_accelerator() -> None:
    assert "Accelerator no accelerator" in text_of(panel(DONE, CPU))


def test_an_accelerator_shows_its_memory() -> None:
    shown = text_of(panel(None, GPU))
    assert "in use 4.0 GiB reserved 5.0 GiB peak 6.0 GiB total 80.0 GiB" in shown
    bar = panel(None, GPU).partition("Memory of this machine")[2]
    assert 'aria-label="4.0 GiB of 80.0 GiB in use"' in bar
    assert 'class="jet-used" style="width:5.00%"' in bar and 'class="jet-reserved" style="width:1.25%"' in bar


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
        (RequestStats(queue_position=3), "Queued: 3 ahead"),
        (RequestStats(phase="prefill"), "Reading the story so far"),
        (RequestStats(phase="decode"), "Writing"),
        (RequestStats(phase="done", finish_reason="stop"), "The story has ended"),
        (RequestStats(phase="done", finish_reason="length"), "Done"),
        (RequestStats(phase="done", finish_reason="context"), "Context full"),
        (RequestStats(phase="done", finish_reason="aborted"), "Stopped"),
        (RequestStats(phase="done", finish_reason="error", error="Too long."), "That did not work Too long."),
    ],
)
def test_the_state_is_said_in_words(stats: RequestStats | None, said: str) -> None:
    assert text_of(panel(stats, CPU)).startswith(said)


HOSTILE = "<script>alert(1)</script> \" ' ${value} {{value}}"


def test_hostile_text_is_shown_as_text() -> None:
    failed = RequestStats(phase="done", finish_reason="error", error=HOSTILE)
    hostile = replace(CPU, model=HOSTILE, device_name=HOSTILE, license=HOSTILE)
    for page in (panel(failed, CPU), about(hostile)):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        assert not set(page) & set("${}")


def test_the_page_names_what_runs_on_what_under_which_license() -> None:
    assert text_of(about(CPU)) == (
        "stand-in &lt;model&gt; 22.0 million parameters a processor, 2 threads, float32 license: Apache-2.0"
    )


def test_the_page_says_how_the_weights_are_held() -> None:
    line = text_of(about(replace(CPU, quantization="int8")))
    assert "2 threads, float32, int8 weights license" in line


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
    assert format.size(size) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (0.0004, "0 ms"), (0.083, "83 ms"), (0.9996, "1.00 s"), (1.417, "1.42 s"), (37.2, "37 s")],
)
def test_durations_in_words(value: float | None, said: str) -> None:
    assert format.duration(value) == said


def test_of_an_engine_elsewhere_it_says_what_cannot_be_known() -> None:
    stats = RequestStats(phase="decode", tokens=12, tokens_estimated=True, process_memory_bytes=2**20)
    shown = text_of(panel(stats, REMOTE))
    for expected in (
        "Generated tokens about 12",
        "Memory of this story not known here",
        "This process 1.0 MiB",
        "Accelerator not known: the model runs elsewhere",
        "Weights on another server",
    ):
        assert expected in shown
    assert "Loaded in" not in shown
    line = text_of(about(REMOTE))
    assert line == "stand-in <model> another server (sglang) license: Apache-2.0".replace(
        "<", "&lt;"
    ).replace(">", "&gt;")


def test_weights_that_come_on_demand_are_not_called_resident() -> None:
    assert "Weights on demand, for each request" in text_of(panel(None, replace(CPU, placement="zerogpu")))


def test_while_it_is_fetched_the_page_says_how_far() -> None:
    assert (
        text_of(loading("Fetching <a>: 1 of 2 GB"))
        == "Fetching &lt;a&gt;: 1 of 2 GB. You can begin your story."
    )


def test_a_ceiling_that_is_not_sure_is_not_shown() -> None:
    unsure = replace(SMALL, bandwidth_confirmed=False)
    for stats in (None, replace(DONE, tokens_per_second=10.0)):
        shown = panel(stats, unsure)
        assert "Speed limit not well measured" in text_of(shown)
        assert 'class="jet-utilization" style="width:0.00%"' in shown


def test_a_panel_at_rest_tells_of_the_editor_and_of_who_writes_now() -> None:
    stats = replace(DONE, prompt_tokens=8, tokens=2, active_requests=2, queued_requests=1)
    written = GenerationSummary(stats, (1.0, 2.0), 1, "A story. Its end.")
    info = replace(CPU, active_requests=0, queued_requests=0)
    same = text_of(idle_panel(written, "A story. Its end.", info, 99))
    assert re.search(r"Running 0\b", same) and "Generated tokens 2" in same
    assert re.search(rf"Context used 10 of {info.context:,}", same)
    longer = text_of(idle_panel(written, "A story. Its end. And mine.", info, 14))
    assert re.search(r"Context used 14 of", longer) and "Generated tokens 2" in longer
    other = text_of(idle_panel(written, "Another story.", info, 5))
    assert other.startswith("Ready") and "Generated tokens 0" in other and "Context used 5 of" in other
    assert text_of(idle_panel(None, "", info, 0)).startswith("Ready")


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("jet-ai/Jet-Nemotron-2B", "jet-ai/Jet-Nemotron-2B"),
        ("tiny", "tiny"),
        ("/srv/models/tiny", "tiny"),
        ("./tiny", "tiny"),
        ("~/models/tiny/", "tiny"),
        (r"C:\models\nested\tiny", "tiny"),
        ("/opt/jet/assets/story-model", "Story model (small, runs on this computer)"),
    ],
)
def test_a_model_is_shown_without_its_path(model: str, shown: str) -> None:
    assert format.model_name(model) == shown
    line = text_of(about(replace(CPU, model=model)))
    assert line.startswith(shown)
