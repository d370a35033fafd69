"""Test that stories go on after a restart: a new engine restores states from disk and writes the same."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from jet import JetNemotronForCausalLM
from jet.api import Request, RequestStats, SamplingParams, StoresStates
from jet.cache import disk_store
from jet.cache.disk_store import DiskStore, StateFolder, durable_salt
from jet.cache.pinned import release_memory, untouched_zeros
from jet.cache.state_copy import copies_like, copy_in, copy_out
from jet.cache.state_pool import PAGE_SIZE, StatePool
from jet.engine.engine import EngineOptions, LocalEngine
from jet.engine.loading import engine_info, state_identity
from jet.engine.model_runner import ModelRunner
from jet.engine.stored_states import open_store
from tests.engine.test_local_story import IdTokenizer
from tests.networks import random_ids, small_model

ANN, BEN = durable_salt("ann"), durable_salt("ben")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def model(request: pytest.FixtureRequest) -> JetNemotronForCausalLM:
    dtype = torch.float32 if request.param == "cpu" else torch.bfloat16
    return small_model(max_position_embeddings=2048).to(request.param, dtype).requires_grad_(False)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setattr(disk_store, "SPARE", 0)
    return StateFolder(tmp_path / "states", 10**9)


class Page:
    """An engine with its stored states, as one run of the page has it."""

    def __init__(self, model: JetNemotronForCausalLM, folder: StateFolder | None, slots: int = 8) -> None:
        store = None if folder is None else open_store(folder, state_identity(model))
        self.runner = ModelRunner(
            model, frozenset(), slots=2, tokens=8192, cache_slots=slots, disk_store=store
        )
        self.states = self.runner.stored_states
        options = EngineOptions(prefill_chunk_size=64, idle_before_capture_s=0.01)
        info = engine_info("small", model, load_s=0.0)
        self.engine = LocalEngine(self.runner, IdTokenizer(), info, options, states=self.states)

    def write(self, prompt: list[int], salt: str = ANN, tokens: int = 20) -> tuple[list[int], RequestStats]:
        sampling = SamplingParams(max_new_tokens=tokens, seed=3, temperature=1.0)
        chunks = list(self.engine.submit(Request(" ".join(map(str, prompt)), sampling, cache_salt=salt)))
        assert chunks[-1].stats.error is None
        return [token for chunk in chunks for token in chunk.token_ids], chunks[-1].stats


@pytest.fixture
def story(model: JetNemotronForCausalLM) -> list[int]:
    return random_ids(model, 700).tolist()


def restart(page: Page, model: JetNemotronForCausalLM, folder: StateFolder | None) -> Page:
    page.engine.close()
    return Page(model, folder)


def test_a_story_goes_on_after_a_restart_bit_for_bit(
    model: JetNemotronForCausalLM, folder: StateFolder, story: list[int]
) -> None:
    page = Page(model, folder)
    written, stats = page.write(story)
    assert stats.cached_tokens == 0
    same = page.write(story)[0]  # Retry, within the process
    whole = [*story, *written]
    expected = page.write([*whole, 5])[0]
    page = restart(page, model, folder)
    found, stats = page.write([*whole, 5])
    assert found == expected
    assert stats.prompt_tokens - stats.cached_tokens <= 2, "only the last token and the new one are prefilled"
    found, stats = page.write([*whole[:-4], 7])  # an edit of the last words
    assert stats.cached_tokens >= len(whole) - 24
    page = restart(page, model, folder)
    assert page.write(story)[0] == same == written
    page.engine.close()
    if model.device.type == "cpu":  # where a token's state does not depend on how it was computed
        alone = Page(model, None)
        assert alone.write([*whole, 5])[0] == expected
        alone.engine.close()


@pytest.mark.parametrize("length", [3, 7, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1])
def test_copies_hold_a_state_and_nothing_of_others(model: JetNemotronForCausalLM, length: int) -> None:
    with torch.inference_mode():
        pool = StatePool(model.config, 3, 4 * PAGE_SIZE, model.dtype, model.device)
        for memory in pool.layers:
            for tensor in vars(memory).values():
                tensor[:-1] = torch.nan  # what others have left
        slot, other = pool.allocate(), pool.allocate()
        pool.reserve(slot, length)
        ids = random_ids(model, 1, length).to(model.device)
        cache = pool.cache(slot, 0)
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        copies = copy_out(pool, slot, length)
        assert all(torch.isfinite(copy).all() for copy in copies)
        assert [(c.shape, c.dtype) for c in copies_like(pool, length)] == [(c.shape, c.dtype) for c in copies]
        copy_in(pool, other, copies)
        again = copy_out(pool, other, length)
        assert all(torch.equal(*pair) for pair in zip(copies, again, strict=True))
        more = random_ids(model, 1, 1, seed=4).to(model.device)
        after = [
            model(input_ids=more, past_key_values=pool.cache(one, length), use_cache=True).logits
            for one in (slot, other)
            if pool.reserve(one, length + 1, length) is None
        ]
        assert torch.equal(*after)


@pytest.fixture
def cpu_model() -> JetNemotronForCausalLM:
    return small_model(max_position_embeddings=2048).requires_grad_(False)


@pytest.fixture
def page(cpu_model: JetNemotronForCausalLM, folder: StateFolder) -> Iterator[Page]:
    page = Page(cpu_model, folder)
    yield page
    page.engine.close()


def wait_until_stored(page: Page, count: int = 1) -> None:
    store = page.states._store
    assert store is not None
    for _ in range(1000):
        if len(store._folder.files()) >= count and not store.queued and not page.states._noted:
            return
        time.sleep(0.01)
    raise AssertionError("nothing was stored")


def test_states_are_stored_while_the_page_is_idle(page: Page, folder: StateFolder) -> None:
    """Check that states are stored before the end, so that a process that is killed loses nothing."""
    page.write(list(range(1, 40)))
    wait_until_stored(page, 2)


def test_only_known_users_have_their_states_stored(page: Page, folder: StateFolder) -> None:
    for salt in ("", "a tab's own"):
        page.write(list(range(1, 40)), salt)
    page.write(list(range(1, 40)))
    wait_until_stored(page)
    assert len(list(folder.path.glob("*/*"))) == 1


def test_another_user_prefills_all_of_the_same_text(page: Page, cpu_model: JetNemotronForCausalLM) -> None:
    prompt = list(range(1, 40))
    page.write(prompt)
    wait_until_stored(page)
    assert page.write(prompt, BEN)[1].cached_tokens == 0


def test_forgotten_states_are_gone_from_memory_and_disk(page: Page, folder: StateFolder) -> None:
    prompt = list(range(1, 40))
    page.write(prompt)
    page.write(prompt, BEN)
    wait_until_stored(page, 2)
    assert isinstance(page.engine, StoresStates)
    page.engine.forget(ANN)
    assert page.write(prompt, tokens=1)[1].cached_tokens == 0
    assert page.write(prompt, BEN)[1].cached_tokens > 0
    page.write(list(range(2, 40)))
    page.engine.forget(ANN)  # before it has been stored
    page.engine.close()
    store = DiskStore(folder, state_identity(small_model(max_position_embeddings=2048)))
    assert store.find(ANN, np.arange(2, 60, dtype=np.int32)) is None
    store.close()


def test_few_snapshots_stay_in_memory_and_free_slots_take_none(cpu_model: JetNemotronForCausalLM) -> None:
    runner = ModelRunner(cpu_model, frozenset(), slots=4, tokens=4096, cache_slots=3, small_cache=True)
    prompts = [list(range(first, first + 30)) for first in range(1, 9)]
    sampling = SamplingParams(max_new_tokens=30, seed=1)
    for prompt in prompts:
        sequence = runner.allocate(sampling, 0, prompt, 100, ANN)
        runner.prefill(sequence, prompt)
        for _ in range(30):
            runner.decode([sequence])
        runner.free(sequence)
        assert runner.num_cached <= 3
    expected = [copy_out(runner._pool, slot, 59) for slot in sorted(runner._pool._pages)]
    runner._pool.release_free_slots()
    after = [copy_out(runner._pool, slot, 59) for slot in sorted(runner._pool._pages)]
    # As bytes: a shorter snapshot's copy has more of a page than was written, and that may be NaN.
    pairs = [pair for one in zip(expected, after, strict=True) for pair in zip(*one, strict=True)]
    assert all(torch.equal(here.view(torch.uint8), there.view(torch.uint8)) for here, there in pairs)
    sequence = runner.allocate(sampling, 0, prompts[-1], 100, ANN)
    assert runner.restore_prefix(sequence, [*prompts[-1], 5]) >= 30
    runner.close()


@pytest.mark.skipif(sys.platform != "linux", reason="madvise is Linux's")
def test_released_memory_is_zeros_and_no_other_memory_changes() -> None:
    stack = untouched_zeros(3, 4, 5000, dtype=torch.float32, device="cpu")
    assert not stack.any()
    stack.fill_(7)
    release_memory([stack[:, 1]])
    assert (stack[:, [0, 2, 3]] == 7).all()
    assert (stack[:, 1] == 0).float().mean() > 0.5


def test_a_damaged_state_is_prefilled_again(
    page: Page, cpu_model: JetNemotronForCausalLM, folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = list(range(1, 40))
    expected = page.write(prompt)[0]
    again = restart(page, cpu_model, folder)
    for _, _, path in folder.files():
        path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    with caplog.at_level(logging.WARNING):
        found, stats = again.write(prompt)
    assert (found, stats.cached_tokens) == (expected, 0)
    assert "prefilled again" in caplog.text
    again.engine.close()


def test_without_memory_for_a_stored_state_the_text_is_prefilled(
    page: Page, cpu_model: JetNemotronForCausalLM, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = list(range(1, 40))
    expected = page.write(prompt)[0]
    again = restart(page, cpu_model, folder)
    allocate = again.runner._pool.allocate_pages

    def full(slot: int, count: int) -> list[int]:
        monkeypatch.setattr(again.runner._pool, "allocate_pages", allocate)
        raise MemoryError("full")

    monkeypatch.setattr(again.runner._pool, "allocate_pages", full)
    found, stats = again.write(prompt)
    assert (found, stats.cached_tokens) == (expected, 0)
    free = again.runner._pool._free_slots
    assert len(free) + again.runner.num_cached == 10, "no slot is lost"
    again.engine.close()


def test_every_part_of_a_network_is_in_its_identity(cpu_model: JetNemotronForCausalLM) -> None:
    first = state_identity(cpu_model)
    assert state_identity(small_model(max_position_embeddings=2048)) == first
    assert state_identity(small_model(max_position_embeddings=2048, rms_norm_eps=1e-5)) != first
    for name, parameter in cpu_model.named_parameters():
        flat = parameter.data.view(-1)
        before, flat[-1] = flat[-1].clone(), flat[-1] + 1
        assert state_identity(cpu_model) != first, name
        flat[-1] = before
    assert state_identity(cpu_model) == first
    assert state_identity(cpu_model.bfloat16()) != first


def test_a_folder_that_cannot_be_used_is_said_and_done_without(
    cpu_model: JetNemotronForCausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    page = Page(cpu_model, StateFolder(Path(__file__), 1))
    assert "--state-dir" in caplog.text
    assert len(page.write([1, 2, 3])[0]) == 20
    page.engine.close()
