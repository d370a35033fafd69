"""Test changes of the model: download, quantization, loading, and the old model again after any failure."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from jet.engine import hub as hub_module
from jet.engine import quantized_cache
from jet.engine.catalog import Catalog, Machine
from jet.engine.holder import ModelHolder
from jet.engine.loading import STORY_MODEL, LocalConfig
from jet.engine.model_switch import ModelSwitch, SwitchState
from jet.engine.official_models import OFFICIAL_2B
from jet.hardware import HardwareError
from jet.modeling import CheckpointError, load_model
from tests.engine.fakes import FakeRunner, ask, make_engine
from tests.engine.garbage import only_own_garbage
from tests.engine.hub_server import HubServer, hub_server
from tests.engine.small_checkpoint import save_small_checkpoint

__all__ = ["only_own_garbage"]

BASE = LocalConfig(STORY_MODEL, "cpu", context=512, max_running_requests=2)
INT4 = f"{OFFICIAL_2B}:int4"


class SmallMachine(Machine):
    """A machine whose memory a test sets."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.available, self.total, self.rate = 16 * 10**9, 16 * 10**9, 30e9

    def available_bytes(self) -> int:
        return self.available

    def total_bytes(self) -> int:
        return self.total

    def bandwidth(self, weights: int) -> float | None:
        return self.rate


class Setup:
    """A switch over fake engines, real checkpoints and a hub.

    Attributes:
        loaded: the configurations in the order of loading.
        failure: exception that the next load raises, unless it loads the base model.
        during: called before each load.
    """

    def __init__(self, server: HubServer) -> None:
        self.server = server
        self.machine = SmallMachine()
        self.loaded: list[LocalConfig] = []
        self.failure: BaseException | None = None
        self.during: Callable[[], object] = lambda: None
        self.handle = ModelHolder(self._create).handle(BASE)  # type: ignore[arg-type]
        self.switch = ModelSwitch(self.handle, Catalog(BASE, self.machine, (STORY_MODEL, OFFICIAL_2B)))
        self.handle.engine()

    def _create(self, config: LocalConfig) -> object:
        self.loaded.append(config)
        self.during()
        if self.failure is not None and config != BASE:
            failure, self.failure = self.failure, None
            raise failure
        return make_engine(FakeRunner())

    def wait(self, *stages: str) -> SwitchState:
        """Wait up to 20 seconds until the switch is in one of these stages; return its state."""
        until = time.monotonic() + 20
        while (state := self.switch.state()).stage not in stages:
            assert time.monotonic() < until, state
            time.sleep(0.002)
        return state

    def end(self) -> SwitchState:
        """Wait until the change is done, failed or canceled; return the switch's state."""
        return self.wait("done", "failed", "canceled")

    def expect_old(self) -> None:
        """Expect that the previous model still generates and is named."""
        assert self.handle.config == BASE and self.handle.engine().alive
        assert list(ask(self.handle.engine(), "x"))[-1].stats.finish_reason  # type: ignore[arg-type]
        assert "Story model is still here" in self.switch.state().message
        assert self.switch.current() == f"{STORY_MODEL}:stored"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_checkpoint(tmp_path_factory.mktemp("small"))


@pytest.fixture
def setup(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    folder = tmp_path / "repository"
    shutil.copytree(checkpoint, folder)
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path / "jet"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda s: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda s: None)
    with hub_server(folder, OFFICIAL_2B) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        made = Setup(server)
        yield made
        server.cut, server.held = True, None
        made.switch.close()
        made.handle.holder.close()


def sent_files(server: HubServer) -> list[str]:
    calls = [call for call in server.asked if call.startswith("GET") and "/resolve/" in call]
    return sorted(call.rpartition("/")[2] for call in calls)


def test_a_model_is_downloaded_quantized_and_loaded_once(setup: Setup) -> None:
    setup.server.held = 300_000
    setup.switch.choose(INT4)
    state = setup.wait("downloading")
    while setup.switch.state().done < 200_000:
        time.sleep(0.002)
    state = setup.switch.state()
    size = len(setup.server.files["model.safetensors"])
    assert state.active and state.can_cancel and state.title == "Jet-Nemotron 2B in int4"
    assert size < state.total < size + 10**6 and state.done <= 340_000
    assert setup.handle.config == BASE, "the old one writes meanwhile"
    setup.server.held = None
    state = setup.end()
    assert (state.stage, state.message) == ("done", "Jet-Nemotron 2B in int4 writes from now on.")
    config = LocalConfig(OFFICIAL_2B, "cpu", context=512, max_running_requests=2, quantize="int4")
    assert setup.handle.config == config and setup.loaded == [BASE, config]
    assert setup.switch.current() == INT4

    setup.server.asked.clear()
    setup.switch.choose(f"{STORY_MODEL}:stored")
    assert setup.end().stage == "done" and setup.handle.config == BASE
    form = setup.switch.catalog.find(INT4)
    assert form.download_bytes == form.disk_bytes == 0 < form.kept_bytes
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"
    assert sent_files(setup.server) == []


@pytest.mark.thorough
def test_what_is_kept_is_what_quantizing_gives(setup: Setup, checkpoint: Path) -> None:
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"
    folder = hub_module.cached_folder(OFFICIAL_2B)
    assert folder is not None
    kept = quantized_cache.find(OFFICIAL_2B, folder, "int4")
    assert kept is not None
    ids = torch.tensor([[5, 6, 7]])
    at_once = load_model(checkpoint, quantize="int4")(ids).logits
    assert torch.equal(load_model(kept, quantize="int4")(ids).logits, at_once)


def test_a_canceled_download_goes_on_from_there(setup: Setup) -> None:
    setup.server.held = 300_000
    setup.switch.choose(INT4)
    while setup.switch.state().done < 200_000:
        time.sleep(0.002)
    setup.switch.cancel()
    state = setup.switch.state()
    assert state.stage == "canceled" and "What has come is kept" in state.message
    setup.expect_old()
    form = setup.switch.catalog.find(INT4)
    assert 0 < form.checkpoint.fetched_bytes <= 340_000
    setup.server.held = None
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"
    (wanted,) = setup.server.ranges
    assert int(wanted.removeprefix("bytes=").rstrip("-")) >= 200_000, "not all of it came again"


@pytest.mark.thorough
def test_a_canceled_quantization_leaves_nothing(setup: Setup, tmp_path: Path) -> None:
    gate = threading.Event()

    def quantize(*arguments: object, **options: object) -> object:
        assert gate.wait(10)
        return original(*arguments, **options)  # type: ignore[arg-type]

    original = quantized_cache.write_quantized
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantized_cache, "write_quantized", quantize)
        setup.switch.choose(INT4)
        setup.wait("quantizing")
        setup.switch.cancel()
        gate.set()
        setup.expect_old()
        setup.switch.choose(INT4)  # waits for what was canceled
        assert setup.end().stage == "done"
    assert len([one for one in (tmp_path / "jet/models").iterdir() if one.is_dir()]) == 1


def test_the_network_is_cut(setup: Setup) -> None:
    setup.server.held = 300_000
    setup.switch.choose(INT4)
    while setup.switch.state().done < 200_000:
        time.sleep(0.002)
    setup.server.cut = True
    state = setup.end()
    assert state.stage == "failed"
    assert "The hub cannot be reached for jet-ai/Jet-Nemotron-2B" in state.message
    assert "What has come is kept: start again to go on from there" in state.message
    setup.expect_old()
    setup.server.cut, setup.server.held = False, None
    setup.switch.choose(INT4)
    assert setup.end().stage == "done" and setup.server.ranges


@pytest.mark.thorough
def test_a_silent_network_is_said_and_canceled_at_once(setup: Setup) -> None:
    times = [0.0]
    setup.switch._clock = lambda: times[0]
    setup.server.held = 300_000
    setup.switch.choose(INT4)
    while setup.switch.state().done < 200_000:
        time.sleep(0.002)
    assert not setup.switch.state().stalled
    times[0] = 6.0
    assert setup.switch.state().stalled
    setup.switch.cancel()
    assert setup.switch.state().stage == "canceled" and not setup.switch.state().stalled


def test_a_full_disk_is_seen_before_anything_comes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 100))
    setup.switch.choose(INT4)
    state = setup.end()
    assert state.stage == "failed" and "make room there, or set HF_HOME" in state.message
    assert "GB for its quantized form" in state.message
    setup.expect_old()
    assert "model.safetensors" not in sent_files(setup.server)


def test_the_disk_becomes_full_while_it_is_quantized(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("jet.modeling.tensor_writer.TensorWriter.write", fail)
        setup.switch.choose(INT4)
        state = setup.end()
    assert "The disk became full while jet-ai/Jet-Nemotron-2B was quantized to int4" in state.message
    assert "JET_CACHE_DIR" in state.message
    setup.expect_old()
    assert not [one for one in (tmp_path / "jet/models").iterdir() if one.is_dir()]
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"


def test_too_little_memory_is_seen_before_anything_comes(setup: Setup) -> None:
    setup.machine.available = 10**9
    setup.switch.choose(INT4)
    state = setup.end()
    assert state.stage == "failed"
    assert (
        "Jet-Nemotron 2B in int4 takes 1.7 GB of memory, and 1.0 GB are free: close other programs"
        in state.message
    )
    setup.expect_old()
    assert setup.server.asked == [] and setup.loaded == [BASE]


def test_memory_is_taken_away_during_the_download(setup: Setup) -> None:
    setup.server.held = 300_000
    setup.switch.choose(INT4)
    while setup.switch.state().done < 200_000:
        time.sleep(0.002)
    setup.machine.available = 1000
    setup.server.held = None
    state = setup.end()
    assert state.stage == "failed" and "of memory, and 0 MB are free" in state.message
    setup.expect_old()


@pytest.mark.parametrize("failure", [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."),
    HardwareError("There is no memory on cpu for stories of 4,096 tokens: close what else runs there."),
    CheckpointError("config.json cannot be read as JSON."),
    ValueError("<b>anything</b>"),
])  # fmt: skip
def test_a_model_that_cannot_be_loaded(setup: Setup, failure: Exception) -> None:
    setup.failure = failure
    setup.switch.choose(INT4)
    state = setup.end()
    assert state.stage == "failed" and state.message.startswith(
        "Jet-Nemotron 2B in int4 could not be loaded. "
    )
    wanted = "not enough memory" if "memory" in f"{type(failure)}{failure}".lower() else str(failure)
    if isinstance(failure, HardwareError):
        wanted = "close what else runs there"
    assert wanted.rstrip(".") in state.message
    setup.expect_old()
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"


@pytest.mark.thorough
def test_a_checkpoint_that_is_damaged_on_the_hub(setup: Setup) -> None:
    file = setup.server.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:200_000])
    setup.switch.choose(INT4)
    state = setup.end()
    assert state.stage == "failed" and "model.safetensors" in state.message
    setup.expect_old()


def test_without_room_for_both_the_old_model_is_closed_first_and_loaded_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.switch, "_held_bytes", lambda: 2 * 10**9)
    setup.machine.available = 1000
    alive: list[bool] = []
    first = setup.handle.engine()
    setup.during = lambda: alive.append(first.alive)
    setup.failure = MemoryError()
    setup.switch.choose(INT4)
    assert setup.end().stage == "failed"
    assert alive == [False, False] and len(setup.loaded) == 3, "the other, and then the old one again"
    setup.expect_old()
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"


def test_sixteen_bits_are_not_loaded_beside_a_running_engine(setup: Setup) -> None:
    alive: list[bool] = []
    first = setup.handle.engine()
    setup.during = lambda: alive.append(first.alive)
    find = setup.switch.catalog.find
    beside = [setup.switch._require_memory(find(f"{OFFICIAL_2B}:{kind}")) for kind in ("int4", "stored")]
    assert beside == [True, False], "loading would make them the type of the running engine, too"


def test_what_cannot_be_chosen(setup: Setup) -> None:
    with pytest.raises(CheckpointError, match="not in the list"):
        setup.switch.choose("somebody/else:int4")
    with pytest.raises(CheckpointError, match="Story model runs already"):
        setup.switch.choose(f"{STORY_MODEL}:stored")
    setup.server.held = 100_000
    setup.switch.choose(INT4)
    with pytest.raises(CheckpointError, match=r"int4 is still being prepared: cancel that first"):
        setup.switch.choose(f"{OFFICIAL_2B}:int8")
    with pytest.raises(CheckpointError, match="in use"):
        setup.switch.remove_copy(INT4)
    setup.switch.cancel()
    setup.switch.cancel()
    assert setup.switch.state().stage == "canceled"


def test_a_copy_can_be_removed_unless_it_runs(setup: Setup) -> None:
    setup.switch.choose(INT4)
    assert setup.end().stage == "done"
    with pytest.raises(CheckpointError, match="in use"):
        setup.switch.remove_copy(INT4)
    setup.switch.choose(f"{STORY_MODEL}:stored")
    assert setup.end().stage == "done"
    assert setup.switch.remove_copy(INT4) > 100_000
    assert setup.switch.catalog.find(INT4).kept_bytes == 0
    assert quantized_cache.remove(OFFICIAL_2B, "int4") == 0


def test_an_older_copy_goes_when_the_checkpoint_changes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path / "jet"))
    folder = tmp_path / "mine"
    shutil.copytree(checkpoint, folder)
    first = quantized_cache.make(str(folder), folder, "int8")
    assert quantized_cache.make(str(folder), folder, "int8") == first
    other = quantized_cache.make(str(folder), folder, "int4")
    save_small_checkpoint(folder, seed=1)
    assert quantized_cache.find(str(folder), folder, "int8") is None
    stale = first.with_name(f"{first.name}-cut0ff")
    stale.mkdir()
    second = quantized_cache.make(str(folder), folder, "int8")
    assert second != first and not first.exists() and not stale.exists() and other.exists()
    namesake = tmp_path / "other" / "mine"
    shutil.copytree(checkpoint, namesake)
    quantized_cache.make(str(namesake), namesake, "int8")
    assert second.exists(), "another folder of this name has copies of its own"
