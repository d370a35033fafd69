"""The API on a free port, over a small network with a tokenizer of its own, or over a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx

from jet.cache.state_pool import PAGE_SIZE
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import engine_info
from jet.engine.model_runner import ModelRunner
from jet.engine.text.tokenizer import StoryTokenizer
from jet.server.hosting import Hosting
from jet.server.standalone import launch_api
from tests.engine.small_tokenizers import as_transformers, byte_level
from tests.networks import golden_model

CONTEXT = 16 * PAGE_SIZE
TEMPLATE = (
    "{% for message in messages %}<|endoftext|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|endoftext|>assistant\n{% endif %}"
)


@dataclass
class Source:
    """Gives a server its engine; `built` is None while the engine is being loaded."""

    built: LocalEngine | None

    @property
    def ready(self) -> bool:
        return self.built is not None

    @property
    def progress(self) -> str | None:
        return "half"

    def engine(self) -> LocalEngine:
        if self.built is None:
            raise RuntimeError("no model")
        return self.built


def small_engine(template: str | None = TEMPLATE, context: int = CONTEXT) -> LocalEngine:
    """Return an engine that writes nonsense quickly, with a chat template."""
    model = golden_model("tiny-2b")
    tokenizer = as_transformers(byte_level())
    tokenizer.chat_template = template
    words = StoryTokenizer(tokenizer, 0, frozenset({0}))
    sizes = {"slots": 8, "cache_slots": 32, "snapshot_interval": 16, "tokens": 160 * PAGE_SIZE}
    runner = ModelRunner(model, frozenset({0}), **sizes, context=context)
    info = replace(engine_info("tests/tiny", model, load_s=0.0), context=context)
    return LocalEngine(runner, words, info, EngineOptions(max_running_requests=8, prefill_chunk_size=64))


@dataclass
class Api:
    """A running server, and an HTTP client for it."""

    url: str
    source: Source
    hosting: Hosting
    client: httpx.Client

    @property
    def engine(self) -> LocalEngine:
        return self.source.engine()

    def post(self, path: str, plain: object, **options: object) -> httpx.Response:
        """Send a POST request with a JSON body."""
        return self.client.post(path, json=plain, **options)


@contextmanager
def served_api(source: Source, hosting: Hosting | None = None) -> Iterator[Api]:
    """Serve the API until the block is left; yield the running server."""
    hosting = hosting or Hosting()
    server = launch_api(source, hosting)
    url = server.url.replace("127.0.0.1", "localhost")
    client = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
    try:
        yield Api(url, source, hosting, client)
    finally:
        client.close()
        server.close()
