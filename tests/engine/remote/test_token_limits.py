"""Test servers' error messages about prompts that are too long, and the limits parsed from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jet.engine.remote.client import RemoteConfig, RemoteEngine
from jet.engine.remote.token_limits import read_refusal
from tests.engine.faulty_server import Answer, FaultyServer, faulty_server
from tests.engine.remote.test_servers import OPTIONS, PLAIN, write

# name: (words where 400 new tokens were asked for, (context, prompt, most new tokens))
WORDS = {
    "OpenAI, new tokens": (
        "max_tokens is too large: 400. This model supports at most 256 completion tokens, "
        "whereas you provided 400.",
        (None, None, 256),
    ),
    "DeepSeek": ("Invalid max_tokens value, the valid range of max_tokens is [1, 256]", (None, None, 256)),
    "Groq": (
        "`max_tokens` must be less than or equal to `256`, the maximum value for `max_tokens` is "
        "less than the `context_window` for this model",
        (None, None, 256),
    ),
    "OpenRouter": (
        "This endpoint's maximum context length is 500 tokens. However, you requested about 600 "
        "tokens (200 of text input, 400 in the output). Please reduce the length of either one, "
        'or use the "middle-out" transform to compress your prompt automatically.',
        (500, 200, None),
    ),
    "vLLM, prompt": (
        "The decoder prompt (length 501) is longer than the maximum model length of 500. Make "
        "sure that `max_model_len` is no smaller than the number of text tokens.",
        (500, 501, None),
    ),
    "vLLM, both": (
        "You passed 200 input tokens and requested 400 output tokens. However, the model's "
        "context length is only 500 tokens, resulting in a maximum input length of 100 tokens. "
        "Please reduce the length of the input prompt. (parameter=input_tokens, value=200)",
        (500, 200, None),
    ),
    "vLLM, new tokens": (
        "max_tokens=400 cannot be greater than max_model_len=max_total_tokens=500. Please "
        "request fewer output tokens.",
        (500, None, None),
    ),
    "SGLang": (
        "The input (501 tokens) is longer than the model's context length (500 tokens).",
        (500, 501, None),
    ),
    "TabbyAPI": ("Prompt length 501 is greater than max_seq_len 500", (500, 501, None)),
    "Fireworks": ("The prompt is too long: 501, model maximum context length: 500", (500, 501, None)),
    "Mistral": (
        "Prompt contains 501 tokens and 0 draft tokens, too large for model with 500 maximum context length",
        (500, 501, None),
    ),
    "LM Studio": (
        "Trying to keep the first 501 tokens when context the overflows. However, the model is "
        "loaded with context length of only 500 tokens, which is not enough. Try to load the "
        "model with a larger context length, or provide a shorter input",
        (500, 501, None),
    ),
    "llama.cpp": (
        "request (501 tokens) exceeds the available context size (500 tokens), try increasing it",
        (500, 501, None),
    ),
    "TGI, new tokens": (
        "Input validation error: `max_new_tokens` must be <= 256. Given: 400",
        (None, None, 256),
    ),
    "TensorRT-LLM": (
        "The sum of prompt length (200.0), query length (0) and max_tokens (400) should not "
        "exceed max_num_tokens (500)",
        (500, 200, None),
    ),
    "TensorRT-LLM, sizes": (
        "default_max_tokens (-1) should be greater than 0, default_max_tokens (-1) = max_seq_len "
        "(500) - splited_prompt_len (501) - query_token_len (0)",
        (500, 501, None),
    ),
    "Cohere": (
        "too many tokens: size limit exceeded by 101 tokens. Try using shorter or fewer inputs. "
        "The limit for this model is 500 tokens.",
        (500, None, None),
    ),
    "Anthropic": (
        "input length and `max_tokens` exceed context limit: 200 + 400 > 500, decrease input "
        "length or `max_tokens` and try again",
        (500, 200, None),
    ),
    "Gemini": (
        "The input token count (501) exceeds the maximum number of tokens allowed (500).",
        (500, 501, None),
    ),
    "LMDeploy": ("The input length 501 exceeds the max session length 500", (500, 501, None)),
    "MLX": ("Prompt too long: 501 > max context 500", (500, 501, None)),
    "KoboldCpp": ("max_length must be between 1 and 256", (None, None, 256)),
    "Ollama": ("input length exceeds the context length", (None, None, None)),
    "another parameter": ("Unknown parameter: 'stream_options.continuous_usage_stats'", (None, None, None)),
    "another number": ("logprobs must be at most 5, got 10 tokens", (None, None, None)),
    "another bound": ("top_k must be -1 or at least 1, got 0. max_tokens 400", (None, None, None)),
    "a rate limit": (
        "Rate limit reached for tokens per min (TPM): Limit 40000, Used 39000, Requested 2000.",
        (None, None, None),
    ),
    "thousands": (
        "This model's maximum context length is 4,096 tokens, however you requested 4,600 tokens "
        "(4,200 in your prompt; 400 for the completion).",
        (4096, 4200, None),
    ),
}


@pytest.mark.parametrize("name", WORDS)
def test_sizes_are_read_from_the_words_of_any_server(name: str) -> None:
    words, sizes = WORDS[name]
    said = read_refusal(words, 400)
    assert (said.context, said.prompt, said.most_new) == sizes
    assert said.anything == any(sizes)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as server:
        server.models = {"data": [{"id": "m"}]}
        yield server


@pytest.mark.parametrize("status", [400, 500])
def test_sizes_beside_the_words_are_read_whatever_the_status(server: FaultyServer, status: int) -> None:
    """Check sizes in fields beside the message, as llama.cpp's server sends them.

    Older versions of that server answer a prompt that is too long with status 500.
    """

    def tell(answer: Answer) -> None:
        if answer.body["max_tokens"] <= 90:
            answer.head()
            answer.word(" on")
            answer.done("length", tokens=answer.body["max_tokens"])
            return
        answer.head(status, "application/json")
        words = "the request exceeds the available context size, try increasing it"
        answer.send(json.dumps({"error": {"message": words, "n_ctx": 100, "n_prompt_tokens": 10}}).encode())

    server.answer(tell)
    engine = RemoteEngine(RemoteConfig(server.url), OPTIONS)
    text, chunks = write(engine, replace(PLAIN, max_new_tokens=200))
    assert (text, chunks[-1].stats.error, server.bodies[-1]["max_tokens"]) == (" on", None, 90)
    assert engine.info().context == 100 and len(server.bodies) == 2
    engine.close()
