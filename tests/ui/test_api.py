"""Test `/generate`, `/stats` and `/presets` as programs use them: by gradio_client and plain HTTP."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from jet.api import SamplingParams
from jet.ui.presets import PRESETS
from tests.ui.served import Served, wait_until

DEFAULTS = SamplingParams()
PROMISED = {
    "tokens",
    "tokens_per_second",
    "mean_tokens_per_second",
    "time_to_first_token_s",
    "prompt_tokens",
    "state_bytes",
    "kv_bytes",
    "device_memory_bytes",
    "process_memory_bytes",
    "finish_reason",
    "seed",
}


@pytest.fixture(scope="module")
def client(page_server: Served) -> Iterator[Client]:
    client = Client(page_server.url, verbose=False)
    yield client
    client.close()


def raw_call(url: str, arguments: str) -> str:
    """Return the whole answer to a call whose arguments are JSON text."""
    headers = {"content-type": "application/json"}
    call = f"{url}gradio_api/call/generate"
    joined = httpx.post(call, content=f'{{"data": {arguments}}}', headers=headers, timeout=20)
    joined.raise_for_status()
    return httpx.get(f"{call}/{joined.json()['event_id']}", timeout=20).text


def test_only_what_is_meant_for_programs_is_named(client: Client, served: Served) -> None:
    described = client.view_api(print_info=False, return_format="dict")
    assert set(described["named_endpoints"]) == {"/generate", "/stats", "/presets"}
    assert described["unnamed_endpoints"] == {}


def test_generate_has_the_interface_that_it_had_at_first(client: Client, served: Served) -> None:
    """Compare with `saved/generate.json`, the description by commit 7171864."""
    saved = json.loads((Path(__file__).parent / "saved" / "generate.json").read_text(encoding="utf-8"))
    described = served.demo.get_api_info()["named_endpoints"]["/generate"]
    first, later = described["parameters"][:8], described["parameters"][8:]
    assert first == saved["parameters"]
    assert all(parameter["parameter_has_default"] for parameter in later)
    assert described["returns"] == saved["returns"]
    _, stats = client.predict("A", max_new_tokens=2, api_name="/generate")
    assert [name for name in stats if name in saved["stats"]] == saved["stats"]


def test_every_argument_after_the_prompt_has_its_default(client: Client, served: Served) -> None:
    described = client.view_api(print_info=False, return_format="dict")
    parameters = described["named_endpoints"]["/generate"]["parameters"]
    assert " ".join(parameter["parameter_name"] for parameter in parameters) == (
        "prompt max_new_tokens temperature top_p top_k min_p repetition_penalty seed end_at"
        " banned banned_lists"
    )
    assert not parameters[0]["parameter_has_default"]
    for parameter in parameters[1:]:
        assert parameter["parameter_has_default"]
        default = getattr(DEFAULTS, parameter["parameter_name"], None)
        assert parameter["parameter_default"] == default


def test_predict_with_nothing_but_a_prompt(client: Client, served: Served) -> None:
    served.engine.tokens_per_second = 4000
    story, stats = client.predict("A", api_name="/generate")
    assert served.engine.requests[-1].healing  # a prompt may end within a word
    assert story == "A" + "".join(f" A{index}" for index in range(DEFAULTS.max_new_tokens))
    assert set(stats) >= PROMISED
    assert stats["tokens"] == DEFAULTS.max_new_tokens
    assert stats["finish_reason"] == "length"
    assert stats["state_bytes"] > 0 and stats["kv_bytes"] > 0
    assert stats["device_memory_bytes"] is None
    assert isinstance(stats["seed"], int)


def test_banned_phrases_and_ready_lists_reach_the_engine(client: Client, served: Served) -> None:
    client.predict(
        "A", max_new_tokens=2, banned=["zebra"], banned_lists=["machine talk"], api_name="/generate"
    )
    banned = served.engine.requests[-1].banned
    assert banned[0] == "zebra" and "as an AI" in banned
    with pytest.raises(AppError, match="the lists are stock phrases"):
        client.predict("A", banned_lists=["nonsense"], api_name="/generate")


def test_submit_streams_stories_that_grow_from_the_prompt(client: Client, served: Served) -> None:
    job = client.submit("A", max_new_tokens=100, api_name="/generate")
    stories = [story for story, _ in job]
    assert stories[0] == "A"
    assert len(stories) > 5
    assert all(later.startswith(earlier) for earlier, later in pairwise(stories))
    assert stories[-1].endswith(" A99")


def test_updates_come_about_twenty_times_a_second(client: Client, served: Served) -> None:
    served.engine.tokens_per_second = 500
    started = time.monotonic()
    outputs = list(client.submit("A", max_new_tokens=500, api_name="/generate"))
    per_second = len(outputs) / (time.monotonic() - started)
    assert 10 < per_second < 30


def test_the_seed_is_the_one_asked_for(client: Client, served: Served) -> None:
    _, stats = client.predict("A", max_new_tokens=3, seed=2**62, api_name="/generate")
    assert stats["seed"] == 2**62


def test_seeds_differ_when_none_is_asked_for(client: Client, served: Served) -> None:
    seeds = {client.predict("A", max_new_tokens=1, api_name="/generate")[1]["seed"] for _ in range(3)}
    assert len(seeds) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": "abc"}, "seed must be a whole number from 0 to 9223372036854775807"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": 2**64}, "seed must be a whole number"),
        ({"seed": "9" * 5000}, "seed must be a whole number"),
        ({"temperature": -1}, "temperature must be from 0 to 5, not -1"),
        ({"temperature": None}, "temperature must be a number, not None"),
        ({"temperature": [0.5]}, "temperature must be a number, not [0.5]"),
        ({"temperature": "hot"}, "temperature must be a number, not 'hot'"),
        ({"temperature": True}, "temperature must be a number, not True"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k must be from 0"),
        ({"top_k": 2.5}, "top_k must be a whole number, not 2.5"),
        ({"min_p": 2}, "min_p must be from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be from 0.1 to 10"),
        ({"max_new_tokens": 0}, "max_new_tokens must be from 1"),
        ({"max_new_tokens": 10**9}, "max_new_tokens must be from 1"),
        ({"max_new_tokens": {"a": 1}}, "max_new_tokens must be a whole number"),
        ({"prompt": None}, "prompt must be text, not None"),
        ({"prompt": ["A"]}, "prompt must be text, not ['A']"),
        ({"prompt": 3}, "prompt must be text, not 3"),
    ],
)
def test_bad_arguments_say_what_to_do(
    client: Client, served: Served, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AppError) as raised:
        client.predict(**{"prompt": "A", "max_new_tokens": 2, **arguments}, api_name="/generate")
    assert message in str(raised.value)
    assert len(str(raised.value)) < 250
    story, _ = client.predict("B", max_new_tokens=2, api_name="/generate")
    assert story == "B B0 B1"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(served: Served, value: str) -> None:
    assert not math.isfinite(json.loads(value))
    answer = raw_call(served.url, f'["A", 3, {value}, 0.9, 0, 0.05, 1.0, null]')
    assert "temperature must be a number from 0 to 5" in answer


def test_half_a_character_is_refused(served: Served) -> None:
    answer = raw_call(served.url, r'["A\ud83c", 3, 1.0, 0.9, 0, 0.05, 1.0, null]')
    assert "half a character" in answer and "position 1" in answer


def test_arguments_that_are_left_out_at_the_end_have_their_defaults(served: Served) -> None:
    assert '"finish_reason": "length"' in raw_call(served.url, '["A", 3]')
    assert "didn't receive enough input values" in raw_call(served.url, "[]")


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        " \n",
        "a\0b",
        "🏰👩‍👩‍👧",
        "שלום עולם",
        "a\u202eb",
        "<script>alert(1)</script> ${x} {{y}}",
        "<|endoftext|>",
    ],
)
def test_text_of_every_kind_is_kept_as_it_is(client: Client, served: Served, prompt: str) -> None:
    story, stats = client.predict(prompt, max_new_tokens=2, api_name="/generate")
    assert story.startswith(prompt)
    assert stats["tokens"] == 2


def test_ten_megabytes_get_the_engines_answer(client: Client, served: Served) -> None:
    with pytest.raises(AppError, match="The text has 2000000 tokens, and this model reads at most 1000"):
        client.predict("word " * 2_000_000, api_name="/generate")
    story, _ = client.predict("x" * 10_000_000, max_new_tokens=2, api_name="/generate")
    assert len(story) == 10_000_000 + len(" x0 x1")


def test_whole_numbers_may_come_as_floats(client: Client, served: Served) -> None:
    story, stats = client.predict("A", 2.0, 1, 1, 40.0, 0, 1, 7.0, api_name="/generate")
    assert (story, stats["seed"]) == ("A A0 A1", 7)


def test_cancelling_frees_the_request(client: Client, served: Served) -> None:
    served.engine.tokens_per_second = 20
    job = client.submit("A", api_name="/generate")
    wait_until(lambda: len(job.outputs()) > 3)
    job.cancel()
    assert wait_until(lambda: not served.engine.live) < 2.0
    assert len(served.engine.aborted_at) == 1


def test_cancelling_frees_a_request_in_the_middle_of_its_prefill(client: Client, served: Served) -> None:
    served.engine.prefill_s = 60
    job = client.submit("A", api_name="/generate")
    wait_until(lambda: len(job.outputs()) > 1)
    job.cancel()
    assert wait_until(lambda: not served.engine.live) < 2.0


def test_a_client_that_goes_away_frees_its_request(served: Served) -> None:
    served.engine.prefill_s = 60  # no chunk comes, so only the heartbeat can notice
    call = f"{served.url}gradio_api/call/generate"
    event = httpx.post(call, json={"data": ["A", 3, 1, 0.9, 0, 0.05, 1.0, None]}).json()["event_id"]
    with httpx.stream("GET", f"{call}/{event}") as answer:
        next(answer.iter_text())
        assert len(served.engine.live) == 1
    assert wait_until(lambda: not served.engine.live) < 2.0


def test_two_users_at_once_do_not_mix(client: Client, served: Served) -> None:
    other = Client(served.url, verbose=False)
    jobs = [user.submit(letter, max_new_tokens=60, api_name="/generate") for user, letter in
            ((client, "A"), (other, "B"), (client, "C"), (other, "D"))]  # fmt: skip
    for job, letter in zip(jobs, "ABCD", strict=True):
        expected = letter + "".join(f" {letter}{index}" for index in range(60))
        outputs = list(job)
        assert all(expected.startswith(story) for story, _ in outputs)
        assert outputs[-1][0] == expected
    other.close()


def test_who_waits_in_line_is_told_and_served(client: Client, served: Served) -> None:
    served.engine.slots = 1
    first = client.submit("A", max_new_tokens=60, api_name="/generate")
    wait_until(lambda: len(first.outputs()) > 2)
    second = list(client.submit("B", max_new_tokens=2, api_name="/generate"))
    assert any(stats["queue_position"] == 1 for _, stats in second)
    assert second[-1][0] == "B B0 B1"
    assert first.result()[1]["finish_reason"] == "length"


def test_a_failure_in_the_engine_reaches_its_request_only(client: Client, served: Served) -> None:
    served.engine.tokens_per_second, served.engine.fail_after = 40, 5
    job = client.submit("A", api_name="/generate")
    with pytest.raises(AppError, match="Writing failed: the device caught"):
        job.result()
    *_, (story, stats) = job.outputs()
    assert story.startswith("A A0")
    assert stats["finish_reason"] == "error" and "caught" in stats["error"]
    served.engine.fail_after = None
    assert client.predict("B", max_new_tokens=1, api_name="/generate")[0] == "B B0"


def test_a_request_waits_for_the_model_to_be_loaded(client: Client, served: Served) -> None:
    served.source.unload()
    threading.Timer(0.5, served.source.load).start()
    assert client.predict("A", max_new_tokens=1, api_name="/generate")[0] == "A A0"


def test_a_model_that_cannot_be_loaded_says_so(client: Client, served: Served) -> None:
    served.source.load(error=OSError("no such checkpoint"))
    with pytest.raises(AppError, match="no such checkpoint"):
        client.predict("A", api_name="/generate")
    with pytest.raises(AppError, match="no such checkpoint"):
        client.predict(api_name="/stats")


def test_presets_can_be_passed_on(client: Client, served: Served) -> None:
    presets = client.predict(api_name="/presets")
    assert set(presets) == set(PRESETS)
    client.predict("A", max_new_tokens=2, seed=7, **presets["wild"], api_name="/generate")
    asked = served.engine.requests[-1].sampling
    assert asked == replace(PRESETS["wild"], max_new_tokens=2, seed=7)


def test_stats_tell_what_runs(client: Client, served: Served) -> None:
    stats = client.predict(api_name="/stats")
    assert stats["model"] == "stand-in <model>"
    assert (stats["device"], stats["dtype"], stats["attention"]) == ("cpu", "float32", "sdpa")
    assert stats["kernels"] == {"gated_delta": "torch"}
    assert (stats["load_s"], stats["warmup_s"]) == (1.25, 0.5)
    assert stats["process_memory_bytes"] > 0
    assert stats["device_memory_bytes"] is None
