"""Compare the catalog's sizes and speeds with real networks, and test its suggestions for machines."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from jet import hardware
from jet.engine import catalog as catalog_module
from jet.engine import partial_download
from jet.engine.catalog import Catalog, Machine, measure_sizes, read_checkpoint
from jet.engine.loading import OFFICIAL_LICENSE, STORY_MODEL, LocalConfig
from jet.engine.official_models import OFFICIAL_2B, OFFICIAL_4B, official_config
from jet.engine.quantized_cache import make
from jet.modeling import CheckpointError, load_model
from jet.modeling.footprint import measure_footprint, total_weight_bytes
from jet.ops.quantization import SCHEMES
from tests.conftest import ROOT
from tests.engine.small_checkpoint import save_small_checkpoint
from tests.networks import GOLDEN


class Box(Machine):
    """A machine with given memory and bandwidth."""

    def __init__(self, memory: float, rate: float | None) -> None:
        super().__init__(torch.device("cpu"))
        self._memory, self._rate = int(memory), rate

    def available_bytes(self) -> int:
        return self._memory

    def total_bytes(self) -> int:
        return self._memory

    def bandwidth(self, weights: int) -> float | None:
        return self._rate


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JET_CACHE_DIR", str(tmp_path / "jet"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def catalog(memory: float = 16e9, rate: float | None = 30e9, **base: str) -> Catalog:
    return Catalog(LocalConfig(device="cpu", **base), Box(memory, rate))


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_sizes_are_those_of_the_loaded_network(scheme: str | None) -> None:
    folder = GOLDEN / "tiny-2b"
    model = load_model(folder, "cpu", torch.float32, quantize=scheme)
    sizes = catalog().measure(folder, scheme)
    assert sizes.weights == total_weight_bytes(model)
    assert sizes.footprint == measure_footprint(model)
    assert sizes.memory > sizes.weights + 4 * sizes.footprint.recurrent


def test_the_published_shapes() -> None:
    two, four = (
        measure_sizes(official_config(name), torch.bfloat16, None) for name in (OFFICIAL_2B, OFFICIAL_4B)
    )
    assert (two.parameters, four.parameters) == (1_964_806_208, 3_960_424_768)
    assert two.footprint.recurrent == 27 * 2**20 and four.footprint.recurrent == 52 * 2**20
    assert (two.footprint.window, four.footprint.window) == (1151, 2047)
    assert (two.footprint.full_token, four.footprint.full_token) == (2 * 2**10, 3 * 2**10)
    assert measure_sizes(official_config(OFFICIAL_2B), torch.float32, "int4").weights < 1.16e9


def test_sizes_are_the_same_whoever_else_asks() -> None:
    config = official_config(OFFICIAL_2B)
    kinds = [(dtype, scheme) for dtype in (torch.bfloat16, torch.float32) for scheme in (None, "int4")]
    expected = [measure_sizes(config, *kind) for kind in kinds]
    found = []

    def ask() -> None:
        found.append([catalog_module._measure_alone(config, *kind) for kind in kinds])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    assert torch.get_default_dtype() == torch.float32


def test_the_list() -> None:
    forms = {form.id: form for form in catalog().forms()}
    kinds = ("int4", "int8", "stored")
    assert list(forms) == [
        f"{STORY_MODEL}:stored",
        *(f"{name}:{kind}" for name in (OFFICIAL_2B, OFFICIAL_4B) for kind in kinds),
    ]
    story, int4, plain = (forms[id] for id in (*[*forms][:2], f"{OFFICIAL_2B}:stored"))
    assert (story.download_bytes, story.disk_bytes, story.dtype) == (0, 0, "float32")
    assert (int4.dtype, plain.dtype) == ("int4", "bfloat16")
    assert 3.92e9 < int4.download_bytes == plain.download_bytes < 3.94e9
    assert int4.disk_bytes == int4.sizes.weights and plain.disk_bytes == 0
    assert int4.checkpoint.license == OFFICIAL_LICENSE and story.checkpoint.license == "Apache-2.0"
    # Three quarters of the bandwidth, over the bytes of a token.
    assert int4.tokens_per_second == pytest.approx(0.75 * 30e9 / int4.sizes.footprint.decode(512, 2).total)
    assert all(form.checkpoint.purpose and form.checkpoint.title for form in forms.values())


def test_what_does_not_fit_says_so() -> None:
    problems = {form.id: form.problem for form in catalog(memory=2e9).forms()}
    assert problems[f"{OFFICIAL_2B}:int4"] == ""
    assert problems[f"{OFFICIAL_2B}:stored"] == ("It takes 4.4 GB of memory, and this machine has 2.0 GB.")


@pytest.mark.parametrize(
    ("memory", "rate", "scheme"),
    [
        (16e9, 12e9, None),  # 7 tok/s in int4
        (16e9, 15e9, "int4"),
        (16e9, 30e9, "int8"),
        (16e9, 300e9, "int8"),
        (2e9, 300e9, "int4"),  # int8 does not fit
        (1e9, 300e9, None),
        (16e9, None, None),
    ],
)
def test_the_2b_is_suggested_where_it_fits_and_is_quick_enough(
    memory: float, rate: float | None, scheme: str | None
) -> None:
    form = catalog(memory, rate).suggestion(STORY_MODEL)
    assert (form and (form.checkpoint.name, form.scheme)) == (scheme and (OFFICIAL_2B, scheme))


def test_it_is_not_suggested_to_whoever_has_it_or_a_larger_one() -> None:
    assert catalog().suggestion(OFFICIAL_2B) is None
    assert catalog().suggestion(str(ROOT / STORY_MODEL)) is not None


def test_the_configuration_of_a_form_keeps_device_and_limits() -> None:
    base = LocalConfig(None, "cpu", "float32", context=512, max_running_requests=2, revision="v1")
    made = Catalog(base, Box(16e9, 30e9))
    config = made.config_of(made.find(f"{OFFICIAL_2B}:int8"))
    assert config == LocalConfig(OFFICIAL_2B, "cpu", context=512, max_running_requests=2, quantize="int8")
    mine = Catalog(LocalConfig(OFFICIAL_2B, "cpu", quantize="int4", revision="v1"), Box(16e9, 30e9))
    assert mine.config_of(mine.find(f"{OFFICIAL_2B}:int4")) == mine.base


def test_a_folder_can_be_added(tmp_path: Path) -> None:
    folder = save_small_checkpoint(tmp_path / "mine")
    made = catalog()
    made.add_folder(f" {folder} ")
    made.add_folder(str(folder))
    forms = [form for form in made.forms() if form.checkpoint.name == str(folder)]
    assert [form.scheme for form in forms] == ["int4", "int8", None]
    assert all(form.download_bytes == 0 and form.checkpoint.title == "mine" for form in forms)
    copy = make(str(folder), folder, "int8")
    assert made.find(f"{folder}:int8").kept_bytes > 0 and made.find(f"{folder}:int8").disk_bytes == 0
    made.add_folder(str(copy))
    (quantized,) = [form for form in made.forms() if form.checkpoint.name == str(copy)]
    assert (quantized.scheme, quantized.dtype) == (None, "int8")
    assert quantized.sizes == made.find(f"{folder}:int8").sizes


@pytest.mark.parametrize(
    ("path", "words"),
    [("models/mine", "whole path"), ("/nowhere/at/all", "does not exist"), ("", "whole path")],
)
def test_a_folder_that_is_none(path: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        catalog().add_folder(path)


def test_a_folder_without_a_whole_checkpoint(tmp_path: Path) -> None:
    for name, words in (("config.json", "no config.json"), ("model.safetensors", "safetensors")):
        folder = save_small_checkpoint(tmp_path / f"without-{name}")
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=words):
            catalog().add_folder(str(folder))


def test_what_a_broken_download_has_brought_is_not_fetched_again() -> None:
    whole = read_checkpoint(OFFICIAL_2B).file_bytes
    blobs = partial_download.blobs_folder(OFFICIAL_2B)
    blobs.mkdir(parents=True)
    (blobs / f"{'a' * 64}{partial_download.PARTIAL}").write_bytes(bytes(10_000_000))
    assert read_checkpoint(OFFICIAL_2B).fetched_bytes == 10_000_000
    form = catalog().find(f"{OFFICIAL_2B}:stored")
    assert form.download_bytes == whole - 10_000_000


def test_a_checkpoint_that_vanishes_leaves_the_list(tmp_path: Path) -> None:
    folder = save_small_checkpoint(tmp_path / "mine")
    made = catalog()
    made.add_folder(str(folder))
    shutil.rmtree(folder)
    assert not [form for form in made.forms() if form.checkpoint.name == str(folder)]
    with pytest.raises(CheckpointError, match="not in the list"):
        made.find(f"{folder}:int4")


def test_the_fastest_of_a_few_measurements_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([10e9, 30e9, 20e9, 5e9, 5e9])
    monkeypatch.setattr("jet.engine.loading.measure_bandwidth", lambda *_: next(rates))
    machine = Machine(torch.device("cpu"))
    assert machine.bandwidth(10**9) is None
    for _ in range(8):
        machine.measure(10**9)
    assert machine.bandwidth(10**9) == 30e9
    assert machine.bandwidth(10**6) is None, "a small network is read from a cache"


def test_memory_within_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = hardware.available_memory(tmp_path)
    assert free > 10**8
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("90000000\n")
    assert hardware.available_memory(tmp_path) == 10_000_000
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 30000000\nactive_file 20000000\n")
    assert hardware.available_memory(tmp_path) == 60_000_000
