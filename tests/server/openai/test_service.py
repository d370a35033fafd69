"""Test keys, limits, isolation of cached states, and the forms of requests and answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jet.api import RequestStats
from jet.engine.stop_strings import StopMatcher
from jet.server.hosting import Hosting
from jet.server.limits import Limits
from jet.server.openai import ApiOptions, Keys, KeysError
from jet.server.openai.answers import event
from jet.server.openai.completions import CompletionForm, Prompt
from jet.server.openai.generation import Delta
from jet.server.openai.ids import random_id, secret_name
from jet.server.openai.paths import READ, SENT
from jet.server.openai.routes import NAME, ROUTES, RouteTable
from jet.server.openai.schema import CompletionRequest
from tests.server.openai.served_api import Api, Source, served_api, small_engine
from tests.ui.served import wait_until

STORY = "The old lighthouse keeper opened the door and the sea came in. " * 8
KEYS = "ann: key-of-ann-8261\n# a comment\n\nkey-without-name-77\n"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(KEYS)
    engine = small_engine()
    with served_api(Source(engine), Hosting(api=ApiOptions(Keys.read(path), ("https://a.example",)))) as api:
        yield api
    engine.close()


def cached(api: Api, headers: dict[str, str] | None = None, fresh: bool = True, **more: object) -> int:
    """Return the number of prompt tokens that came from the prefix cache; `fresh` opens a new connection."""
    body = {"prompt": STORY, "max_tokens": 2, "seed": 1, **more}
    post = httpx.post if fresh else api.client.post
    answer = post(
        f"{api.url if fresh else ''}/v1/completions".replace("//v1", "/v1"), json=body, headers=headers
    )
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


# --- keys ------------------------------------------------------------------------------------------------


def test_only_known_keys_get_in(keyed: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for headers in (
        {},
        {"Authorization": "Bearer key-of-ann-826"},
        {"Authorization": "Basic key-of-ann-8261"},
    ):
        for path in ("/v1/models", "/tokenizer_info", "/api/v1/model"):
            answer = keyed.client.get(path, headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
            assert "8261" not in answer.text and answer.headers["www-authenticate"] == "Bearer"
    for headers in ({"Authorization": "Bearer key-of-ann-8261"}, {"X-API-Key": "key-without-name-77"}):
        assert keyed.client.get("/v1/models", headers=headers).status_code == 200
    body = {"prompt": "key-of-ann-8261", "temperature": "key-of-ann-8261", "key-of-ann-8261": 1}
    refused = keyed.client.post("/v1/completions", json=body, headers={"X-API-Key": "key-without-name-77"})
    assert refused.status_code == 400 and "8261" not in refused.text
    assert keyed.client.get("/health").status_code == 200, "load balancers have no key"
    assert "8261" not in caplog.text
    assert keyed.client.get("/docs").status_code == 404


@pytest.mark.parametrize(
    "text", ["", "# none\n", "ann: short\n", "two words here\n", "ann: \u0430bcdefgh\n", "\xff"]
)
def test_files_that_have_no_usable_keys_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode("latin-1" if text == "\xff" else "utf-8"))
    with pytest.raises(KeysError) as error:
        Keys.read(path)
    assert "abcdefgh" not in str(error.value) and "two words" not in str(error.value)
    with pytest.raises(KeysError, match="cannot be read"):
        Keys.read(tmp_path / "missing")


def test_a_page_with_accounts_lets_no_program_in_without_keys() -> None:
    class Accounts:
        def __call__(self, name: str, password: str) -> bool:
            return False

    engine = small_engine()
    with served_api(Source(engine), Hosting(accounts=Accounts())) as api:  # type: ignore[arg-type]
        answer = api.post("/v1/completions", {"prompt": "a"})
        assert answer.status_code == 401 and "--api-key" in answer.text
    engine.close()


# --- what is shared in memory ----------------------------------------------------------------------------


def test_a_prefix_is_shared_by_one_user_only(api: Api) -> None:
    assert cached(api, user="ann") == 0
    assert cached(api, user="ann") > 90
    assert cached(api, user="bob") == 0 and cached(api) == 0 and cached(api, user="") == 0


def test_a_connection_shares_with_itself_alone(api: Api) -> None:
    prompt = {"prompt": f"Once more. {STORY}"}
    assert cached(api, fresh=False, **prompt) == 0 and cached(api, fresh=False, **prompt) > 90
    assert cached(api, **prompt) == 0 and cached(api, **prompt) == 0


def test_keys_share_nothing_with_each_other(keyed: Api) -> None:
    ann, unnamed = ({"Authorization": f"Bearer {key}"} for key in ("key-of-ann-8261", "key-without-name-77"))
    assert cached(keyed, ann) == 0 and cached(keyed, ann) > 90
    assert (
        cached(keyed, unnamed) == 0
        and cached(keyed, ann, user="x") == 0
        and cached(keyed, ann, user="x") > 90
    )
    assert cached(keyed, unnamed, user="x") == 0


def test_behind_a_proxy_connections_share_nothing() -> None:
    engine = small_engine()
    with served_api(Source(engine), Hosting(proxies=1)) as api:
        assert cached(api, fresh=False) == 0 and cached(api, fresh=False) == 0
    engine.close()


# --- limits ----------------------------------------------------------------------------------------------


def test_limits_of_the_page_hold() -> None:
    engine = small_engine()
    limits = Limits(stories_per_user=1, max_new_tokens=50, characters=2_000, deadline_s=1, body_bytes=9_000)
    with served_api(Source(engine), Hosting(limits)) as api:
        assert "50 new tokens" in api.post("/v1/completions", {"prompt": "a", "max_tokens": 51}).text
        assert "2,000 characters" in api.post("/v1/completions", {"prompt": "a" * 2_001}).text
        large = api.post("/v1/completions", {"prompt": "a" * 9_001})
        assert large.status_code == 413 and large.json()["error"]["type"] == "invalid_request_error"
        body = {"prompt": "a", "max_tokens": 50, "stream": True, "ignore_eos": True}
        with api.client.stream("POST", "/v1/completions", json=body) as stream:
            next(stream.iter_lines())
            second = httpx.post(f"{api.url}v1/completions", json={"prompt": "a"})
            if second.status_code != 200:  # unless the first has ended already
                assert second.status_code == 429 and int(second.headers["retry-after"]) > 0
                assert second.json()["error"]["code"] == "rate_limit_exceeded"
        wait_until(lambda: api.hosting.limiter.active == 0)
        three = api.post("/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 2})
        assert len(three.json()["choices"]) == 3, "one after the other"
        api.hosting.limiter.close()
        assert api.post("/v1/completions", {"prompt": "a"}).status_code == 503
        assert api.client.get("/health").json()["status"] == "closing"
        assert b"jet_" in api.client.get("/metrics").content
    engine.close()


def test_other_origins_may_call_only_where_an_option_says_so(api: Api, keyed: Api) -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    allowed = keyed.client.options("/v1/completions", headers=ask)
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    other = keyed.client.options("/v1/completions", headers={**ask, "Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers
    for path in ("/healthz", "/metrics"):
        plain = keyed.client.get(path, headers={"Origin": "https://a.example"})
        assert "access-control-allow-origin" not in plain.headers
    refused = api.client.options("/v1/completions", headers=ask)
    assert "access-control-allow-origin" not in refused.headers


# --- forms -----------------------------------------------------------------------------------------------


def test_prompts_of_all_forms_are_the_same_prompt(api: Api) -> None:
    ids = api.post("/tokenize", {"prompt": "the sea"}).json()["tokens"]
    given = {"max_tokens": 6, "seed": 2, "temperature": 0.7}
    texts = [
        [
            choice["text"]
            for choice in api.post("/v1/completions", {"prompt": prompt, **given}).json()["choices"]
        ]
        for prompt in ("the sea", ["the sea"], ids, [ids], [ids, ids], ["the sea", "the sea"])
    ]
    assert {text for row in texts for text in row} == {texts[0][0]} and list(map(len, texts)) == [
        1,
        1,
        1,
        1,
        2,
        2,
    ]


def test_absent_and_null_fields_are_openais_defaults(api: Api) -> None:
    given = {"prompt": "the sea", "seed": 4}
    nothing = api.post("/v1/completions", given).json()
    names = (
        "temperature",
        "top_p",
        "n",
        "stream",
        "stop",
        "echo",
        "logprobs",
        "max_tokens",
        "logit_bias",
        "user",
    )
    nulls = api.post("/v1/completions", {**given, **dict.fromkeys(names)}).json()
    neutral = {
        "temperature": 1,
        "top_p": 1,
        "top_k": -1,
        "min_p": 0,
        "repetition_penalty": 1,
        "max_tokens": 16,
    }
    said = api.post("/v1/completions", {**given, **neutral}).json()
    assert nothing["choices"] == nulls["choices"] == said["choices"]
    assert nothing["usage"]["completion_tokens"] <= 16 and nothing["choices"][0]["logprobs"] is None


def test_echo_and_log_probabilities_line_up(api: Api) -> None:
    body = {"prompt": "café \U0001f600 the sea", "max_tokens": 5, "echo": True, "logprobs": 2, "seed": 1}
    (choice,) = api.post("/v1/completions", body).json()["choices"]
    found = choice["logprobs"]
    assert choice["text"].startswith("café \U0001f600 the sea")
    assert (
        len({len(found[name]) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}) == 1
    )
    assert found["token_logprobs"][0] is None and found["text_offset"] == sorted(found["text_offset"])
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        if not token.startswith(("bytes:", "token_id:", "<|")):
            assert choice["text"][offset : offset + len(token)] == token
    silent = api.post("/v1/completions", {**body, "max_tokens": 0}).json()
    assert silent["choices"][0]["text"] == body["prompt"] and silent["usage"]["completion_tokens"] == 0
    frames = api.post("/v1/completions", {**body, "stream": True}).text.split("data: ")[1:-1]
    parts = [json.loads(frame)["choices"][0] for frame in frames]
    assert "".join(part["text"] for part in parts) == choice["text"]
    assert [token for part in parts for token in part["logprobs"]["tokens"]] == found["tokens"]


def test_stop_strings_end_the_text_in_front_of_them(api: Api) -> None:
    body = {"prompt": "the sea", "max_tokens": 40, "seed": 6, "ignore_eos": True}
    whole = api.post("/v1/completions", body).json()["choices"][0]["text"]
    stop = whole[10:13]
    for more in ({}, {"stream": True}):
        answer = api.post("/v1/completions", {**body, "stop": [stop, "never"], **more})
        if more:
            frames = [json.loads(one)["choices"][0] for one in answer.text.split("data: ")[1:-1]]
            text, reason = "".join(one["text"] for one in frames), frames[-1]["finish_reason"]
        else:
            (choice,) = answer.json()["choices"]
            text, reason = choice["text"], choice["finish_reason"]
        assert text == whole[: whole.index(stop)] and reason == "stop"


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_stop_strings_are_found_however_the_text_is_cut(size: int) -> None:
    text = "abcabdabx and so on"
    for stops, wanted in ((["abd", "x"], "abc"), (["b"], "a"), (["zz"], text), (["abdabx", "bda"], "abc")):
        matcher = StopMatcher(stops)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        found = "".join(matcher.push(piece) for piece in pieces) + matcher.push("", last=True)
        assert found == wanted, (stops, size)


def test_ids_of_requests_come_back_unless_they_are_odd(api: Api) -> None:
    assert api.client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert api.client.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_own_servers_describe_themselves(api: Api) -> None:
    page, description = api.client.get("/docs"), api.client.get("/openapi.json").json()
    assert "/v1/completions" in description["paths"] and "temperature" in page.text
    assert "<script" not in page.text and "http" not in page.text.replace("http-equiv", "")


def test_tokens_of_the_clients_choice_end_the_answer(api: Api) -> None:
    body = {"prompt": "the sea", "max_tokens": 30, "seed": 6, "ignore_eos": True, "logprobs": 0}
    whole = api.post("/v1/completions", body).json()["choices"][0]
    names, offsets = whole["logprobs"]["tokens"], whole["logprobs"]["text_offset"]
    last = next(
        place for place in range(5, 30) if names[place] not in names[:place] and names[place].isalpha()
    )
    (token,) = api.post("/tokenize", {"prompt": names[last], "add_special_tokens": False}).json()["tokens"][
        :1
    ]
    assert api.post("/detokenize", {"tokens": [token]}).json()["prompt"] == names[last]
    for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
        answer = api.post("/v1/completions", {**body, "stop_token_ids": [token, 3], **more})
        found = [json.loads(one) for one in answer.text.split("data: ")[1:-1]] if more else [answer.json()]
        text = "".join(one["choices"][0]["text"] for one in found if one["choices"])
        assert text == whole["text"][: offsets[last]] and found[-1]["usage"]["completion_tokens"] == last
    later = {**body, "stop_token_ids": [token], "min_tokens": 30, "logprobs": 0}
    names = api.post("/v1/completions", later).json()["choices"][0]["logprobs"]["tokens"]
    assert len(names) == 30 and whole["logprobs"]["tokens"][last] not in names
    assert api.post("/v1/completions", {**body, "stop_token_ids": [10**6]}).status_code == 400


def test_penalties_keep_an_answer_from_repeating_itself(api: Api) -> None:
    body = {
        "prompt": "the sea the sea",
        "max_tokens": 60,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 0,
    }
    distinct = []
    for more in ({}, {"frequency_penalty": 2}, {"presence_penalty": 2}):
        answer = api.post("/v1/completions", {**body, **more})
        assert "x-ignored-fields" not in answer.headers
        distinct.append(len(set(answer.json()["choices"][0]["logprobs"]["tokens"])))
    assert distinct[0] < min(distinct[1:])
    assert api.post("/v1/completions", {**body, "presence_penalty": 3}).status_code == 400


# --- ends at a sentence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["/v1/completions", "/api/v1/generate"])
def test_an_answer_that_ends_at_a_sentence_is_cut_and_names_the_rest(api: Api, route: str) -> None:
    body = {"prompt": STORY, "max_tokens": 20, "seed": 3, "logit_bias": {"13": 4}}
    for end_at, over in (("none", 0), ("sentence", 30), ("scene", 30)):
        answer = api.client.post(route, json={**body, "end_at": end_at, "logprobs": 1}).json()
        whole = (answer.get("choices") or answer["results"])[0]
        tokens = answer["usage"]["completion_tokens"] if "usage" in answer else whole["completion_tokens"]
        assert whole["finish_reason"] == "length" and tokens <= 20 + over
        assert end_at != "none" or "unfinished" not in whole
        offsets = (whole.get("logprobs") or {"text_offset": []})["text_offset"]
        assert all(offset <= len(whole["text"]) for offset in offsets)
    assert "end_at" in api.client.post(route, json={**body, "end_at": "word"}).text


def test_a_streams_last_frame_names_what_is_to_be_cut(api: Api) -> None:
    body = {"prompt": STORY, "max_tokens": 20, "seed": 3, "end_at": "sentence", "logit_bias": {"13": 4}}
    (whole,) = api.client.post("/v1/completions", json=body).json()["choices"]
    lines = api.client.post("/v1/completions", json={**body, "stream": True}).text.splitlines()
    frames = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
    assert "".join(frame["text"] for frame in frames) == whole["text"] + whole.get("unfinished", "")
    assert frames[-1].get("unfinished") == whole.get("unfinished")


@pytest.mark.parametrize(
    "text", ["word", 'a "quoted\\ \n\u2028 caf\u00e9 \U0001f600', "\ud800 half", "\ue000text\ue000", " "]
)
def test_frames_of_text_alone_are_those_of_plain_json(text: str) -> None:
    fields = CompletionRequest(prompt="a", n=2, stream=True)
    form = CompletionForm('model "m"', fields, [Prompt("a", echoed="a")], None)
    stats = RequestStats(prompt_tokens=3)
    for number in (1, 0, 1):
        for piece, reason in (("first", None), (text, None), (text + "!", None)):
            found = b"".join(form.frames(number, Delta(piece, 1, (), (), reason, stats)))
            choice = {"index": number, "text": piece, "logprobs": None, "finish_reason": reason}
            assert found == event({**form._base, "choices": [choice]})
    (last,) = form.frames(0, Delta(text, 1, (), (), "length", stats))
    assert json.loads(last[6:])["choices"][0]["finish_reason"] == "length"
    assert form._usage.completion_tokens == 10


def test_an_event_is_one_line_for_every_client() -> None:
    text = "a\x85b\u2028c\u2029d\x1ce\x0bf\ng€\N{DRAGON}"
    sent = event({"text": text}).decode()
    assert len(sent.removesuffix("\n\n").splitlines()) == 1
    assert json.loads(sent.removeprefix("data: ")) == {"text": text}


# --- routes ----------------------------------------------------------------------------------------------


def test_every_route_gets_through_and_knows_its_methods(api: Api) -> None:
    table = RouteTable()
    for route in ROUTES:
        path = route.path.replace(NAME, "tests/tiny")
        pattern = READ if route.method == "GET" else SENT
        assert pattern.fullmatch(path), path
        handlers, parameters = table.find(path)
        assert handlers[route.method] is route.answer
        assert parameters == ({"name": "tests/tiny"} if path != route.path else {})
    assert table.find("/v1/models/") == table.find("/v1") == ({}, {})
    refused = api.client.request("OPTIONS", "/api/extra/generate/check")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
    assert refused.json()["error"]["type"] == "invalid_request_error"
    misread = api.client.get("/v1/completions")
    assert misread.status_code == 405 and "but POST" in misread.json()["error"]["message"]
    missing = api.post("/v1/completion", {})
    assert missing.status_code == 404 and "POST /v1/completions" in missing.json()["error"]["message"]
    head = api.client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"") and int(head.headers["content-length"]) > 0


def test_ids_differ_and_secret_names_have_nothing_in_common() -> None:
    ids, names = ({make() for _ in range(1000)} for make in (random_id, secret_name))
    assert len(ids) == len(names) == 1000
    assert {len(one) for one in ids} == {24} and {len(one) for one in names} == {64}
    assert len({name[:8] for name in names}) > 990
