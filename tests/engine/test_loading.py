"""Test loading: default models, names, licenses and error messages."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from jet import hardware
from jet.api import Request, SamplingParams
from jet.engine import hub as hub_module
from jet.engine import loading
from jet.engine.engine import LocalEngine
from jet.engine.loading import (
    OFFICIAL_LICENSE,
    OFFICIAL_MODEL,
    STORY_MODEL,
    UNKNOWN_LICENSE,
    default_model,
    license_of,
    resolve_path,
)
from jet.engine.model_runner import ModelRunner
from jet.engine.progress import LoadProgress
from tests.conftest import ROOT
from tests.networks import GOLDEN, small_model

GPU = torch.device("cuda", 0)
SMALL = loading.LocalConfig(STORY_MODEL, "cpu", context=512, max_running_requests=2)


@pytest.fixture
def roomy_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "free_device_bytes", lambda device: 70 * 2**30)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Replace the hub by one that a test can switch on and off, with an empty cache; return its state."""
    state: dict[str, object] = {"answers": False, "asked": 0, "cache": None}

    def snapshot_download(
        repository: str, revision: str | None, local_files_only: bool, allow_patterns: list[str]
    ) -> str:
        assert local_files_only and "*.safetensors" in allow_patterns
        if state["cache"] is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not there")
        return str(state["cache"])

    class Api:
        def model_info(self, repository: str, revision: str | None, timeout: float) -> None:
            assert repository == OFFICIAL_MODEL and timeout <= 5
            state["asked"] = int(str(state["asked"])) + 1
            if not state["answers"]:
                raise ConnectionError("no route")

    monkeypatch.setattr(hub_module, "snapshot_download", snapshot_download)
    monkeypatch.setattr(hub_module, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return state


def test_a_cpu_runs_the_story_model_without_asking_the_hub(hub: dict[str, object]) -> None:
    hub["answers"] = True
    assert default_model(torch.device("cpu")) == STORY_MODEL
    assert hub["asked"] == 0


def test_a_small_gpu_runs_the_story_model(hub: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    hub["answers"] = True
    monkeypatch.setattr(hardware, "free_device_bytes", lambda device: 3 * 2**30)
    assert default_model(GPU) == STORY_MODEL


@pytest.mark.usefixtures("roomy_gpu")
def test_a_gpu_runs_the_official_model_if_the_hub_answers(hub: dict[str, object]) -> None:
    assert default_model(GPU) == STORY_MODEL
    hub["answers"] = True
    assert default_model(GPU) == OFFICIAL_MODEL


@pytest.mark.usefixtures("roomy_gpu")
def test_offline_the_hub_is_not_asked(hub: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    hub["answers"] = True
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert default_model(GPU) == STORY_MODEL
    assert hub["asked"] == 0


@pytest.mark.usefixtures("roomy_gpu")
def test_a_whole_checkpoint_in_the_cache_will_do(hub: dict[str, object]) -> None:
    hub["cache"] = GOLDEN / "tiny-2b"
    assert default_model(GPU) == OFFICIAL_MODEL
    assert hub["asked"] == 0


@pytest.mark.usefixtures("roomy_gpu")
def test_half_a_checkpoint_in_the_cache_will_not(hub: dict[str, object], tmp_path: Path) -> None:
    for file in (GOLDEN / "tiny-2b").iterdir():
        if not file.name.startswith("model-00002"):
            (tmp_path / file.name).symlink_to(file)
    hub["cache"] = tmp_path
    assert default_model(GPU) == STORY_MODEL


def test_what_comes_with_the_program_is_found_from_anywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(resolve_path("tests/golden")) == ROOT / "tests" / "golden"
    assert resolve_path("jet-ai/Jet-Nemotron-2B") == "jet-ai/Jet-Nemotron-2B"
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    assert resolve_path("tests/golden") == "tests/golden"


@pytest.mark.parametrize(
    ("card", "line"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "Apache-2.0"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n# A model", "my-own"),
        ("---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"),
        ("---\ntags: [x]\n---\n", UNKNOWN_LICENSE),
        ("no front matter", UNKNOWN_LICENSE),
        ("---\n: {broken\n---\n", UNKNOWN_LICENSE),
        (None, UNKNOWN_LICENSE),
    ],
    ids=ascii,
)
def test_the_license_is_what_the_card_says(card: str | None, line: str, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert license_of(str(tmp_path)) == line


@pytest.mark.parametrize(
    "name",
    ["jet-ai/Jet-Nemotron-2B", "jet-ai/Jet-Nemotron-4B", "/hub/models--jet-ai--Jet-Nemotron-2B/snapshots/1"],
)
def test_the_official_weights_are_under_nvidias_license(name: str) -> None:
    assert license_of(name) == OFFICIAL_LICENSE


def test_an_unknown_model_on_the_hub_has_an_unknown_license() -> None:
    assert license_of("somebody/something") == UNKNOWN_LICENSE


def test_a_large_checkpoint_stays_bfloat16_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, source = torch.device("cpu"), str(GOLDEN / "tiny-2b")
    small_model().bfloat16().save_pretrained(tmp_path)
    half, auto = str(tmp_path), loading.LocalConfig(device="cpu")
    assert loading.choose_dtype(auto, cpu, half) == torch.float32
    monkeypatch.setattr(loading, "_LARGE", 0)
    assert loading.choose_dtype(auto, cpu, half) == torch.bfloat16
    assert loading.choose_dtype(auto, cpu, source) == torch.float32, "it is float32 on disk"
    for other in ({"dtype": "float32"}, {"quantize": "int8"}):
        assert loading.choose_dtype(replace(auto, **other), cpu, half) == torch.float32
    (tmp_path / "model.safetensors").unlink()
    assert loading.choose_dtype(auto, cpu, half) == torch.float32, "loading says what is wrong with it"


@pytest.mark.parametrize(
    ("quantize", "advice"),
    [
        (None, "quantize its weights to int8 or int4, take"),
        ("int8", "to int4, take"),
        ("int4", "there, take"),
    ],
)
def test_a_model_too_large_for_its_device_is_a_message(
    quantize: str | None, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loading, "load_model", full)
    choice = loading.LocalConfig(str(GOLDEN / "tiny-2b"), device="cpu", quantize=quantize)
    with pytest.raises(hardware.HardwareError, match=rf"the memory of cpu.*{advice}.* device cpu"):
        loading.create_engine(choice)


def test_memory_that_runs_out_while_loading_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that running out of memory is not reported as a damaged checkpoint."""

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("jet.modeling.quantized_loading.quantize", full)
    with pytest.raises(hardware.HardwareError, match="does not fit into the memory"):
        loading.create_engine(loading.LocalConfig(str(GOLDEN / "tiny-2b"), device="cpu", quantize="int8"))


def test_a_quantized_official_model_fits_a_smaller_gpu(
    hub: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub["answers"] = True
    monkeypatch.setattr(hardware, "free_device_bytes", lambda device: 3 * 2**30)
    assert default_model(GPU) == STORY_MODEL
    assert default_model(GPU, "int8") == default_model(GPU, "int4") == OFFICIAL_MODEL


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_stories_are_written_with_quantized_weights(quantize: str) -> None:
    choice = loading.LocalConfig(STORY_MODEL, "cpu", context=512, max_running_requests=2, quantize=quantize)
    plain = loading.LocalConfig(STORY_MODEL, "cpu", context=512, max_running_requests=2)
    engine = loading.create_engine(choice)
    try:
        info = engine.info()
        assert info.quantization == quantize and info.parameters == 16_412_964
        assert info.footprint is not None
        request = Request("Once upon a time", SamplingParams(max_new_tokens=24, seed=3))
        chunks = list(engine.submit(request))
        assert chunks[-1].stats.finish_reason in ("length", "stop") and "".join(c.text for c in chunks)
        assert [c.text for c in engine.submit(request)][-1] is not None
    finally:
        engine.close()
    whole = loading.create_engine(plain)
    whole.close()
    before = whole.info().footprint
    assert before is not None and before.recurrent == info.footprint.recurrent
    assert info.footprint.weights < before.weights * (0.52 if quantize == "int8" else 0.34)


def test_until_the_first_words_can_be_written_it_is_said_and_then_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress, said, warming = LoadProgress(), list[str](), list[str | None]()
    warm_up = LocalEngine.warm_up

    def warmed(engine: LocalEngine, request: Request) -> None:
        warming.append(progress.said)
        warm_up(engine, request)

    monkeypatch.setattr(loading, "LOADING", progress)
    monkeypatch.setattr(LocalEngine, "warm_up", warmed)
    progress.listen(said.append)
    loading.create_engine(SMALL).close()
    assert said == warming == ["Preparing to write"] and progress.said is None
    monkeypatch.setattr(loading, "make_runner", no_memory)
    with pytest.raises(hardware.HardwareError):
        loading.create_engine(SMALL)
    assert progress.said is None


def no_memory(*given: object) -> None:
    raise hardware.HardwareError("There is no memory.")


def test_what_only_later_steps_need_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that only the device thread captures, while the engine is idle, and not the loading thread."""
    preparing: list[str] = []
    monkeypatch.setattr(
        ModelRunner, "capture_next", lambda runner: preparing.append(threading.current_thread().name)
    )
    loading.create_engine(SMALL).close()
    assert set(preparing) <= {"jet-device"}


@pytest.mark.parametrize(
    "error", [MemoryError("Cannot allocate memory"), RuntimeError("[enforce fail] can't allocate memory: 9")]
)
def test_a_cpu_without_memory_for_a_model_is_a_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test the errors that safetensors and torch raise if memory cannot be allocated."""

    def full(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("jet.modeling.tensor_reader.TensorReader.whole", full)
    monkeypatch.setattr("jet.modeling.loading.LARGE", 0)
    with pytest.raises(hardware.HardwareError, match="does not fit into the memory of cpu"):
        SMALL.create()
