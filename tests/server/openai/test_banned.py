"""Test banned phrases on every route and under every name that clients use."""

from __future__ import annotations

import json
import re

import pytest
from openai import OpenAI

from jet.api import Request, SamplingParams
from jet.engine.banned_lists import banned_phrases, ready_lists
from jet.engine.remote.client import RemoteConfig
from tests.engine.text.test_banned_phrases import begins
from tests.server.openai.served_api import Api

GIVEN = {"prompt": "the sea", "max_tokens": 24, "seed": 2}
LETTERS = [f"{letter}*" for letter in "abcdefghijklmnopqrstuvwxyz0123456789æøå"]
SIGNS = [chr(code) for code in range(128) if not chr(code).isalnum() and chr(code) != " "]
ALL = [*LETTERS, *SIGNS, *"\N{REPLACEMENT CHARACTER}“”‘’→日"]


@pytest.fixture(scope="module")
def words(api: Api) -> list[str]:
    """Return the words, except the first, that the story has if nothing is banned."""
    text = api.post("/v1/completions", GIVEN).json()["choices"][0]["text"]
    return re.findall(r"[^\W_]+", text)[1:]


@pytest.mark.parametrize("name", ["banned", "banned_strings", "banned_tokens", "bad_words"])
def test_no_phrase_comes_under_any_name_of_the_field(api: Api, words: list[str], name: str) -> None:
    answer = api.post("/v1/completions", {**GIVEN, name: words})
    assert begins(words, answer.json()["choices"][0]["text"], "the sea") is None
    assert "x-ignored-fields" not in answer.headers


def test_several_names_count_together(api: Api, words: list[str]) -> None:
    names = {"banned_strings": words[:1], "banned_tokens": words[1:], "banned": "zebra", "bad_words": [""]}
    text = api.post("/v1/completions", {**GIVEN, **names}).json()["choices"][0]["text"]
    assert begins(words, text, "the sea") is None


def test_streams_and_kobold_are_the_same(api: Api, words: list[str]) -> None:
    whole = api.post("/v1/completions", {**GIVEN, "banned": words}).json()["choices"][0]["text"]
    client = OpenAI(base_url=f"{api.url.rstrip('/')}/v1", api_key="none")
    model = client.models.list().data[0].id
    stream = client.completions.create(model=model, stream=True, extra_body={"banned": words}, **GIVEN)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole
    neutral = {"temperature": 1, "prompt": "the sea", "max_length": 24, "sampler_seed": 2}
    kobold = api.post("/api/v1/generate", {**neutral, "banned_tokens": words}).json()
    assert kobold["results"][0]["text"] == whole


def test_a_text_that_can_only_go_on_in_a_banned_way_says_so(api: Api) -> None:
    given = {**GIVEN, "banned": ALL, "ignore_eos": True}
    (choice,) = api.post("/v1/completions", given).json()["choices"]
    assert (choice["text"].strip(), choice["finish_reason"], choice["stop_reason"]) == ("", "stop", "banned")
    events = api.post("/v1/completions", {**given, "stream": True}).text
    last = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")][-1]
    assert last["choices"][0]["stop_reason"] == "banned"
    chat = {"messages": [{"role": "user", "content": "a"}], "banned": ALL, "ignore_eos": True, "seed": 1}
    (choice,) = api.post("/v1/chat/completions", {**chat, "max_tokens": 9}).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "banned")
    (choice,) = api.post("/v1/completions", GIVEN).json()["choices"]
    assert "stop_reason" not in choice


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"banned": 3}, "banned"),
        ({"banned": ["a" * 201]}, "200 characters"),
        ({"banned": ["a"] * 5 + [str(number) for number in range(1001)]}, "At most 1,000"),
        ({"banned_lists": ["nonsense"]}, "the lists are stock phrases"),
    ],
)
def test_what_cannot_be_banned_is_said(api: Api, fields: dict[str, object], message: str) -> None:
    answer = api.post("/v1/completions", {**GIVEN, **fields})
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_ready_lists_can_be_named(api: Api) -> None:
    answer = api.post("/v1/completions", {**GIVEN, "banned_lists": list(ready_lists())})
    assert answer.status_code == 200
    phrases = banned_phrases(["mine", "", " "], ["stock phrases", "worn endings"])
    assert phrases[0] == "mine" and "a testament to" in phrases and "" not in phrases
    for name, one in ready_lists().items():
        assert one.says.endswith(".") and len(one.phrases) >= 10, name
        assert len(set(map(str.casefold, one.phrases))) == len(one.phrases), name
        for phrase in one.phrases:
            assert begins([phrase], phrase.replace("*", "any")) == 0, phrase


def test_a_page_on_a_remote_engine_of_ours_bans_as_it_does_itself(api: Api, words: list[str]) -> None:
    engine = RemoteConfig(f"{api.url}v1").create()
    try:
        sampling = SamplingParams(
            temperature=1, top_p=1, min_p=0, repetition_penalty=1, max_new_tokens=24, seed=2
        )
        chunks = list(engine.submit(Request("the sea", sampling, banned=tuple(words))))
        whole = api.post("/v1/completions", {**GIVEN, "banned": words}).json()["choices"][0]["text"]
        assert "".join(chunk.text for chunk in chunks) == whole
        chunks = list(engine.submit(Request("the sea", sampling, banned=tuple(ALL))))
        assert chunks[-1].stats.finish_reason in ("banned", "stop")
    finally:
        engine.close()
