"""Test the API with foreign clients: the `openai` package, and calls as other programs send them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import openai
import pytest
import torch

from tests.networks import golden_model
from tests.server.openai.served_api import Api, Source, served_api, small_engine
from tests.ui.served import wait_until

MODEL = "tests/tiny"


@pytest.fixture
def client(api: Api) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{api.url}v1", api_key="none", max_retries=0) as client:
        yield client


# --- the openai package ----------------------------------------------------------------------------------


def test_openai_lists_the_model(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL and client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("gpt-4")


def test_openai_completions_whole_and_streamed_are_the_same(client: openai.OpenAI) -> None:
    given = {"model": MODEL, "prompt": "The old lighthouse", "max_tokens": 12, "seed": 5, "temperature": 0.9}
    whole = client.completions.create(**given)
    options = {"include_usage": True}
    chunks = list(client.completions.create(**given, stream=True, stream_options=options))
    assert "".join(one.choices[0].text for one in chunks[:-1]) == whole.choices[0].text != ""
    assert [one.choices[0].finish_reason for one in chunks[-2:-1]] == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert whole.usage.completion_tokens == 12 and whole.usage.prompt_tokens_details.cached_tokens == 0


def test_openai_chats_whole_and_streamed(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Who is "}, {"type": "text", "text": "there?"}],
        },
    ]
    given = {"model": MODEL, "messages": messages, "max_completion_tokens": 9, "seed": 1}
    whole = client.chat.completions.create(**given, logprobs=True, top_logprobs=2)
    text = whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant" and text
    content = whole.choices[0].logprobs.content
    assert bytes(byte for one in content for byte in one.bytes).decode("utf-8", "replace") == text
    assert all(len(one.top_logprobs) == 2 for one in content)
    first, *chunks = client.chat.completions.create(**given, stream=True)
    assert first.choices[0].delta.role == "assistant"
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == text
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_openai_async_clients_run_side_by_side(api: Api) -> None:
    async def ask(client: openai.AsyncOpenAI, number: int) -> str:
        prompt = f"Number {number}"
        stream = await client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=8, stream=True, seed=2
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{api.url}v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client, number % 4) for number in range(16)))

    texts = asyncio.run(all_of_them())
    assert texts[:4] * 4 == texts and len(set(texts)) == 4


def test_openai_streams_that_are_closed_free_their_requests(api: Api, client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="On", max_tokens=800, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert api.engine.info().active_requests == 1
    stream.close()
    assert wait_until(lambda: api.engine.info().active_requests == 0) < 5


def test_openai_cancelled_tasks_free_their_requests(api: Api) -> None:
    async def cancel() -> None:
        async with openai.AsyncOpenAI(base_url=f"{api.url}v1", api_key="none") as client:
            call = client.completions.create(
                model=MODEL, prompt="On", max_tokens=800, extra_body={"ignore_eos": True}
            )
            task = asyncio.create_task(call)
            while not api.engine.info().active_requests:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancel())
    assert wait_until(lambda: api.engine.info().active_requests == 0) < 5


def test_openai_errors_are_of_its_own_types(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt="a", temperature=99)
    assert error.value.type == "invalid_request_error" and "temperature" in error.value.message
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model=MODEL, prompt="a " * 10_000)
    assert error.value.code == "context_length_exceeded"
    for unoffered in ({"best_of": 3}, {"suffix": "the end"}):
        with pytest.raises(openai.BadRequestError, match="not offered"):
            client.completions.create(model=MODEL, prompt="a", **unoffered)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}
    for unoffered in ({"tools": [{}]}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(openai.BadRequestError, match="not offered"):
            client.chat.completions.create(**chat, **unoffered)


def test_openai_waits_for_a_model_that_is_being_loaded() -> None:
    engine = small_engine(template=None)
    with served_api(Source(None)) as api:
        assert api.client.get("/health").status_code == 503
        with openai.OpenAI(base_url=f"{api.url}v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as error:
                client.models.list()
            assert error.value.code == "model_loading"
            api.source.built = engine
            assert client.models.list().data[0].id == MODEL
            with pytest.raises(openai.BadRequestError, match="no chat template"):
                client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a"}])
        assert api.client.get("/health").status_code == 200
    engine.close()


# --- lm-evaluation-harness -------------------------------------------------------------------------------


@torch.inference_mode()
def log_probabilities(ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities of the token after each of `ids`, by one plain forward: `[T, V]`."""
    return torch.log_softmax(golden_model("tiny-2b")(input_ids=torch.tensor([ids])).logits[0].float(), -1)


def test_the_calls_of_lm_evaluation_harness(api: Api) -> None:
    """Send the calls of `local-completions` (0.4.13), and check the fields that it reads of the answers."""
    rows = [[5, 9, 200, 17, 3, 44], [7, 8, 6, 31, 90, 2, 77, 41, 5, 3, 3, 19], [12, 13]]
    context_lengths = [4, 3, 1]
    body = {"model": MODEL, "prompt": rows, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234}
    answer = api.post("/v1/completions", {**body, "echo": True}).json()
    for choice, row, length in zip(answer["choices"], rows, context_lengths, strict=True):
        wanted = log_probabilities(row)
        found = choice["logprobs"]["token_logprobs"]
        assert len(found) == len(row) + 1 and found[0] is None
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        for place, (value, top) in enumerate(zip(found[length:-1], tops, strict=True), start=length):
            assert value == pytest.approx(float(wanted[place - 1, row[place]]), abs=1e-3)
            greedy = int(wanted[place - 1].argmax()) == row[place]
            assert (value == max(top.values())) == greedy
    until = {
        "model": MODEL,
        "prompt": [rows[1]],
        "max_tokens": 6,
        "temperature": 0,
        "stop": ["\n"],
        "seed": 1234,
    }
    text = api.post("/v1/completions", until).json()["choices"][0]["text"]
    assert "\n" not in text


def test_the_remote_tokenizer_of_lm_evaluation_harness(api: Api) -> None:
    info = api.client.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|endoftext|>" and "message.role" in info["chat_template"]
    ids = api.post("/tokenize", {"prompt": "<|endoftext|>", "add_special_tokens": False}).json()["tokens"]
    assert ids == [0]
    ids = api.post("/tokenize", {"prompt": "the sea", "add_special_tokens": False}).json()["tokens"]
    assert api.post("/detokenize", {"tokens": [0, *ids]}).json()["prompt"] == "<|endoftext|>the sea"


# --- story tools -----------------------------------------------------------------------------------------


def events(answer: httpx.Response) -> list[str]:
    """Return the data of server-sent events."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


def test_the_calls_of_koboldai_lite(api: Api) -> None:
    """Send the calls of Lite at its start, while it streams or polls, and at a stop."""
    for path, key in (
        ("/api/v1/info/version", "result"),
        ("/api/v1/model", "result"),
        ("/api/v1/config/max_context_length", "value"),
        ("/api/v1/config/max_length", "value"),
        ("/api/extra/true_max_context_length", "value"),
        ("/api/extra/version", "version"),
    ):
        assert key in api.client.get(path).json()
    body = {
        "n": 1,
        "max_context_length": 64,
        "max_length": 10,
        "rep_pen": 1.07,
        "temperature": 0.75,
        "top_p": 0.92,
        "top_k": 100,
        "top_a": 0,
        "typical": 1,
        "tfs": 1,
        "rep_pen_range": 360,
        "rep_pen_slope": 0.7,
        "sampler_order": [6, 0, 1, 3, 4, 2, 5],
        "memory": "A tale.\n",
        "trim_stop": True,
        "genkey": "KCPP1234",
        "min_p": 0,
        "dynatemp_range": 0,
        "dynatemp_exponent": 1,
        "smoothing_factor": 0,
        "banned_tokens": [],
        "render_special": False,
        "logprobs": False,
        "presence_penalty": 0,
        "logit_bias": {},
        "prompt": "The old lighthouse keeper opened the door. " * 20,
        "quiet": True,
        "stop_sequence": ["You:", "\nYou "],
        "use_default_badwordsids": False,
        "bypass_eos": False,
        "sampler_seed": 7,
    }
    whole = api.post("/api/v1/generate", body)
    (result,) = whole.json()["results"]
    assert result["prompt_tokens"] <= 64 and result["text"]
    assert (
        "rep_pen_range" in whole.headers["x-ignored-fields"]
        and "memory" not in whole.headers["x-ignored-fields"]
    )
    streamed = [json.loads(data) for data in events(api.post("/api/extra/generate/stream", body))]
    assert "".join(one["token"] for one in streamed) == result["text"]
    assert streamed[-1]["finish_reason"] and not any(one["finish_reason"] for one in streamed[:-1])
    with api.client.stream(
        "POST", "/api/extra/generate/stream", json={**body, "max_length": 800, "ignore_eos": True}
    ) as stream:
        lines = stream.iter_lines()
        while not next(lines).startswith("data"):
            pass
        checked = httpx.post(f"{api.url}api/extra/generate/check", json={"genkey": "KCPP1234"}).json()
        assert checked["results"][0]["text"]
        stopped = httpx.post(f"{api.url}api/extra/abort", json={"genkey": "KCPP1234"}).json()
        assert stopped["success"] == "true"
        assert sum(line.startswith("data") for line in lines) < 800
    assert api.post("/api/extra/abort", {"genkey": "KCPP1234"}).json()["success"] == "false"
    assert api.post("/api/extra/tokencount", {"prompt": "the sea"}).json()["value"] > 0


MIKUPAD = {
    "prompt": "Once upon a time",
    "seed": 3,
    "temperature": 0.8,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "penalize_nl": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_p": 0.95,
    "top_k": 40,
    "min_p": 0,
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": -1,
    "banned_tokens": [],
    "stream": True,
}


def test_the_calls_of_mikupad(api: Api) -> None:
    """Send the calls of Mikupad's OpenAI-compatible mode (December 2025).

    Mikupad expects one token in each frame, with the likeliest alternatives.
    """
    key = {"Authorization": "Bearer none"}
    (name,) = [one["id"] for one in api.client.get("/v1/models", headers=key).json()["data"]]
    for path in ("/v1/token/encode", "/v1/internal/token-count"):  # of other servers; it then counts nothing
        assert api.post(path, {"text": "Once"}).status_code == 404
    body = {
        **MIKUPAD,
        "model": name,
        "dry_sequence_breakers": '["\\n", ":", "*"]',  # JSON in a string
        "repetition_penalty": 1.1,
        "repetition_penalty_range": 256,
        "ban_eos_token": False,
        "mirostat_mode": 0,
        "logit_bias": {"9": -5.0},
        "max_tokens": 6,
        "logprobs": 10,
        "stop": ["\n\n"],
    }
    *frames, done = events(api.post("/v1/completions", body, headers=key))
    assert done == "[DONE]"
    found = [json.loads(frame)["choices"][0] for frame in frames]
    assert sum(len(one["logprobs"]["tokens"]) for one in found if one["logprobs"]) in (6, 7)
    assert all(len(top) >= 10 for one in found for top in one["logprobs"]["top_logprobs"])
    whole = api.post("/v1/completions", {**body, "stream": False}, headers=key).json()["choices"][0]
    assert "".join(one["text"] for one in found) == whole["text"]
    refused = api.post("/v1/completions", {**body, "temperature": 99})
    assert "temperature" in refused.json()["error"]["message"], "it shows this"
    chat = {**MIKUPAD, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "logprobs": True}
    del chat["prompt"]
    *frames, done = events(api.post("/v1/chat/completions", {**chat, "top_logprobs": 10, "model": name}))
    deltas = [json.loads(frame)["choices"][0] for frame in frames]  # it reads the first of each frame
    shown = [one for one in deltas if one["delta"].get("content")]
    assert shown and all(len(one["logprobs"]["content"][0]["top_logprobs"]) == 10 for one in shown)


def test_the_calls_of_mikupad_to_koboldcpp(api: Api) -> None:
    kobold = {"max_context_length": 512, "max_length": 6, "rep_pen": 1.1, "rep_pen_range": 256, "typical": 1}
    body = {**MIKUPAD, **kobold, "sampler_seed": 3, "use_default_badwordsids": False, "logprobs": 10}
    frames = [json.loads(data) for data in events(api.post("/api/extra/generate/stream", body))]
    assert "".join(frame["token"] for frame in frames)
    first, *others = api.post("/api/extra/tokencount", {"prompt": "Once upon"}).json()["ids"]
    assert isinstance(first, int) and others
    assert api.client.post("/api/extra/abort").json()["success"] == "false", "without a body"


def test_the_calls_of_open_webui(api: Api) -> None:
    """List models with a key that the server ignores, stream a chat, and ask for a title of it."""
    headers = {"Authorization": "Bearer sk-none", "X-OpenWebUI-User-Name": "Ann", "X-OpenWebUI-Chat-Id": "1"}
    name = api.client.get("/v1/models", headers=headers).json()["data"][0]["id"]
    body = {
        "stream": True,
        "model": name,
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        ],
        "stream_options": {"include_usage": True},
        "metadata": {"chat_id": "1"},
        "logit_bias": {"9": 5},
        "max_tokens": 5,
    }
    *frames, done = map(str, events(api.post("/v1/chat/completions", body, headers=headers)))
    first, *_, last = map(json.loads, frames)
    assert done == "[DONE]" and first["choices"][0]["delta"]["role"] == "assistant"
    assert last["choices"] == [] and last["usage"]["completion_tokens"] <= 5
    title = {"model": name, "messages": [{"role": "user", "content": "A title, please."}], "stream": False}
    answer = api.post("/v1/chat/completions", {**title, "max_completion_tokens": 6}, headers=headers)
    assert isinstance(answer.json()["choices"][0]["message"]["content"], str)


def test_the_calls_of_load_generators(api: Api) -> None:
    """Send the calls of GuideLLM (0.8), and of vLLM's benchmark, which reads the usage of the last frame."""
    assert api.client.get("/health").status_code == 200
    body = {
        "model": MODEL,
        "prompt": "Once",
        "max_tokens": 7,
        "stop": None,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "repetition_penalty": 1.0,
        "logprobs": None,
    }
    *frames, _ = map(str, events(api.post("/v1/completions", body)))
    usages = [json.loads(frame)["usage"]["completion_tokens"] for frame in frames]
    assert usages[-1] == 7 and usages == sorted(usages)
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 7}
    answer = api.post("/v1/chat/completions", {**chat, "ignore_eos": True, "stop": None}).json()
    assert answer["usage"]["completion_tokens"] == 7
