"""Test the whole engine on the golden network: exact ids, seeds, memory, failures."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from jet import hardware
from jet.api import Request, RequestError, RequestStats, SamplingParams, TokenChunk
from jet.engine import decoder
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import LocalConfig, create_engine, engine_info
from jet.engine.model_runner import ModelRunner
from jet.modeling import CheckpointError, JetNemotronForCausalLM
from jet.modeling.footprint import decode_weight_bytes, measure_footprint
from jet.ops.backends import numba_backend
from jet.ops.sampling import penalize_repetition
from jet.token_ids import Tokens
from tests.engine.fakes import text_of
from tests.engine.small_tokenizers import END, as_transformers, byte_level
from tests.networks import GOLDEN, GOLDEN_PROMPTS, golden_expectations, golden_model

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.0, max_new_tokens=24)


class IdTokenizer:
    """Reads a prompt as a list of token ids, so that the golden prompts can be given exactly."""

    stop_ids: frozenset[int] = frozenset()

    def encode(self, prompt: str, max_tokens: int, instruction: str = "", cache_salt: str = "") -> Tokens:
        return np.array([int(word) for word in prompt.split()], np.int32)

    def detokenizer(self, prompt: object) -> IdTokenizer:
        return self

    def token_text(self, token: int) -> str:
        return str(token)

    def push(self, token: int) -> str:
        return f"{token} "

    def flush(self) -> str:
        return ""


@pytest.fixture(scope="module")
def model() -> JetNemotronForCausalLM:
    return golden_model("tiny-2b")


def engine_on(model: JetNemotronForCausalLM, prefill_chunk: int = 256, **changes: object) -> LocalEngine:
    info = replace(engine_info("tiny", model, load_s=0.0), **changes)
    runner = ModelRunner(model, frozenset())
    return LocalEngine(runner, IdTokenizer(), info, EngineOptions(prefill_chunk_size=prefill_chunk))


@pytest.fixture(scope="module")
def engine(model: JetNemotronForCausalLM) -> Iterator[LocalEngine]:
    engine = engine_on(model)
    yield engine
    engine.close()


def write(engine: LocalEngine, prompt: str, **sampling: float) -> list[TokenChunk]:
    return list(engine.submit(Request(prompt, replace(GREEDY, **sampling))))


def ids(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def golden_prompts(name: str) -> list[tuple[str, list[int]]]:
    """Return each golden prompt as text for `IdTokenizer`, with the token ids that must follow."""
    expected = golden_expectations(name)
    prompts = [number for checkpoint, number in GOLDEN_PROMPTS if checkpoint == name]
    return [
        (" ".join(map(str, expected[f"{n}.input_ids"].tolist())), expected[f"{n}.greedy_ids"].tolist())
        for n in prompts
    ]


@pytest.mark.parametrize(("name", "prefill_chunk"), [("tiny-2b", 5), ("tiny-2b", 256), ("tiny-4b", 256)])
def test_greedy_stories_are_the_golden_ones(name: str, prefill_chunk: int) -> None:
    engine = engine_on(golden_model(name), prefill_chunk)
    prompts = golden_prompts(name)
    streams = [engine.submit(Request(prompt, GREEDY)) for prompt, _ in prompts]  # all by turns
    for stream, (_, greedy) in zip(streams, prompts, strict=True):
        assert ids(list(stream)) == greedy
    engine.close()


def test_the_same_seed_gives_the_same_story_and_another_another(engine: LocalEngine) -> None:
    settings = {"temperature": 1.0, "repetition_penalty": 1.1}
    stories = [tuple(ids(write(engine, "1 2 3", seed=seed, **settings))) for seed in (5, 5, 6, 7)]
    assert stories[0] == stories[1]
    assert len(set(stories)) == 3
    drawn = write(engine, "1 2 3", **settings)
    again = write(engine, "1 2 3", seed=drawn[-1].stats.seed, **settings)
    assert ids(again) == ids(drawn)


def test_every_step_has_a_random_number_of_its_own(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def uniform(seed: int, step: int, stream: int = 0) -> float:
        if stream == 0:
            drawn.append((seed, step))
        return 0.5

    monkeypatch.setattr("jet.engine.sampler.uniform", uniform)
    write(engine, "1 2 3", temperature=1.0, seed=9, max_new_tokens=5)
    assert drawn == [(9, 0), (9, 1), (9, 2), (9, 3), (9, 4)]


def test_a_story_does_not_depend_on_its_company(engine: LocalEngine) -> None:
    requests = [Request(f"{n} 2 3", SamplingParams(seed=n, max_new_tokens=12)) for n in range(5)]
    alone = [ids(list(engine.submit(request))) for request in requests]
    torch.manual_seed(0)
    together = [engine.submit(request) for request in requests]
    assert [ids(list(stream)) for stream in together] == alone


def test_the_repetition_penalty_is_for_every_token_of_the_story(engine: LocalEngine) -> None:
    story = [1, 2, 3, *ids(write(engine, "1 2 3", repetition_penalty=10.0))]
    plain = [1, 2, 3, *ids(write(engine, "1 2 3"))]
    assert len(set(story)) == len(story) > len(set(plain))


def test_prompts_and_tokens_are_read_with_the_threads_given(
    model: JetNemotronForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    runner = ModelRunner(model, frozenset(), decode_threads=1)
    sequence = runner.allocate(replace(GREEDY, seed=0))
    runner.prefill(sequence, [1, 2])
    runner.prefill(sequence, [3, 4])
    runner.decode_one(sequence)
    runner.decode_one(sequence)
    runner.prefill(runner.allocate(replace(GREEDY, seed=0)), [1])
    assert threads == [4, 1, 4]


def test_end_tokens_are_not_penalized(model: JetNemotronForCausalLM) -> None:
    """Check the end token that starts a document: penalizing it would delay the end of the story."""
    runner = ModelRunner(model, stop_ids=frozenset({0}))
    sequence = runner.allocate(SamplingParams(repetition_penalty=1.2, seed=0))
    runner.prefill(sequence, [0, 5, 9])
    seen = runner._decoder._samplers[sequence]._token_mask  # type: ignore[attr-defined]
    assert seen.nonzero()[:, 1].tolist() == [5, 9]


def test_memory_is_that_of_what_is_remembered(model: JetNemotronForCausalLM) -> None:
    engine = LocalEngine(
        ModelRunner(model, frozenset()), IdTokenizer(), engine_info("tiny", model, load_s=0.0)
    )
    last = write(engine, "1 2 3 4 5", max_new_tokens=40)[-1].stats
    engine.close()
    heads, key, value, window, read = 6, 12, 32, 24, 5 + 40 - 1  # the last token is not read any more
    assert last.recurrent_bytes == 4 * heads * key * value * 4
    assert last.conv_bytes == 4 * heads * value * 4 * 4
    assert last.full_kv_bytes == 2 * 2 * 16 * read * 4
    assert last.window_kv_bytes == 2 * 2 * 16 * window * 4
    footprint = measure_footprint(model)
    assert footprint.cache_bytes(read) == last.state_bytes + last.full_kv_bytes
    assert footprint.full_attention_cache_bytes(read) == len(model.config.layer_types) * 2 * 2 * 16 * read * 4


@pytest.mark.parametrize("ending", ["aborted", "length"])
def test_the_state_is_freed_with_the_request(model: JetNemotronForCausalLM, ending: str) -> None:
    runner = ModelRunner(model, frozenset(), slots=2)
    free = runner._pool.free_tokens
    engine = LocalEngine(runner, IdTokenizer(), engine_info("tiny", model, load_s=0.0))
    tokens = 1000 if ending == "aborted" else 9
    for _ in range(3):  # more than there are slots
        stream = engine.submit(Request("1 2 3", replace(GREEDY, max_new_tokens=tokens)))
        for chunk in stream:
            if chunk.stats.tokens == 8 and ending == "aborted":
                stream.abort()
        assert chunk.stats.finish_reason == ending
    assert runner._pool.free_tokens == free
    engine.close()


@pytest.mark.gpu
def test_on_cuda_the_engine_writes_what_the_bare_network_writes_and_frees_its_state() -> None:
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / "tiny-2b", dtype=torch.float32).to("cuda")
    runner = ModelRunner(model, frozenset())
    while runner.capture_next():  # or else the engine does so between requests, which takes memory
        pass
    sampling = SamplingParams(seed=3, max_new_tokens=50)
    sequence = runner.allocate(sampling)
    runner.prefill(sequence, [1, 2, 3])
    bare = [runner.decode_one(sequence) for _ in range(50)]
    runner.free(sequence)
    read_memory = partial(hardware.read_memory, model.device)
    info = engine_info("tiny", model, load_s=0.0)
    engine = LocalEngine(runner, IdTokenizer(), info, read_memory=read_memory)
    # A thread's first products allocate a workspace, which stays.
    list(engine.submit(Request("1 2 3", sampling)))
    before = torch.cuda.memory_allocated()
    chunks = list(engine.submit(Request("1 2 3", sampling)))
    last = chunks[-1].stats
    assert ids(chunks) == bare
    assert torch.cuda.memory_allocated() == before
    assert last.device_memory_bytes and last.device_peak_bytes and last.device_total_bytes
    # The state lies in the pool, which is there before the first request and after the last.
    assert last.device_memory_bytes == before
    assert before >= runner._pool.nbytes() >= last.state_bytes + last.full_kv_bytes
    assert engine.info().device == "cuda:0"
    engine.close()


class Poisoned:
    """A network that gives NaN after token 13 and runs out of memory at token 17."""

    def __init__(self, model: JetNemotronForCausalLM) -> None:
        self._model, self.device = model, model.device

    def __call__(self, input_ids: torch.Tensor, **given: object) -> object:
        if 17 in input_ids:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        output = self._model(input_ids, **given)
        if 13 in input_ids:
            output.logits = output.logits * math.nan
        return output


def test_alternatives_are_told_to_those_who_ask(engine: LocalEngine, model: JetNemotronForCausalLM) -> None:
    sampling = SamplingParams(seed=4, max_new_tokens=6, temperature=1.0)
    plain = list(engine.submit(Request("5 9 2", sampling)))
    asked = list(engine.submit(Request("5 9 2", sampling, top_logprobs=3)))
    assert ids(plain) == ids(asked) and not any(chunk.logprobs for chunk in plain)
    details = [detail for chunk in asked for detail in chunk.logprobs]
    read = [5, 9, 2]
    for token, detail in zip(ids(asked), details, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([read])).logits[0, -1]
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[read] = True
        logprobs = penalize_repetition(logits, seen, sampling.repetition_penalty).log_softmax(-1)
        assert (detail.sampled.token_id, detail.sampled.text) == (token, str(token))
        assert detail.sampled.logprob == pytest.approx(float(logprobs[token]), abs=1e-3)
        top = logprobs.topk(3)
        assert [other.token_id for other in detail.top_logprobs] == top.indices.tolist()
        assert [other.logprob for other in detail.top_logprobs] == pytest.approx(
            top.values.tolist(), abs=1e-3
        )
        read.append(token)


def test_poisoned_requests_fail_alone(model: JetNemotronForCausalLM) -> None:
    runner = ModelRunner(model, frozenset())
    runner._prefill._model = Poisoned(model)  # type: ignore[assignment, attr-defined]
    free = runner._pool.free_tokens
    engine = LocalEngine(runner, IdTokenizer(), engine_info("tiny", model, load_s=0.0))
    streams = [engine.submit(Request(prompt, GREEDY)) for prompt in ("1 2 3", "1 13", "1 17")]
    good, nan, full = (list(stream)[-1].stats for stream in streams)
    assert runner._pool.free_tokens == free
    engine.close()
    assert good.finish_reason == "length" and good.tokens == 24
    assert nan.error == "The network's output is not a number (NaN or infinite logits)."
    assert full.error == "The device ran out of memory when reading 2 tokens after 0."


def test_a_shorter_context_takes_less_memory_and_is_kept(checkpoint: Path) -> None:
    engine = create_engine(LocalConfig(str(checkpoint), device="cpu", context=300))
    assert engine.info().context == 300
    last = list(engine.submit(Request("a", SamplingParams(max_new_tokens=1000, seed=1, min_p=0.0))))[-1].stats
    assert last.finish_reason in ("context", "stop") and last.tokens + last.prompt_tokens <= 300
    with pytest.raises(RequestError, match="too long"):
        engine.submit(Request("word " * 400))
    engine.close()


def test_where_the_kernels_cannot_be_used_plain_calls_decode(
    model: JetNemotronForCausalLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class OnCuda:
        """A wrapper of the network that claims to be on a GPU."""

        device = torch.device("cuda")

        def __getattr__(self, name: str) -> object:
            return getattr(model, name)

    pytest.importorskip("triton")
    monkeypatch.setattr("jet.ops.availability._recovery_attempts", [])
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # restored afterwards
    monkeypatch.setattr(decoder, "EagerDecoder", lambda *given: "plain")
    monkeypatch.setattr("jet.engine.cuda_graphs.CudaGraphDecoder", lambda *given: 1 / 0)
    assert decoder.make_decoder(OnCuda(), None, frozenset(), frozenset(), 1) == "plain"  # type: ignore[arg-type, comparison-overlap]
    assert "plain PyTorch is slower" in caplog.text

    monkeypatch.setattr("jet.ops.availability._recovery_attempts", [])

    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr("jet.engine.cuda_graphs.CudaGraphDecoder", full)
    with pytest.raises(torch.OutOfMemoryError):
        decoder.make_decoder(OnCuda(), None, frozenset(), frozenset(), 1)  # type: ignore[arg-type]


def test_nothing_is_recorded_for_gradients() -> None:
    model = JetNemotronForCausalLM.from_pretrained(GOLDEN / "tiny-4b")  # its weights want gradients
    runner = ModelRunner(model, frozenset())
    sequence = runner.allocate(replace(GREEDY, seed=0))
    runner.prefill(sequence, [1, 2, 3])
    runner.decode_one(sequence)
    runner.decode_one(sequence)
    assert runner._decoder.step.logits.is_inference()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a golden network with a tokenizer and a model card, like a user's checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for file in (GOLDEN / "tiny-2b").iterdir():
        shutil.copy(file, folder)
    as_transformers(byte_level(), bos_token=END).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def test_a_checkpoint_becomes_a_warm_engine(checkpoint: Path) -> None:
    engine = create_engine(LocalConfig(str(checkpoint), device="cpu"))
    info = engine.info()
    assert (info.model, info.device, info.dtype, info.context) == (str(checkpoint), "cpu", "float32", 4096)
    assert info.license == "Apache-2.0" and info.attention in ("sdpa", "eager")
    assert info.kernels == {
        "gated_delta": "torch",
        "decode": numba_backend().name,
        "sampling": "numba",
        "prefill": "forward",
    }
    assert info.load_s > 0 and info.warmup_s > 0
    assert info.process_memory_bytes and info.device_memory_bytes is None
    assert info.footprint and 0 < info.footprint.weights <= decode_weight_bytes(golden_model("tiny-2b"))
    assert info.bandwidth and 1e8 < info.bandwidth < 1e13
    chunks = list(
        engine.submit(Request("The old lighthouse keeper", SamplingParams(max_new_tokens=30, seed=1)))
    )
    assert chunks[-1].stats.finish_reason in ("length", "stop")
    assert text_of(chunks)
    assert chunks[-1].stats.process_memory_bytes
    engine.close()
    assert engine.info().active_requests == 0


def test_the_same_story_through_the_engine_and_through_transformers(checkpoint: Path) -> None:
    """Compare the texts of greedy decoding, in which both must choose the same tokens."""
    from transformers import AutoTokenizer

    prompt = "Once upon a time <|endoftext|> é👩‍🚀"
    engine = create_engine(LocalConfig(str(checkpoint), device="cpu"))
    text = text_of(list(engine.submit(Request(prompt, GREEDY))))
    engine.close()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokens = tokenizer(
        prompt, split_special_tokens=True, add_special_tokens=False, return_tensors="pt"
    ).input_ids
    tokens = torch.cat([torch.tensor([[0]]), tokens], dim=1)
    output = golden_model("tiny-2b").generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=[0, 371],
    )
    assert text == tokenizer.decode(output[0, tokens.shape[1] :], skip_special_tokens=True)


def test_an_empty_prompt_starts_a_story(checkpoint: Path) -> None:
    engine = create_engine(LocalConfig(str(checkpoint), device="cpu"))
    last = list(engine.submit(Request("", GREEDY)))[-1].stats
    engine.close()
    assert last.finish_reason in ("length", "stop") and last.prompt_tokens == 1


def test_a_checkpoint_without_a_tokenizer_says_so() -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer of .*tiny-2b cannot be loaded"):
        create_engine(LocalConfig(str(GOLDEN / "tiny-2b"), device="cpu"))


def test_a_tokenizer_larger_than_the_network_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        shutil.copy(file, tmp_path)
    big = as_transformers(byte_level())
    big.add_tokens([f"<{n}>" for n in range(512)])
    big.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has \d+ tokens, the network 512"):
        create_engine(LocalConfig(str(tmp_path), device="cpu"))


def test_stats_can_travel_as_plain_data(engine: LocalEngine) -> None:
    last = write(engine, "1 2 3")[-1].stats
    assert RequestStats(**asdict(last)) == last
